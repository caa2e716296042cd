"""Bytes to rows and back.

From outside a message is one JSON object, or an Arrow IPC stream of many rows; inside Dovetail it is always Arrow.
A whole poll is decoded at once. Only when that fails are its messages looked at one by one, to tell good from bad;
a bad one becomes a dead letter with the reason and the position it came from, and the good ones go on.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from dovetail.platform.errors import WireError
from dovetail.platform.rows import json_lines
from dovetail.platform.rows.arrow_streams import RefusedStreamError, read_stream, row_count
from dovetail.platform.rows.conversion import conform
from dovetail.platform.rows.halving import halved, one_by_one
from dovetail.platform.rows.positions import OWN_COLUMNS, with_own_positions
from dovetail.platform.rows.schema import TableSchema
from dovetail.platform.stage import Outgoing, Poll

__all__ = [
    "LEFT_OUT_HEADER",
    "REASON_HEADER",
    "DeadLetter",
    "Decoded",
    "LetterHead",
    "concat",
    "decode",
    "decode_arrow",
    "encode",
    "encode_json",
    "letter_of",
    "letters_to_outgoing",
    "message_headers",
    "row_letters",
    "rows_of",
]

#: Headers of a dead letter: why it is one; and how many bytes it had, when its value was too large to go along.
REASON_HEADER = "dovetail-reason"
LEFT_OUT_HEADER = "dovetail-left-out"
_LETTER_HEADERS = {REASON_HEADER, "dovetail-source", "dovetail-stage", "dovetail-rows", "dovetail-sent"}

#: An Arrow IPC stream starts with this continuation marker; no JSON text does.
_ARROW_MARKER = b"\xff\xff\xff\xff"
_BRACE, _END_BRACE = b"{}"
# One thread: a message is small, and handing its columns to a pool costs five times what encoding them does.
_WRITE = pa.ipc.IpcWriteOptions(compression="lz4", use_threads=False)
_READ = pa.ipc.IpcReadOptions(use_threads=False)
# Made once: json.dumps() makes another encoder for each row.
_JSON = json.JSONEncoder(separators=(",", ":")).encode
# A reason may quote what it found, which may be megabytes; a broker bounds headers with the message.
_MAX_REASON_BYTES = 2_000

#: Rows of some messages of a poll, with the index of its message for each (int64).
_Part = tuple[pa.Table, npt.NDArray[np.int64]]
_Refuse = Callable[..., None]


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A message that could not be used. ``rows`` is what it counts as in the accounts: 1, or its Arrow row count."""

    offset: int
    reason: str
    rows: int
    value: bytes | None = field(repr=False)


class LetterHead(NamedTuple):
    """The stage that could not use a message, the message's position, and the reason.

    ``sent_ms`` is the message's timestamp as it came, in milliseconds: any int64.
    """

    stage: str
    topic: str
    partition: int
    offset: int
    rows: int
    sent_ms: int
    reason: str


@dataclass(frozen=True, slots=True)
class Decoded:
    """A poll decoded: rows in log order with their own positions, and the messages that held none.

    ``message_index`` int64 [rows] tells which message of the poll each row came from.
    """

    table: pa.Table
    message_index: npt.NDArray[np.int64]
    dead: tuple[DeadLetter, ...]

    @property
    def rows_read(self) -> int:
        """Rows taken from the topic: good rows plus dead letters."""
        rows: int = self.table.num_rows
        return rows + sum(letter.rows for letter in self.dead)


