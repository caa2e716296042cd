"""Arrow messages to rows: nothing of a stream is decoded before all that its metadata says has been checked.

First the frames are walked: what the buffers will take once decompressed, and how many values there are, stands in the
metadata, and a small message can say anything. Then the types of the declared columns are compared with what is taken
for them. Only then are these columns read, no others, and what was read is validated in full.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from dovetail.platform.errors import WireError
from dovetail.platform.rows.conversion import MAX_DECODED_BYTES, why_not_taken
from dovetail.platform.rows.schema import TableSchema

__all__ = ["MAX_ROWS", "MAX_VALUES", "RefusedStreamError", "read_stream", "row_count"]

MAX_ROWS = (1 << 20) - 1
#: Values of one message, in all columns and at all levels: also such that take no bytes.
MAX_VALUES = 1 << 25

_MAX_KEPT_SCHEMA = 1 << 16
_NOT_COMPRESSED = -1
# Slots of the tables in Arrow's Message.fbs.
_MESSAGE_HEADER = 2
_DICTIONARY_DATA = 1
_BATCH_LENGTH, _BATCH_NODES, _BATCH_BUFFERS, _BATCH_COMPRESSION = range(4)


class RefusedStreamError(WireError):
    """A stream is refused; ``rows`` is how many rows it is said to have, 1 where that cannot be known."""

    def __init__(self, reason: str, rows: int = 1) -> None:
        super().__init__(reason)
        self.rows = rows


@dataclass(frozen=True, slots=True)
class _Plan:
    """What is read of streams with one schema: or why they are refused."""

    options: pa.ipc.IpcReadOptions
    refused: str | None


def read_stream(value: bytes, schema: TableSchema) -> tuple[bytes, pa.Table]:
    """The declared columns of a stream, in the types it has, valid in full; before them the bytes of its schema.

    Raises:
        RefusedStreamError: the stream is damaged, too large, or has a column of a type that is not taken.
    """
    try:
        head, rows = _walk(value)
        plan = _plan(head, schema)
    except (pa.ArrowException, OSError, EOFError, struct.error, ValueError) as error:
        raise RefusedStreamError(f"not a complete Arrow IPC stream: {error}") from error
    if not 0 < rows <= MAX_ROWS:
        raise RefusedStreamError(f"{rows} rows in one message; 1 to {MAX_ROWS} are allowed")
    if plan.refused is not None:
        raise RefusedStreamError(plan.refused, rows)
    try:
        table = pa.ipc.open_stream(value, options=plan.options).read_all()
        table.validate(full=True)
    except (pa.ArrowException, OSError, EOFError) as error:
        if isinstance(error, MemoryError):
            raise
        raise RefusedStreamError(f"not a complete Arrow IPC stream: {error}") from error
    if table.num_rows != rows:
        raise RefusedStreamError(f"not a complete Arrow IPC stream: {rows} rows announced, {table.num_rows} found")
    return head, table


def row_count(value: bytes) -> int:
    """How many rows the stream ``value``, which :func:`read_stream` has read, says it has."""
    return _walk(value)[1]


def _walk(value: bytes) -> tuple[bytes, int]:
    """The bytes of the stream's schema and its number of rows, after its size once decoded was found to be allowed."""
    head, rows, decoded, values = b"", 0, 0, 0
    for message in pa.ipc.MessageReader.open_stream(value):
        if message.type == "schema":
            if head:
                raise RefusedStreamError("not a complete Arrow IPC stream: a second schema in it")
            head = value[: len(message.metadata) + 8]
            continue
        batch = _Flat(message.metadata).batch(dictionary=message.type == "dictionary")
        if message.type != "dictionary":
            rows += batch.rows
        values += batch.values
        decoded += batch.decoded(message.body)
        if decoded > MAX_DECODED_BYTES:
            raise RefusedStreamError(f"{decoded} bytes once decoded; {MAX_DECODED_BYTES} are allowed in one message")
        if values > MAX_VALUES:
            raise RefusedStreamError(f"{values} values in one message; {MAX_VALUES} are allowed")
    return head, rows


def _plan(head: bytes, schema: TableSchema) -> _Plan:
    return _kept_plan(head, schema) if len(head) <= _MAX_KEPT_SCHEMA else _made_plan(head, schema)


