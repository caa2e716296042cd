"""Values as ordered words: every scalar type maps to int64 such that integer order is DuckDB's order.

Integers, booleans, dates and timestamps are as they are, decimals unscaled, floats the bits of their double with -0.0
as 0.0 and one NaN above all others.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from dovetail.features.kernels.words import (
    Words,
    canonical_floats,
    decimal_of_words,
    decimal_words,
    validity_buffer,
)

__all__ = ["from_words", "to_words"]

_INT64_MAX = (1 << 63) - 1


def to_words(array: pa.Array | pa.ChunkedArray) -> Words:
    """The values as int64 in DuckDB's order; 0 where NULL. Types: those of :func:`~.layout.supported` arguments."""
    if isinstance(array, pa.ChunkedArray):
        array = array.combine_chunks()
    type_ = array.type
    if pa.types.is_decimal128(type_):
        return decimal_words(array)[0].view(np.int64)
    if pa.types.is_floating(type_):
        doubles = canonical_floats(array).cast(pa.float64()).fill_null(0.0).to_numpy(zero_copy_only=False)
        return _flip(np.asarray(doubles, dtype=np.float64).view(np.int64))
    if pa.types.is_date32(type_):
        array = array.view(pa.int32())
    integers = array.cast(pa.int64()).fill_null(0)
    return np.asarray(integers.to_numpy(zero_copy_only=False), dtype=np.int64)


def from_words(words: Words, present: npt.NDArray[np.bool_], type_: pa.DataType) -> pa.Array:
    """The inverse of :func:`to_words`: an array of ``type_``, NULL where ``present`` is False."""
    validity = validity_buffer(present)
    words = np.ascontiguousarray(words) if validity is None else np.where(present, words, 0)
    if isinstance(type_, pa.Decimal128Type):
        return decimal_of_words(words, present, type_)
    if pa.types.is_floating(type_):
        doubles = _flip(words).view(np.float64)
        exact = doubles.astype(type_.to_pandas_dtype())
        return pa.Array.from_buffers(type_, len(exact), [validity, pa.py_buffer(exact)])
    whole = pa.Array.from_buffers(pa.int64(), len(words), [validity, pa.py_buffer(words)])
    if pa.types.is_date32(type_):
        return whole.cast(pa.int32()).view(type_)
    return whole if type_ == whole.type else whole.cast(type_)


def _flip(bits: Words) -> Words:
    """Between the bits of doubles and integers of the same order; its own inverse."""
    return bits ^ ((bits >> 63) & _INT64_MAX)
