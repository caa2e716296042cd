"""Arrow arrays as the words that kernels work on, and back: no row of them is touched by Python.

A 128-bit integer is two words: ``lo`` (uint64) and ``hi`` (int64), two's complement, which is Arrow's decimal128 in
memory. Nothing here is compiled.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from dovetail.platform.errors import StateError

__all__ = [
    "Words",
    "canonical_floats",
    "decimal_array",
    "decimal_of_words",
    "decimal_words",
    "require_38_digits",
    "validity_buffer",
]

#: Integers as kernels take them, also where they are read as unsigned.
Words = npt.NDArray[np.int64]

_TEN_38_LO, _TEN_38_HI = np.uint64(10**38 & (1 << 64) - 1), np.int64(10**38 >> 64)
_MINUS_TEN_38_LO, _MINUS_TEN_38_HI = np.uint64(-(10**38) & (1 << 64) - 1), np.int64(-(10**38) >> 64)


def decimal_words(array: pa.Array | pa.ChunkedArray) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.int64]]:
    """``(lo, hi)`` of the unscaled values of a decimal128 array; 0 where it is NULL. No Python per row."""
    if isinstance(array, pa.ChunkedArray):
        array = array.combine_chunks()
    data = array.buffers()[1]
    if data is None or len(array) == 0:
        pairs = np.zeros((len(array), 2), dtype=np.int64)
    else:
        words = np.frombuffer(data, dtype=np.int64, count=2 * (array.offset + len(array)))
        pairs = words[2 * array.offset :].reshape(-1, 2)
    if array.null_count:
        pairs = pairs * np.asarray(array.is_valid().to_numpy(zero_copy_only=False), dtype=np.int64)[:, None]
    return pairs[:, 0].copy().view(np.uint64), pairs[:, 1].copy()


def decimal_array(
    lo: npt.NDArray[np.uint64], hi: npt.NDArray[np.int64], present: npt.NDArray[np.bool_], type_: pa.Decimal128Type
) -> pa.Array:
    """The decimal128 array whose unscaled values are ``(lo, hi)``; NULL where ``present`` is False.

    Raises:
        StateError: a value has more than 38 digits.
    """
    require_38_digits(lo, hi, present, what="sum")
    return _paired(lo.view(np.int64), hi, present, type_)


def decimal_of_words(
    words: npt.NDArray[np.int64], present: npt.NDArray[np.bool_], type_: pa.Decimal128Type
) -> pa.Array:
    """The decimal128 array whose unscaled values are ``words``; NULL where ``present`` is False."""
    return _paired(words, words >> 63, present, type_)


def _paired(
    lo: npt.NDArray[np.int64], hi: npt.NDArray[np.int64], present: npt.NDArray[np.bool_], type_: pa.Decimal128Type
) -> pa.Array:
    pairs = np.empty((len(hi), 2), dtype=np.int64)
    pairs[:, 0] = lo
    pairs[:, 1] = hi
    return pa.Array.from_buffers(type_, len(hi), [validity_buffer(present), pa.py_buffer(pairs)])


def require_38_digits(
    lo: npt.NDArray[np.uint64], hi: npt.NDArray[np.int64], present: npt.NDArray[np.bool_], *, what: str
) -> None:
    """Refuse sums that ``DECIMAL(38,s)`` cannot hold: overflow is an error, not a wrap.

    Raises:
        StateError: naming the first such row.
    """
    if len(hi) and hi.max() < _TEN_38_HI and hi.min() > _MINUS_TEN_38_HI:
        return
    above = (hi > _TEN_38_HI) | ((hi == _TEN_38_HI) & (lo >= _TEN_38_LO))
    below = (hi < _MINUS_TEN_38_HI) | ((hi == _MINUS_TEN_38_HI) & (lo <= _MINUS_TEN_38_LO))
    wrong = (above | below) & present
    if wrong.any():
        row = int(np.argmax(wrong))
        raise StateError(
            f"{what}: row {row} has a sum of {(int(hi[row]) << 64) + int(lo[row])}, which does not fit DECIMAL(38); "
            "use a shorter window or an argument of smaller magnitude"
        )


def canonical_floats(array: pa.Array | pa.ChunkedArray) -> pa.Array:
    """A float array with one zero (-0.0 becomes 0.0) and one NaN; everything else, NULLs too, is kept.

    0.0 and -0.0 are equal, so which of them DuckDB's ``min``/``max`` returns depends on the order of evaluation. Both
    engines pass their results through this: it makes the answer one answer without changing its value.
    """
    if isinstance(array, pa.ChunkedArray):
        array = array.combine_chunks()
    dtype: Any = array.type.to_pandas_dtype()
    present = np.asarray(array.is_valid().to_numpy(zero_copy_only=False), dtype=np.bool_)
    values = np.array(array.fill_null(0.0).to_numpy(zero_copy_only=False), dtype=dtype)
    values[values == 0] = 0
    values[np.isnan(values)] = np.nan
    return pa.Array.from_buffers(array.type, len(values), [validity_buffer(present), pa.py_buffer(values)])


def validity_buffer(present: npt.NDArray[np.bool_]) -> pa.Buffer | None:
    """Arrow's validity bitmap; None (all valid) when nothing is missing."""
    return None if present.all() else pa.py_buffer(np.packbits(present, bitorder="little"))
