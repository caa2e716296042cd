"""Bytes to rows and back.

From outside a message is one JSON object, or an Arrow IPC stream of many rows; inside Dovetail it is always Arrow.
A whole poll is decoded at once. Only when that fails are its messages looked at one by one, to tell good from bad;
a bad one becomes a dead letter with the reason and the position it came from, and the good ones go on.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.json as pj

from dovetail.platform.errors import WireError
from dovetail.platform.rows.positions import with_own_positions
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
    "rows_of",
]

#: Headers of a dead letter: why it is one; and how many bytes it had, when its value was too large to go along.
REASON_HEADER = "dovetail-reason"
LEFT_OUT_HEADER = "dovetail-left-out"

#: An Arrow IPC stream starts with this continuation marker; no JSON text does.
_ARROW_MARKER = b"\xff\xff\xff\xff"
# One thread: a message is small, and handing its columns to a pool costs five times what encoding them does.
_WRITE = pa.ipc.IpcWriteOptions(compression="lz4", use_threads=False)
_READ = pa.ipc.IpcReadOptions(use_threads=False)
_MAX_ROWS_PER_MESSAGE = (1 << 20) - 1
# A reason may quote what it found, which may be megabytes; a broker bounds headers with the message.
_MAX_REASON_BYTES = 2_000


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A message that could not be used. ``rows`` is what it counts as in the accounts: 1, or its Arrow row count."""

    offset: int
    reason: str
    rows: int
    value: bytes | None = field(repr=False)


class LetterHead(NamedTuple):
    """The stage that could not use a message, the message's position and timestamp (ms), and the reason."""

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
    return [json.dumps(row, separators=(",", ":")).encode() for row in rows]


def concat(tables: Sequence[pa.Table], schema: pa.Schema) -> pa.Table:
    """``tables`` one after the other; an empty table of ``schema`` when there are none."""
    return pa.concat_tables(tables).combine_chunks() if tables else schema.empty_table()


def decode(poll: Poll, schema: TableSchema) -> Decoded:
    """Decode a poll of messages whose rows are declared by ``schema``.

    The table has the declared columns, in declared order and type, and the own position columns. Columns that are not
    declared are ignored; a declared column that is absent is NULL, which a NOT NULL column refuses.
    """
    json_at: list[int] = []
    tables: list[tuple[pa.Table, npt.NDArray[np.int64]]] = []
    dead: list[DeadLetter] = []
    for index, value in enumerate(poll.values):
        if value is None or not value.strip():
            dead.append(DeadLetter(int(poll.offsets[index]), "empty message", 1, value))
        elif value.startswith(_ARROW_MARKER):
            _decode_arrow_message(poll, index, value, schema, tables, dead)
        else:
            json_at.append(index)
    if json_at:
        _decode_json_messages(poll, json_at, schema, tables, dead)
    table = concat([t for t, _ in tables], schema.arrow)
    message_index = np.concatenate([at for _, at in tables]) if tables else np.zeros(0, dtype=np.int64)
    if len(tables) > 1:
        order = np.argsort(message_index, kind="stable")
        table, message_index = table.take(order), message_index[order]
    return Decoded(
        with_own_positions(table, poll.partition, poll.offsets[message_index], _row_in_message(message_index)),
        message_index,
        tuple(sorted(dead, key=lambda letter: letter.offset)),
    )


def decode_arrow(poll: Poll) -> pa.Table:
    """Decode an internal topic's poll (not empty): every message Arrow, all of one schema.

    Raises:
        WireError: a message is not Arrow, naming topic, partition and offset. On an internal topic that is not bad
            input but a broken deployment, so it stops the worker instead of going to the dead letters.
    """
    tables = []
    lengths = []
    for index, value in enumerate(poll.values):
        if value is None or not value.startswith(_ARROW_MARKER):
            raise WireError(
                f"{poll.topic}[{poll.partition}]@{int(poll.offsets[index])}: not an Arrow IPC stream; "
                "only Dovetail may write to this topic"
            )
        table = pa.ipc.open_stream(value, options=_READ).read_all()
        tables.append(table)
        lengths.append(table.num_rows)
    message_index = np.repeat(np.arange(len(tables), dtype=np.int64), lengths)
    merged = pa.concat_tables(tables, promote_options="permissive").combine_chunks()
    return with_own_positions(merged, poll.partition, poll.offsets[message_index], _row_in_message(message_index))


