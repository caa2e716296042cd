"""Arrow columns as hashes or as numbers, whatever their storage type.

The same value must reach the same slot whether it comes as int32 or int64, string or dictionary, BIGINT or the HUGEINT
a DuckDB sum returns; training and serving read from different places. NULL is a value of its own everywhere.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dovetail.platform.errors import WireError
from dovetail.trainer.arithmetic import Float64, UInt32, UInt64
from dovetail.trainer.samples.hashing import (
    fill_nulls,
    hash_decimals,
    hash_integers,
    hash_strings,
)

__all__ = ["hash_column", "hash_column_into", "number_column"]


def hash_column(array: pa.Array, *, column: str, seed: int, null: int) -> UInt64:
    """A 64-bit hash per value, seeded with ``seed``; ``null`` where the value is NULL. uint64 [len(array)].

    Integers, booleans and times (as microseconds since 1970, times of day since midnight) hash as 64-bit integers;
    strings and binary as their bytes; decimals as their numeric value; floats as float64 bits with -0 as 0 and NaN as
    NULL; a dictionary as its values.

    :raises WireError: for a type that is none of these.
    """
    hashes = np.empty(len(array), np.uint64)
    hash_column_into(hashes, array, column=column, seed=seed, null=null)
    return hashes


def hash_column_into(out: UInt32 | UInt64, array: pa.Array, *, column: str, seed: int, null: int) -> None:
    """Fill ``out``, contiguous and as long as ``array``, with what :func:`hash_column` returns or its low 32 bits.

    :raises WireError: as :func:`hash_column`.
    """
    type_ = array.type
    if pa.types.is_dictionary(type_):
        _hash_dictionary(out, array, column=column, seed=seed, null=null)
    elif pa.types.is_null(type_):
        out[:] = np.uint64(null).astype(out.dtype)
    elif pa.types.is_floating(type_):
        numbers = number_column(array, column=column)
        hash_integers((numbers + 0.0).view(np.uint64), seed, out)
        out[np.isnan(numbers)] = np.uint64(null).astype(out.dtype)
    else:
        _hash_plain(out, array, column, seed)
        valid = array.buffers()[0] if array.null_count else None
        if valid is not None:
            fill_nulls(np.frombuffer(valid, np.uint8), array.offset, null, out)


def number_column(array: pa.Array, *, column: str) -> Float64:
    """The column as float64, NULL as NaN; booleans are 0 and 1, times microseconds. float64 [len(array)].

    :raises WireError: for a type that has no numeric value, such as a string.
    """
    type_ = array.type
    if pa.types.is_dictionary(type_):
        return number_column(array.dictionary_decode(), column=column)
    if _is_time(type_):
        array = _microseconds(array)
    elif pa.types.is_boolean(type_):
        array = array.cast(pa.uint8())
    elif not _has_number(type_):
        raise WireError(
            f"model input column {column!r} is {type_}, which has no numeric value; "
            "declare the input categorical, or cast the column in the feature set"
        )
    numbers = array if array.type == pa.float64() else pc.cast(array, pa.float64(), safe=False)
    result: Float64 = numbers.to_numpy(zero_copy_only=False)  # makes NULL NaN
    return result


def _has_number(type_: Any) -> bool:
    tests = (pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal, pa.types.is_null)
    return any(test(type_) for test in tests)


def _hash_dictionary(out: UInt32 | UInt64, array: Any, *, column: str, seed: int, null: int) -> None:
    hashes = hash_column(array.dictionary, column=column, seed=seed, null=null)
    # One more entry, for rows whose index is NULL.
    hashes = np.append(hashes, np.uint64(null))
    indices = array.indices.cast(pa.int64()).fill_null(len(hashes) - 1).to_numpy(zero_copy_only=False)
    out[:] = hashes[indices].astype(out.dtype)


def _hash_plain(out: UInt32 | UInt64, array: Any, column: str, seed: int) -> None:
    """Hashes of a column that is neither dictionary nor float; what NULLs hash to is unspecified."""
    type_ = array.type
    if pa.types.is_string(type_) or pa.types.is_binary(type_):
        _hash_variable(out, array, np.int32, seed)
    elif pa.types.is_large_string(type_) or pa.types.is_large_binary(type_):
        _hash_variable(out, array, np.int64, seed)
    elif pa.types.is_string_view(type_) or pa.types.is_binary_view(type_):
        _hash_variable(out, array.cast(pa.large_binary()), np.int64, seed)
    elif pa.types.is_integer(type_) or pa.types.is_boolean(type_) or _is_time(type_):
        hash_integers(_integers(array), seed, out)
    elif pa.types.is_decimal(type_) and type_.precision <= 38:
        array = array.cast(pa.decimal128(38, type_.scale))
        words = _numbers(array.buffers()[1], np.uint64, 2 * array.offset, 2 * len(array))
        hash_decimals(words, type_.scale, seed, out)
    else:
        raise WireError(
            f"model input column {column!r} is {type_}, which cannot be hashed; "
            "use a string, integer, boolean, decimal, float or time column, or cast it in the feature set"
        )


def _hash_variable(out: UInt32 | UInt64, array: Any, offset_type: type[np.int32] | type[np.int64], seed: int) -> None:
    _, offset_buffer, data_buffer = array.buffers()
    offsets = _numbers(offset_buffer, offset_type, array.offset, len(array) + 1)
    data = _numbers(data_buffer, np.uint8, 0, len(data_buffer or b""))
    hash_strings(data, offsets, seed, out)


def _integers(array: Any) -> UInt64:
    """Any integer, boolean or time column as the bits of 64-bit integers; those of NULLs are unspecified."""
    if _is_time(array.type):
        array = _microseconds(array)
    elif not (pa.types.is_int64(array.type) or pa.types.is_uint64(array.type)):
        array = array.cast(pa.int64())
    bits: UInt64 = _numbers(array.buffers()[1], np.uint64, array.offset, len(array))
    return bits


def _numbers(buffer: Any, dtype: type[Any], first: int, count: int) -> Any:
    """A view of ``count`` numbers of an Arrow buffer; of none where there is no buffer, as in an empty array."""
    return np.frombuffer(buffer, dtype, first + count)[first:] if buffer else np.empty(0, dtype)


def _is_time(type_: Any) -> bool:
    return bool(pa.types.is_temporal(type_) and not pa.types.is_interval(type_))


def _microseconds(array: Any) -> Any:
    """A timestamp, date, time or duration column as int64 microseconds, finer units cut off."""
    if pa.types.is_time(array.type):
        return array.cast(pa.time64("us"), safe=False).cast(pa.int64())
    if pa.types.is_duration(array.type):
        return array.cast(pa.duration("us"), safe=False).cast(pa.int64())
    zone = array.type.tz if pa.types.is_timestamp(array.type) else None
    return array.cast(pa.timestamp("us", tz=zone), safe=False).cast(pa.int64())