def _made_plan(head: bytes, schema: TableSchema) -> _Plan:
    found = pa.ipc.open_stream(head).schema
    names = [field.name for field in found]
    refused = None
    for declared in schema.arrow:
        if names.count(declared.name) > 1:
            refused = f"column {declared.name} stands in it twice"
        elif declared.name in names:
            type_ = found.field(names.index(declared.name)).type
            if (why := why_not_taken(type_, declared.type)) is not None:
                refused = f"column {declared.name} is {type_}, declared {declared.type} in {schema.file}: {why}"
        elif not declared.nullable:
            refused = f"column {declared.name} is missing or NULL; it is NOT NULL in {schema.file}"
        if refused is not None:
            break
    wanted = [at for at, name in enumerate(names) if name in schema.arrow.names]
    if refused is None and not wanted:
        refused = f"none of the columns declared in {schema.file} is in it"
    # One thread: a message is small, and handing its columns to a pool costs more than reading them. No list is all.
    only = [] if len(wanted) == len(names) else wanted
    return _Plan(pa.ipc.IpcReadOptions(use_threads=False, included_fields=only), refused)


# Messages of one producer have one schema. A large one is not worth its memory.
_kept_plan = lru_cache(maxsize=256)(_made_plan)


@dataclass(frozen=True, slots=True)
class _Batch:
    """What the metadata of a record batch says: rows, values (of all columns and levels), and where its buffers are.

    ``buffers`` int64 [buffers, 2]: offset in the body and length.
    """

    rows: int
    values: int
    buffers: npt.NDArray[np.int64]
    compressed: bool

    def decoded(self, body: pa.Buffer | None) -> int:
        """Bytes of the buffers once decompressed: each compressed one begins with its own length."""
        size = 0 if body is None else len(body)
        if not self.compressed or body is None:
            return size
        decoded = 0
        for offset, length in self.buffers.tolist():
            if length == 0:
                continue
            if offset < 0 or length < 8 or offset + length > size:
                raise RefusedStreamError("not a complete Arrow IPC stream: a buffer lies outside of its message")
            (said,) = struct.unpack_from("<q", body, offset)
            if said < _NOT_COMPRESSED:
                raise RefusedStreamError(f"not a complete Arrow IPC stream: a buffer of {said} bytes")
            decoded += length - 8 if said == _NOT_COMPRESSED else said
        return decoded


class _Flat:
    """The flatbuffer of a message's metadata. Arrow has verified its structure before it hands it out."""

    def __init__(self, metadata: pa.Buffer) -> None:
        self._bytes = metadata

    def batch(self, *, dictionary: bool) -> _Batch:
        """The record batch of a message, or of a dictionary message."""
        table = self._child(self._uint(0), _MESSAGE_HEADER)
        if dictionary:
            table = self._child(table, _DICTIONARY_DATA)
        at = self._field(table, _BATCH_LENGTH)
        rows = self._long(at) if at else 0
        nodes = self._pairs(table, _BATCH_NODES)
        if rows < 0 or (nodes < 0).any() or (nodes > MAX_VALUES).any():
            raise RefusedStreamError(f"a column has fewer than 0 or more than {MAX_VALUES} values")
        buffers = self._pairs(table, _BATCH_BUFFERS)
        return _Batch(rows, int(nodes[:, 0].sum()), buffers, bool(self._field(table, _BATCH_COMPRESSION)))

    def _field(self, table: int, slot: int) -> int:
        """Where a field of a table is; 0 for one that is absent."""
        vtable = table - struct.unpack_from("<i", self._bytes, table)[0]
        (size,) = struct.unpack_from("<H", self._bytes, vtable)
        if 4 + 2 * slot >= size:
            return 0
        offset: int = struct.unpack_from("<H", self._bytes, vtable + 4 + 2 * slot)[0]
        return table + offset if offset else 0

    def _child(self, table: int, slot: int) -> int:
        at = self._field(table, slot)
        if not at:
            raise RefusedStreamError("not a complete Arrow IPC stream: a message without header")
        return at + self._uint(at)

    def _pairs(self, table: int, slot: int) -> npt.NDArray[np.int64]:
        """A vector of structs of two int64."""
        at = self._field(table, slot)
        if not at:
            return np.zeros((0, 2), dtype=np.int64)
        start = at + self._uint(at)
        return np.frombuffer(self._bytes, np.int64, 2 * self._uint(start), start + 4).reshape(-1, 2)

    def _uint(self, at: int) -> int:
        value: int = struct.unpack_from("<I", self._bytes, at)[0]
        return value

    def _long(self, at: int) -> int:
        value: int = struct.unpack_from("<q", self._bytes, at)[0]
        return value