def encode(table: pa.Table) -> bytes:
    """``table`` as one Arrow IPC stream (LZ4)."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema, options=_WRITE) as writer:
        writer.write_table(table.combine_chunks())
    encoded: bytes = sink.getvalue().to_pybytes()
    return encoded


def rows_of(value: bytes) -> pa.Table | None:
    """The rows of a message that :func:`encode` made; None for bytes that are not an Arrow stream."""
    if not value.startswith(_ARROW_MARKER):
        return None
    try:
        return pa.ipc.open_stream(value, options=_READ).read_all()
    except (pa.ArrowInvalid, OSError, EOFError):  # a dead letter may be a damaged one
        return None


def encode_json(table: pa.Table) -> list[bytes]:
    """Each row of ``table`` as a JSON object, as an outside producer would send it (timestamps ISO 8601, UTC)."""
    columns = []
    for declared, column in zip(table.schema, table.columns, strict=True):
        if pa.types.is_timestamp(declared.type) or pa.types.is_decimal(declared.type):
            columns.append(column.cast(pa.string()))
        else:
            columns.append(column)
    rows = pa.table(columns, names=table.column_names).to_pylist()
    return [_JSON(row).encode() for row in rows]


def concat(tables: Sequence[pa.Table], schema: pa.Schema) -> pa.Table:
    """``tables`` one after the other; an empty table of ``schema`` when there are none."""
    return pa.concat_tables(tables).combine_chunks() if tables else schema.empty_table()


def decode(poll: Poll, schema: TableSchema) -> Decoded:
    """Decode a poll of messages whose rows are declared by ``schema``.

    The table has the declared columns, in declared order and type (``conversion.py`` says what is taken for them), and
    the own position columns. Columns that are not declared are ignored; a declared column that is absent is NULL, which
    a NOT NULL column refuses. Whatever a message raises makes it a dead letter, and none of its neighbours. A poll is
    decoded once, for all stages that read it with this ``schema`` object.
    """
    known = poll.shared.get(id(schema))
    if known is None or known[0] is not schema:
        known = poll.shared[id(schema)] = schema, _decoded(poll, schema)
    decoded: Decoded = known[1]
    return decoded


def _decoded(poll: Poll, schema: TableSchema) -> Decoded:
    json_at: list[int] = []
    arrow_at: list[int] = []
    dead: dict[int, DeadLetter] = {}

    def refuse(index: int, reason: str, rows: int = 1) -> None:
        dead[index] = DeadLetter(int(poll.offsets[index]), reason, rows, poll.values[index])

    for index, value in enumerate(poll.values):
        if value and value[0] == _BRACE and value[-1] == _END_BRACE:  # nearly all
            json_at.append(index)
        elif not value or value.isspace():
            refuse(index, "empty message")
        elif value.startswith(_ARROW_MARKER):
            arrow_at.append(index)
        elif json_lines.looks_like_an_object(value):
            json_at.append(index)
        else:
            refuse(index, json_lines.why_not(value, schema, "not a JSON object"))
    parts = _json_rows(poll, json_at, schema, refuse) + _arrow_rows(poll, arrow_at, schema, refuse)
    table = concat([t for t, _ in parts], schema.arrow)
    message_index = np.concatenate([at for _, at in parts]) if parts else np.zeros(0, dtype=np.int64)
    if len(parts) > 1 and (message_index[1:] < message_index[:-1]).any():
        order = np.argsort(message_index, kind="stable")
        table, message_index = table.take(order), message_index[order]
    return Decoded(
        with_own_positions(table, poll.partition, poll.offsets[message_index], _row_in_message(message_index)),
        message_index,
        tuple(dead[index] for index in sorted(dead)),
    )


def _json_rows(poll: Poll, at: list[int], schema: TableSchema, refuse: _Refuse) -> list[_Part]:
    good, bad = halved(at, lambda some: json_lines.parse([poll.values[index] or b"" for index in some], schema))
    for index, error in bad:
        refuse(index, json_lines.why_not(poll.values[index] or b"", schema, _words(error)))
    return [(table, np.array(indexes, dtype=np.int64)) for indexes, table in good]


def _arrow_rows(poll: Poll, at: list[int], schema: TableSchema, refuse: _Refuse) -> list[_Part]:
    """Each stream is read by itself; those of one schema are converted together."""
    read, bad = one_by_one(at, lambda index: read_stream(poll.values[index] or b"", schema))
    parts = []
    alike: dict[bytes, dict[int, pa.Table]] = {}
    for index, (head, table) in read:
        alike.setdefault(head, {})[index] = table
    for tables in alike.values():
        good, unfit = halved(list(tables), partial(_conformed, tables, schema))
        bad += unfit
        for indexes, table in good:
            lengths = [tables[index].num_rows for index in indexes]
            parts.append((table, np.repeat(np.array(indexes, dtype=np.int64), lengths)))
    rows = {index: table.num_rows for index, (_, table) in read}
    for index, error in bad:
        refuse(index, _words(error), error.rows if isinstance(error, RefusedStreamError) else rows.get(index, 1))
    return parts


def _conformed(tables: Mapping[int, pa.Table], schema: TableSchema, indexes: Sequence[int]) -> pa.Table:
    some = [tables[index] for index in indexes]
    return conform(some[0] if len(some) == 1 else pa.concat_tables(some), schema)


def _words(error: Exception) -> str:
    return str(error) if isinstance(error, WireError) else f"{type(error).__name__}: {error}"


def _as_it_is(table: pa.Table) -> pa.Table:
    return table


def decode_arrow(
    poll: Poll, each: Callable[[pa.Table], pa.Table] = _as_it_is, columns: frozenset[str] | None = None
) -> pa.Table:
    """Decode an internal topic's poll (not empty), once for all its readers: every message Arrow, all of one schema.

    ``each`` is applied to the rows of every message before they are put together; the readers of one topic give the
    same one. With ``columns`` no others are decoded, and those that a message lacks are not there.

    Raises:
        WireError: a message is not Arrow, naming topic, partition and offset. On an internal topic that is not bad
            input but a broken deployment, so it stops the worker instead of going to the dead letters.
    """
    key = (decode_arrow, each, columns)
    if key not in poll.shared:
        poll.shared[key] = _arrow_decoded(poll, each, columns)
    table: pa.Table = poll.shared[key]
    return table


def _arrow_decoded(poll: Poll, each: Callable[[pa.Table], pa.Table], columns: frozenset[str] | None) -> pa.Table:
    tables = []
    lengths = []
    for index, value in enumerate(poll.values):
        if value is None or not value.startswith(_ARROW_MARKER):
            raise WireError(
                f"{poll.topic}[{poll.partition}]@{int(poll.offsets[index])}: not an Arrow IPC stream; "
                "only Dovetail may write to this topic"
            )
        table = each(pa.ipc.open_stream(value, options=_reading(value, columns)).read_all())
        tables.append(table)
        lengths.append(table.num_rows)
    message_index = np.repeat(np.arange(len(tables), dtype=np.int64), lengths)
    merged = tables[0] if len(tables) == 1 else pa.concat_tables(tables, promote_options="permissive")
    merged = merged.combine_chunks()
    return with_own_positions(merged, poll.partition, poll.offsets[message_index], _row_in_message(message_index))


def _reading(value: bytes, columns: frozenset[str] | None) -> pa.ipc.IpcReadOptions:
    if columns is None:
        return _READ
    wanted = [at for at, name in enumerate(pa.ipc.open_stream(value).schema.names) if name in columns]
    return pa.ipc.IpcReadOptions(use_threads=False, included_fields=wanted)


def letters_to_outgoing(topic: str, poll: Poll, letters: Sequence[DeadLetter], stage: str) -> list[Outgoing]:
    """The dead letters of ``poll`` as messages: key, headers and value as they came, then headers of our own.

    :func:`letter_of` reads these. A message without value has an empty one; a reason above 2,000 bytes is cut off.
    """
    at = np.searchsorted(poll.offsets, [letter.offset for letter in letters]).tolist()
    return [
        Outgoing(
            topic=topic,
            value=letter.value or b"",
            key=poll.keys[index],
            partition=0,
            headers=(
                *poll.headers[index],
                (REASON_HEADER, _shortened(letter.reason)),
                ("dovetail-source", f"{poll.topic}[{poll.partition}]@{letter.offset}".encode()),
                ("dovetail-stage", stage.encode()),
                ("dovetail-rows", str(letter.rows).encode()),
                ("dovetail-sent", str(int(poll.timestamps_ms[index])).encode()),
            ),
        )
        for letter, index in zip(letters, at, strict=True)
    ]


def row_letters(poll: Poll, rows: pa.Table, reasons: Mapping[int, str]) -> list[DeadLetter]:
    """Dead letters for single ``rows`` of ``poll``, by index, that cannot be used although their message could be read.

    One letter per message and reason. It has the message's bytes as they came when all its rows are in it; otherwise
    just these rows, as Arrow, because the others are used.
    """
    offsets = rows.column("_offset").to_numpy()
    together: dict[tuple[int, str], list[int]] = {}
    for row, reason in reasons.items():
        together.setdefault((int(offsets[row]), reason), []).append(row)
    letters = []
    for (offset, reason), some in sorted(together.items()):
        value = poll.values[int(np.searchsorted(poll.offsets, offset))] or b""
        if value.startswith(_ARROW_MARKER) and row_count(value) > len(some):
            value = encode(rows.take(pa.array(some)).drop_columns(list(OWN_COLUMNS)))
        letters.append(DeadLetter(offset, reason, len(some), value))
    return letters


def letter_of(headers: Sequence[tuple[str, bytes]]) -> LetterHead:
    """The head of a dead letter, read from its headers: the last of each name, as its message may have had one, too.

    Raises:
        WireError: it is not a dead letter of Dovetail's.
    """
    said = {name: value for name, value in headers if name in _LETTER_HEADERS}
    source = re.fullmatch(rb"(.*)\[(\d+)\]@(\d+)", said.get("dovetail-source") or b"", re.DOTALL)
    if source is None or said.keys() != _LETTER_HEADERS:
        raise WireError(
            f"a message in the dead-letter topic has the headers {sorted(said)}; only Dovetail may write to this topic"
        )
    return LetterHead(
        said["dovetail-stage"].decode(), source[1].decode(), int(source[2]), int(source[3]),
        int(said["dovetail-rows"]), int(said["dovetail-sent"]), said[REASON_HEADER].decode(),
    )  # fmt: skip


def message_headers(headers: Sequence[tuple[str, bytes]]) -> tuple[tuple[str, bytes], ...]:
    """The headers of a dead letter as its message came with them: without those that :func:`letters_to_outgoing` adds.

    Ours stand behind the message's own, which may have been called the same.
    """
    ours = max((at for at, (name, _) in enumerate(headers) if name == REASON_HEADER), default=len(headers))
    return tuple(headers[:ours])


def _shortened(reason: str) -> bytes:
    encoded = reason.encode(errors="replace")
    if len(encoded) <= _MAX_REASON_BYTES:
        return encoded
    return encoded[:_MAX_REASON_BYTES].decode(errors="ignore").encode() + b" [...]"


def _row_in_message(message_index: npt.NDArray[np.int64]) -> npt.NDArray[np.int32]:
    """For ascending ``message_index``: each row's index within its message."""
    if len(message_index) == 0:
        return np.zeros(0, dtype=np.int32)
    begins = message_index[1:] != message_index[:-1]
    if begins.all():  # a row in each, as of JSON
        return np.zeros(len(message_index), dtype=np.int32)
    starts = np.flatnonzero(np.concatenate(([True], begins)))
    lengths = np.diff(np.concatenate((starts, [len(message_index)])))
    return (np.arange(len(message_index)) - np.repeat(starts, lengths)).astype(np.int32)