def letters_to_outgoing(topic: str, poll: Poll, letters: Sequence[DeadLetter], stage: str) -> list[Outgoing]:
    """The dead letters of ``poll`` as messages: the value unchanged, all else in the headers (:func:`letter_of`).

    A reason above 2,000 bytes is cut off.
    """
    sent_ms = poll.timestamps_ms[np.searchsorted(poll.offsets, [letter.offset for letter in letters])].tolist()
    return [
        Outgoing(
            topic=topic,
            value=letter.value or b"",
            partition=0,
            headers=(
                (REASON_HEADER, _shortened(letter.reason)),
                ("dovetail-source", f"{poll.topic}[{poll.partition}]@{letter.offset}".encode()),
                ("dovetail-stage", stage.encode()),
                ("dovetail-rows", str(letter.rows).encode()),
                ("dovetail-sent", str(sent).encode()),
            ),
        )
        for letter, sent in zip(letters, sent_ms, strict=True)
    ]


def letter_of(headers: Sequence[tuple[str, bytes]]) -> LetterHead:
    """The head of a dead letter, read from its headers.

    Raises:
        WireError: it is not a dead letter of Dovetail's.
    """
    said = {name: value.decode() for name, value in headers}
    source = re.fullmatch(r"(.*)\[(\d+)\]@(\d+)", said.get("dovetail-source", ""), re.DOTALL)
    if source is None or not {"dovetail-reason", "dovetail-stage", "dovetail-rows", "dovetail-sent"} <= said.keys():
        raise WireError(
            f"a message in the dead-letter topic has the headers {sorted(said)}; only Dovetail may write to this topic"
        )
    return LetterHead(
        said["dovetail-stage"], source[1], int(source[2]), int(source[3]), int(said["dovetail-rows"]),
        int(said["dovetail-sent"]), said["dovetail-reason"],
    )  # fmt: skip


def _shortened(reason: str) -> bytes:
    encoded = reason.encode(errors="replace")
    if len(encoded) <= _MAX_REASON_BYTES:
        return encoded
    return encoded[:_MAX_REASON_BYTES].decode(errors="ignore").encode() + b" [...]"


def _row_in_message(message_index: npt.NDArray[np.int64]) -> npt.NDArray[np.int32]:
    """For ascending ``message_index``: each row's index within its message."""
    if len(message_index) == 0:
        return np.zeros(0, dtype=np.int32)
    starts = np.flatnonzero(np.concatenate(([True], message_index[1:] != message_index[:-1])))
    lengths = np.diff(np.concatenate((starts, [len(message_index)])))
    return (np.arange(len(message_index)) - np.repeat(starts, lengths)).astype(np.int32)


def _decode_arrow_message(
    poll: Poll,
    index: int,
    value: bytes,
    schema: TableSchema,
    tables: list[tuple[pa.Table, npt.NDArray[np.int64]]],
    dead: list[DeadLetter],
) -> None:
    offset = int(poll.offsets[index])
    try:
        raw = pa.ipc.open_stream(value, options=_READ).read_all()
        raw.validate(full=True)
    except (pa.ArrowInvalid, OSError, EOFError) as error:
        dead.append(DeadLetter(offset, f"not a complete Arrow IPC stream: {error}", 1, value))
        return
    if raw.num_rows == 0 or raw.num_rows > _MAX_ROWS_PER_MESSAGE:
        reason = f"{raw.num_rows} rows in one message; 1 to {_MAX_ROWS_PER_MESSAGE} are allowed"
        dead.append(DeadLetter(offset, reason, 1, value))
        return
    try:
        tables.append((_conform(raw, schema), np.full(raw.num_rows, index, dtype=np.int64)))
    except WireError as error:
        dead.append(DeadLetter(offset, str(error), raw.num_rows, value))


