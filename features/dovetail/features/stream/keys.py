"""Entity keys as bytes: canonical, so that events and requests meet, and free of collisions.

Each part is a tag and a value that says where it ends: integers of any width ``i`` + 8 bytes, decimals ``d`` + scale +
8 bytes of the unscaled value, dates ``D``, timestamps ``T`` (microseconds) and booleans ``b`` + 8 bytes, strings
``s`` + length in 4 bytes + UTF-8. Parts are concatenated in the order of ``PARTITION BY``; all integers are big-endian.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from dovetail.features.kernels.words import Words, decimal_words
from dovetail.platform.errors import StateError

__all__ = ["decode_keys", "encode_keys", "has_canonical_bytes", "is_entity"]


def encode_keys(columns: Sequence[pa.Array | pa.ChunkedArray]) -> tuple[list[bytes], npt.NDArray[np.int32]]:
    """The distinct keys of the rows, in order of first appearance, and for each row which one it has.

    Args:
        columns: the entity columns, of one length n; at least one.

    Returns:
        ``keys`` and ``codes`` int32 ``[n]`` into it; -1 where a part is NULL: such a row belongs to no entity.

    Raises:
        StateError: a column has a type without canonical bytes.
    """
    codes, parts = _column(columns[0])
    for column in columns[1:]:
        more_codes, more_parts = _column(column)
        pairs = np.where((codes < 0) | (more_codes < 0), -1, codes.astype(np.int64) * len(more_parts) + more_codes)
        codes, used = _dense(pa.array(pairs, mask=pairs < 0))
        distinct = np.asarray(used.to_numpy(), dtype=np.int64)
        left, right = np.divmod(distinct, max(len(more_parts), 1))
        parts = [parts[a] + more_parts[b] for a, b in zip(left.tolist(), right.tolist(), strict=True)]
    return parts, codes


def _column(column: pa.Array | pa.ChunkedArray) -> tuple[npt.NDArray[np.int32], list[bytes]]:
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    if isinstance(column.type, pa.DictionaryType):
        column = column.dictionary_decode()
    if not has_canonical_bytes(column.type):
        raise StateError(
            f"an entity column of type {column.type} has no canonical bytes; "
            "use integers, strings, dates, timestamps, booleans or DECIMAL(18,s)"
        )
    codes, distinct = _dense(column)
    return codes, _bytes_of(distinct)


def decode_keys(keys: Sequence[bytes], types: Sequence[pa.DataType]) -> list[pa.Array]:
    """The columns that :func:`encode_keys` made ``keys`` of, one of each of ``types``.

    Raises:
        StateError: a key is none of an entity of these types.
    """
    columns: list[list[object]] = [[] for _ in types]
    for key in keys:
        at = 0
        for column, type_ in zip(columns, types, strict=True):
            value, at = _part(key, at, type_)
            column.append(value)
        if at != len(key):
            raise StateError(f"a key of {len(key)} bytes is none of {', '.join(map(str, types))}")
    return [pa.array(column, _word(type_)).cast(type_) for column, type_ in zip(columns, types, strict=True)]


def is_entity(key: bytes, parts: int) -> bool:
    """Whether ``key`` is that of an entity of so many parts, and not of something that is kept beside one."""
    at = 0
    for _ in range(parts):
        tag = key[at : at + 1]
        at += 5 + int.from_bytes(key[at + 1 : at + 5], "big") if tag == b"s" else 10 if tag == b"d" else 9
    return at == len(key)


def _part(key: bytes, at: int, type_: pa.DataType) -> tuple[object, int]:
    """The part of a key that begins at ``at``, as a value of :func:`_word`, and where the next one begins."""
    if key[at : at + 1] == b"s":
        end = at + 5 + int.from_bytes(key[at + 1 : at + 5], "big")
        return key[at + 5 : end].decode(), end
    head = 2 if isinstance(type_, pa.Decimal128Type) else 1
    word = int.from_bytes(key[at + head : at + head + 8], "big", signed=True)
    if isinstance(type_, pa.Decimal128Type):
        return Decimal(word).scaleb(-type_.scale), at + head + 8
    return (bool(word) if pa.types.is_boolean(type_) else word), at + head + 8


def _word(type_: pa.DataType) -> pa.DataType:
    """The type in which a part of a key is read; a date by way of its days."""
    if pa.types.is_date32(type_):
        return pa.int32()
    return pa.int64() if pa.types.is_timestamp(type_) or pa.types.is_signed_integer(type_) else type_


def has_canonical_bytes(type_: pa.DataType) -> bool:
    """Whether a column of this type can be part of an entity."""
    return (
        pa.types.is_signed_integer(type_)
        or pa.types.is_boolean(type_)
        or pa.types.is_string(type_)
        or pa.types.is_large_string(type_)
        or pa.types.is_date32(type_)
        or pa.types.is_timestamp(type_)
        or (isinstance(type_, pa.Decimal128Type) and type_.precision <= 18)
    )


def _dense(column: pa.Array) -> tuple[npt.NDArray[np.int32], pa.Array]:
    encoded = pc.dictionary_encode(column)
    codes = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False)
    return np.asarray(codes, dtype=np.int32), encoded.dictionary


def _bytes_of(values: pa.Array) -> list[bytes]:
    type_ = values.type
    if pa.types.is_string(type_) or pa.types.is_large_string(type_):
        texts = [text.encode() for text in values.to_pylist()]
        return [b"s" + len(text).to_bytes(4, "big") + text for text in texts]
    if isinstance(type_, pa.Decimal128Type):
        return _fixed(b"d" + type_.scale.to_bytes(1, "big", signed=True), decimal_words(values)[0].view(np.int64))
    if pa.types.is_timestamp(type_):
        return _fixed(b"T", values.cast(pa.timestamp("us", type_.tz)).view(pa.int64()))
    if pa.types.is_date32(type_):
        return _fixed(b"D", values.view(pa.int32()))
    return _fixed(b"b" if pa.types.is_boolean(type_) else b"i", values.cast(pa.int64()))


def _fixed(tag: bytes, values: pa.Array | Words) -> list[bytes]:
    data = np.asarray(values).astype(">i8").tobytes()
    return [tag + data[at : at + 8] for at in range(0, len(data), 8)]
