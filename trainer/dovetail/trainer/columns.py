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
from dovetail.trainer.hashing import hash_decimals, hash_integers, hash_strings
from dovetail.trainer.kernels import Float64, Int64, UInt8, UInt64

__all__ = ["hash_column", "number_column"]


def hash_column(array: pa.Array, *, column: str, seed: int, null: int) -> UInt64:
    """A 64-bit hash per value, seeded with ``seed``; ``null`` where the value is NULL. uint64 [len(array)].

    Integers, booleans and times (as microseconds since 1970, times of day since midnight) hash as 64-bit integers;
    strings and binary as their bytes; decimals as their numeric value; floats as float64 bits with -0 as 0 and NaN as
    NULL; a dictionary as its values.

    :raises WireError: for a type that is none of these.
    """
    if pa.types.is_dictionary(array.type):
        return _hash_dictionary(array, column=column, seed=seed, null=null)
    if pa.types.is_null(array.type):
        return np.full(len(array), null, np.uint64)
    if pa.types.is_floating(array.type):
        numbers = number_column(array, column=column)
        hashes = hash_integers((numbers + 0.0).view(np.uint64), seed)
        hashes[np.isnan(numbers)] = null
        return hashes
    hashes = _hash_plain(array, column, seed)
    if array.null_count:
        hashes[array.is_null().to_numpy(zero_copy_only=False)] = null
    return hashes


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
    numbers = pc.cast(array, pa.float64(), safe=False)
    if numbers.null_count:
        numbers = pc.fill_null(numbers, float("nan"))
    result: Float64 = numbers.to_numpy(zero_copy_only=False)
    return result


def _has_number(type_: Any) -> bool:
    tests = (pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal, pa.types.is_null)
    return any(test(type_) for test in tests)


def _hash_dictionary(array: Any, *, column: str, seed: int, null: int) -> UInt64:
    hashes = hash_column(array.dictionary, column=column, seed=seed, null=null)
    # One more entry, for rows whose index is NULL.
    hashes = np.append(hashes, np.uint64(null))
    indices = array.indices.cast(pa.int64()).fill_null(len(hashes) - 1).to_numpy(zero_copy_only=False)
    taken: UInt64 = hashes[indices]
    return taken


def _hash_plain(array: Any, column: str, seed: int) -> UInt64:
    """Hashes of a column that is neither dictionary nor float; what NULLs hash to is unspecified."""
    type_ = array.type
    if pa.types.is_string(type_) or pa.types.is_binary(type_):
        return _hash_variable(array, np.int32, seed)
    if pa.types.is_large_string(type_) or pa.types.is_large_binary(type_):
        return _hash_variable(array, np.int64, seed)
    if pa.types.is_string_view(type_) or pa.types.is_binary_view(type_):
        return _hash_variable(array.cast(pa.large_binary()), np.int64, seed)
    if pa.types.is_integer(type_) or pa.types.is_boolean(type_) or _is_time(type_):
        return hash_integers(_integers(array), seed)
    if pa.types.is_decimal(type_) and type_.precision <= 38:
        array = array.cast(pa.decimal128(38, type_.scale))
        words = np.frombuffer(array.buffers()[1], np.uint64)[2 * array.offset :][: 2 * len(array)]
        return hash_decimals(words, type_.scale, seed)
    raise WireError(
        f"model input column {column!r} is {type_}, which cannot be hashed; "
        "use a string, integer, boolean, decimal, float or time column, or cast it in the feature set"
    )


def _hash_variable(array: Any, offset_type: type[np.int32] | type[np.int64], seed: int) -> UInt64:
    if len(array) == 0:
        return np.empty(0, np.uint64)
    _, offset_buffer, data_buffer = array.buffers()
    offsets: Int64 = np.frombuffer(offset_buffer, offset_type)[array.offset :][: len(array) + 1].astype(np.int64)
    data: UInt8 = np.frombuffer(data_buffer, np.uint8) if data_buffer else np.empty(0, np.uint8)
    return hash_strings(data, offsets, seed)


def _integers(array: Any) -> UInt64:
    """Any integer, boolean or time column as the bits of 64-bit integers; NULLs become 0."""
    if _is_time(array.type):
        array = _microseconds(array)
    width = pa.uint64() if pa.types.is_uint64(array.type) else pa.int64()
    array = array.cast(width)
    if array.null_count:
        array = array.fill_null(0)
    bits: UInt64 = array.to_numpy(zero_copy_only=False).view(np.uint64)
    return bits


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
