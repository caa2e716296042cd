"""Bodies become rows without a byte of them being written anew; what is no body is refused with a status."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dovetail.api.bodies import ARROW, JSON, NDJSON, BadBody, rows_of_body, wants_arrow
from dovetail.platform.rows import wire
from dovetail.platform.rows.schema import parse_statements, parse_table

SCHEMA = parse_table(
    parse_statements(Path("t.sql"), "CREATE TABLE t (a VARCHAR NOT NULL, n BIGINT, d DECIMAL(18,2))")[0], Path("t.sql")
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)  # fmt: skip


def rows(kind: str, body: bytes, most: int = 100) -> list[bytes]:
    return list(rows_of_body(kind, body, SCHEMA, most))


@given(st.lists(st.dictionaries(st.text(), VALUES), min_size=1, max_size=5), st.sampled_from([None, 1]))
def test_an_array_is_its_rows_and_lines_are_too(objects: list[dict[str, Any]], indent: int | None) -> None:
    written = [json.dumps(each, indent=indent).encode() for each in objects]
    assert rows(JSON, b" [" + b" ,\n".join(written) + b"] ") == written
    lines = [json.dumps(each).encode() for each in objects]
    assert rows(NDJSON, b"\n\n".join(lines) + b"\r\n") == lines
    assert rows(f"{JSON}; charset=utf-8", b"\n" + written[0] + b"\t") == written[:1]


def test_digits_stay_as_they_are() -> None:
    row = b'{"a":"x","d":1234567890123456.78,"n":9007199254740993}'
    (kept,) = rows(JSON, b"[" + row + b"]")
    assert kept == row


def test_arrow_rows_are_streams_of_one_row() -> None:
    table = pa.table({"a": ["x", "y"], "n": pa.array([1, None], pa.int32())})
    sent = rows(ARROW, wire.encode(table))
    read = [wire.rows_of(value) for value in sent]
    assert [one.to_pylist() for one in read if one is not None] == [[{"a": "x", "n": 1}], [{"a": "y", "n": None}]]


@pytest.mark.parametrize(
    ("kind", "body", "status", "reason"),
    [
        ("text/csv", b"a\nx", 415, "Content-Type 'text/csv' is not taken"),
        ("multipart/form-data; boundary=x", b"", 415, "multipart/form-data"),
        (JSON, b"", 400, "empty"),
        (JSON, b" \n", 400, "empty"),
        (JSON, b"[]", 400, "no rows"),
        (NDJSON, b"\n \n", 400, "no rows"),
        (JSON, b"[{}", 400, "a comma or ] is missing"),
        (JSON, b"[{},", 400, "not valid JSON"),
        (JSON, b"[{} {}]", 400, "a comma or ] is missing"),
        (JSON, b"[{}] {}", 400, "something follows the array"),
        (JSON, b'[{"a":', 400, "not valid JSON"),
        (JSON, b"\xff", 400, "not UTF-8"),
        (JSON, b'\xef\xbb\xbf[{"a":"x"}]', 400, "begins with a byte order mark"),
        (NDJSON, b'\xef\xbb\xbf{"a":"x"}\n', 400, "write UTF-8 without one"),
        (JSON, b"[" + b"[" * 100_000, 400, "not valid JSON"),
        (JSON, b"[" + b",".join([b"{}"] * 101) + b"]", 413, "101 rows, 100 are taken"),
        (NDJSON, b"{}\n" * 101, 413, "101 rows, 100 are taken"),
        (ARROW, b"nothing", 400, "Arrow IPC stream"),
        (ARROW, wire.encode(pa.table({"a": ["x"] * 101})), 413, "101 rows, 100 are taken"),
        (ARROW, wire.encode(pa.table({"a": ["x"]}))[:-20], 400, "Arrow IPC stream"),
        (ARROW, wire.encode(pa.table({"n": [{"a": 1}]})), 400, "n"),
    ],
)
def test_what_cannot_be_read_is_refused(kind: str, body: bytes, status: int, reason: str) -> None:
    with pytest.raises(BadBody) as refused:
        rows(kind, body)
    assert refused.value.status == status
    assert reason in str(refused.value)


@pytest.mark.parametrize(
    ("accept", "wanted"),
    [
        (ARROW, True),
        (f"{JSON}, {ARROW}", True),
        (f"{ARROW};q=0.5, {JSON};q=0.4", True),
        (f"{ARROW}; q=0.001", True),
        (f"{ARROW.upper()} ; Q=1.000", True),
        (f"{ARROW}, */*;q=0.1", True),
        (f"{ARROW};q=0", False),
        (f"{ARROW};q=0.000, {JSON}", False),
        (f"{ARROW};q=0.4, {JSON}", False),
        (f"{ARROW};q=0.4, */*", False),
        ("*/*", False),
        ("application/*", False),
        ("", False),
        (f"x{ARROW}", False),
    ],
)
def test_arrow_is_answered_where_it_is_asked_for(accept: str, wanted: bool) -> None:
    assert wants_arrow(accept) == wanted