def _conform(raw: pa.Table, schema: TableSchema) -> pa.Table:
    """``raw`` with the declared columns in the declared types, without loss."""
    columns = []
    for declared in schema.arrow:
        if declared.name not in raw.column_names:
            column = pa.chunked_array([pa.nulls(raw.num_rows, declared.type)])
        else:
            column = raw.column(declared.name)
            if column.type != declared.type:
                try:
                    column = column.cast(declared.type, safe=True)
                except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
                    raise WireError(
                        f"column {declared.name} is {column.type}, declared {declared.type} in {schema.file}: {error}"
                    ) from error
        columns.append(column)
    table = pa.table(columns, schema=pa.schema([column.with_nullable(True) for column in schema.arrow]))
    missing = [name for name in schema.required if table.column(name).null_count]
    if missing:
        raise WireError(f"column {missing[0]} is missing or NULL; it is NOT NULL in {schema.file}")
    return table.cast(schema.arrow)


def _decode_json_messages(
    poll: Poll,
    json_at: list[int],
    schema: TableSchema,
    tables: list[tuple[pa.Table, npt.NDArray[np.int64]]],
    dead: list[DeadLetter],
) -> None:
    values = [poll.values[index] or b"" for index in json_at]
    index = np.array(json_at, dtype=np.int64)
    _parse_or_halve(poll, values, index, schema, tables, dead)


def _parse_or_halve(
    poll: Poll,
    values: list[bytes],
    index: npt.NDArray[np.int64],
    schema: TableSchema,
    good: list[tuple[pa.Table, npt.NDArray[np.int64]]],
    dead: list[DeadLetter],
) -> None:
    """Halve until what fails is a single message: log2(n) parses per bad one instead of n."""
    try:
        good.append((_parse_lines(values, schema), index))
    except WireError:
        if len(values) > 1:
            middle = len(values) // 2
            _parse_or_halve(poll, values[:middle], index[:middle], schema, good, dead)
            _parse_or_halve(poll, values[middle:], index[middle:], schema, good, dead)
            return
        try:
            good.append((_parse_one(values[0], schema), index))
        except WireError as error:
            dead.append(DeadLetter(int(poll.offsets[index[0]]), str(error), 1, values[0]))


def _parse_one(value: bytes, schema: TableSchema) -> pa.Table:
    """One message on its own: JSON may be spread over lines, and the reason should name the column."""
    try:
        parsed = json.loads(value)
    except (ValueError, RecursionError) as error:
        raise WireError(f"not valid JSON: {error}") from error
    if not isinstance(parsed, dict):
        raise WireError(f"a JSON {type(parsed).__name__}, not an object")
    missing = [name for name in schema.required if parsed.get(name) is None]
    if missing:
        raise WireError(f"column {missing[0]} is missing or NULL; it is NOT NULL in {schema.file}")
    return _parse_lines([json.dumps(parsed).encode()], schema)


def _parse_lines(values: list[bytes], schema: TableSchema) -> pa.Table:
    """One JSON object per value.

    Raises:
        WireError: a value is malformed, or does not fit the schema.
    """
    joined = b"\n".join(values)
    if joined.count(b"\n") != len(values) - 1:
        raise WireError("a line break inside a message")
    try:
        joined.decode()  # the JSON reader takes any bytes for text
    except UnicodeDecodeError as error:
        raise WireError(f"not valid UTF-8: {error}") from error
    options = pj.ParseOptions(
        explicit_schema=pa.schema([column.with_nullable(True) for column in schema.arrow]),
        unexpected_field_behavior="ignore",
    )
    # The block must hold the longest line: a 10 MB message is one line.
    read = pj.ReadOptions(use_threads=False, block_size=max(1 << 20, max(map(len, values)) + 1))
    try:
        table = pj.read_json(io.BytesIO(joined), read_options=read, parse_options=options)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise WireError(f"does not fit {schema.name} as declared in {schema.file}: {error}") from error
    if table.num_rows != len(values):  # two objects on a line parse as two rows
        raise WireError("more than one JSON object in a message")
    table = table.select(schema.arrow.names).combine_chunks()
    for name in schema.required:
        if table.column(name).null_count:
            raise WireError(f"column {name} is missing or NULL; it is NOT NULL in {schema.file}")
    return table.cast(schema.arrow)
