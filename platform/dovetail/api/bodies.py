"""Bodies of calls as rows, each in the bytes that are sent on as a message."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Sequence

from dovetail.platform.rows import wire
from dovetail.platform.rows.arrow_streams import RefusedStreamError, read_stream
from dovetail.platform.rows.json_lines import BYTE_ORDER_MARK
from dovetail.platform.rows.schema import TableSchema

__all__ = ["ARROW", "JSON", "NDJSON", "BadBody", "rows_of_body", "wants_arrow"]

JSON, NDJSON, ARROW = "application/json", "application/x-ndjson", "application/vnd.apache.arrow.stream"
_NDJSON_NAMES = (NDJSON, "application/ndjson", "application/jsonl", "application/jsonlines")
_QUALITY = re.compile(r"0(\.[0-9]{0,3})?|1(\.0{0,3})?")
_SPACE = " \t\r\n"


class BadBody(Exception):
    """A body that cannot be read as rows; ``status`` is the HTTP status that says so."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


def rows_of_body(content_type: str, body: bytes, schema: TableSchema, max_rows: int) -> Sequence[bytes]:
    """The messages of the rows in ``body``, in its order: JSON objects as they stand, Arrow rows one stream each.

    JSON is one object or an array of objects; a number keeps all its digits, for no text is written anew. Whether a row
    is as declared is not looked at here.

    Raises:
        BadBody: the type is none of these (415), there are more than ``max_rows`` (413), or it cannot be read (400).
    """
    kind = content_type.partition(";")[0].strip().lower() or JSON
    if body.startswith(codecs.BOM_UTF8) and kind in (JSON, *_NDJSON_NAMES):
        raise BadBody(400, f"the body cannot be read: {BYTE_ORDER_MARK}")
    if kind == JSON:
        rows = _json_rows(body, max_rows)
    elif kind in _NDJSON_NAMES:
        rows = [line for line in body.splitlines() if line.strip()]
    elif kind == ARROW:
        rows = _arrow_rows(body, schema, max_rows)
    else:
        raise BadBody(415, f"Content-Type {kind!r} is not taken; send {JSON}, {NDJSON} or {ARROW}")
    if not rows:
        raise BadBody(400, "the body has no rows")
    if len(rows) > max_rows:
        raise BadBody(413, f"{len(rows)} rows, {max_rows} are taken at a time ([api] max_rows): send them in parts")
    return rows


def wants_arrow(accept: str) -> bool:
    """Whether a header ``Accept`` asks for Arrow: by name, and no less than for JSON; ``q=0`` refuses."""
    quality: dict[str, float] = {}
    for each in accept.split(","):
        kind, *parameters = (part.strip().lower() for part in each.split(";"))
        said = [value for name, _, value in (one.partition("=") for one in parameters) if name.strip() == "q"]
        quality[kind] = _quality(said[0].strip()) if said else 1.0
    json_quality = next((quality[kind] for kind in (JSON, "application/*", "*/*") if kind in quality), 0.0)
    return 0.0 < quality.get(ARROW, 0.0) >= json_quality


def _quality(said: str) -> float:
    """A weight of RFC 9110: 0 to 1 with at most three digits behind the point; anything else counts as 1."""
    return float(said) if _QUALITY.fullmatch(said) else 1.0


def _json_rows(body: bytes, max_rows: int) -> list[bytes]:
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise BadBody(400, f"the body is not UTF-8: {error}") from error
    at = _skipped(text, 0)
    if at == len(text):
        raise BadBody(400, "the body is empty")
    if text[at] != "[":
        return [text.strip(_SPACE).encode()]
    rows: list[bytes] = []
    at = _skipped(text, at + 1)
    while text[at : at + 1] != "]":
        if len(rows) > max_rows:
            raise BadBody(413, f"more than {max_rows} rows ([api] max_rows): send them in parts")
        end = _end_of_value(text, at)
        rows.append(text[at:end].encode())
        at = _skipped(text, end)
        if text[at : at + 1] == ",":
            at = _skipped(text, at + 1)
        elif text[at : at + 1] != "]":
            raise BadBody(400, f"not valid JSON: a comma or ] is missing at character {at}")
    if _skipped(text, at + 1) != len(text):
        raise BadBody(400, f"not valid JSON: something follows the array at character {at + 1}")
    return rows


_decoder = json.JSONDecoder()


def _end_of_value(text: str, at: int) -> int:
    try:
        return _decoder.raw_decode(text, at)[1]
    except (ValueError, RecursionError) as error:
        raise BadBody(400, f"not valid JSON: {error}") from error


def _skipped(text: str, at: int) -> int:
    while at < len(text) and text[at] in _SPACE:
        at += 1
    return at


def _arrow_rows(body: bytes, schema: TableSchema, max_rows: int) -> list[bytes]:
    try:
        _, table = read_stream(body, schema)
    except RefusedStreamError as error:
        raise BadBody(400, str(error)) from error
    if table.num_rows > max_rows:
        raise BadBody(
            413, f"{table.num_rows} rows, {max_rows} are taken at a time ([api] max_rows): send them in parts"
        )
    return [wire.encode(table.slice(row, 1)) for row in range(table.num_rows)]
