"""The shape of a distribution, of the values that a window holds and how often it holds each: entropy and moments.

The values ascend, so the sums have one order however the events came, and both engines finish the same numbers here.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from dovetail.features.kernels.integers import add128, unsigned_less
from dovetail.features.kernels.words import Words, validity_buffer
from dovetail.platform.compiling import compiled

__all__ = ["entropy", "moments", "shaped"]

_KINDS = {"skewness": 0, "kurtosis": 1, "kurtosis_pop": 2}


def entropy(counts: Words, lengths: Words) -> pa.DoubleArray:
    """The entropy of each distribution in bits, as DuckDB's ``entropy``: 0.0 of a window without values.

    Args:
        counts: how often each value occurs, int64, one distribution after the other.
        lengths: how many distinct values each distribution has, int64 ``[n]``.

    Returns:
        float64 array of length n without NULL.
    """
    results = np.zeros(len(lengths), dtype=np.float64)
    _entropies(_own(counts), _own(lengths), results)
    return pa.array(results)


def moments(kind: str, words: Words, counts: Words, lengths: Words) -> pa.DoubleArray:
    """``skewness``, ``kurtosis`` or ``kurtosis_pop`` of each distribution, as DuckDB defines them.

    With ``d = n·x - Σx``, an exact integer rounded once, ``D_k`` the sum of its k-th powers, which are added with
    compensation: skewness is ``√(n·(n - 1)) / (n - 2) · D₃·√n / D₂^1.5``; kurtosis_pop ``n·D₄ / D₂² - 3``, kurtosis the
    same corrected for a sample. None of them depends on the scale of a DECIMAL.

    Args:
        words: the unscaled values, int64, those of one distribution ascending. counts, lengths: as in :func:`entropy`;
            the counts of a distribution add up to less than 2**62.

    Returns:
        float64 array; NULL where all values are equal or there are too few of them: below 3 for skewness, 4 for
        kurtosis, 2 for kurtosis_pop.
    """
    results, present = np.zeros(len(lengths), dtype=np.float64), np.zeros(len(lengths), dtype=np.bool_)
    _moments(_KINDS[kind], _own(words), _own(counts), _own(lengths), results, present)
    return pa.Array.from_buffers(pa.float64(), len(results), [validity_buffer(present), pa.py_buffer(results)])


def shaped(
    function: str, words: Words, counts: Words, lengths: Words, answerable: npt.NDArray[np.bool_]
) -> pa.DoubleArray:
    """:func:`entropy` or :func:`moments`, whichever ``function`` names; NULL where not ``answerable``."""
    found = entropy(counts, lengths) if function == "entropy" else moments(function, words, counts, lengths)
    return found if answerable.all() else pc.if_else(pa.array(answerable), found, pa.scalar(None, pa.float64()))


def _own(array: Words) -> Words:
    return np.require(array, dtype=np.int64, requirements=["C", "W"])


@compiled
def _entropies(counts: Words, lengths: Words, results: npt.NDArray[np.float64]) -> None:
    first = 0
    for i in range(lengths.size):
        last, n, total = first + lengths[i], 0, 0.0
        for j in range(first, last):
            n += counts[j]
        for j in range(first, last):
            share = counts[j] / n
            total -= share * math.log2(share)
        results[i] = max(total, 0.0)
        first = last


@compiled
def _moments(
    kind: int,
    words: Words,
    counts: Words,
    lengths: Words,
    results: npt.NDArray[np.float64],
    present: npt.NDArray[np.bool_],
) -> None:
    first = 0
    for i in range(lengths.size):
        last, n, lo, hi = first + lengths[i], 0, 0, 0
        for j in range(first, last):
            n += counts[j]
            low, high = _product(words[j], counts[j])
            lo, hi = add128(lo, hi, low, high)
        powers, lost = np.zeros(3), np.zeros(3)
        for j in range(first, last):
            low, high = _product(words[j], n)
            borrow = 1 if unsigned_less(low, lo) else 0
            distance = _double(low - lo, high - hi - borrow)
            term = counts[j] * distance
            for k in range(3):
                term *= distance
                total = powers[k] + term
                lost[k] += (powers[k] - total) + term if abs(powers[k]) >= abs(term) else (term - total) + powers[k]
                powers[k] = total
        first = last
        second, third, fourth = powers[0] + lost[0], powers[1] + lost[1], powers[2] + lost[2]
        if second == 0.0 or n < (3 if kind == 0 else 4 if kind == 1 else 2):
            continue
        size = float(n)
        present[i] = True
        if kind == 0:
            bias = math.sqrt(size * (size - 1.0)) / (size - 2.0)
            results[i] = bias * (third * math.sqrt(size) / (second * math.sqrt(second)))
        else:
            ratio = size * (fourth / (second * second))
            results[i] = ratio - 3.0
            if kind == 1:
                rest = (size + 1.0) * ratio - 3.0 * (size - 1.0)
                results[i] = (size - 1.0) / (size - 2.0) * rest / (size - 3.0)


@compiled
def _product(x: int, n: int) -> tuple[int, int]:
    """``x·n`` in 128 bits; n is not negative."""
    low_x, high_x, low_n, high_n = x & 0xFFFFFFFF, x >> 32, n & 0xFFFFFFFF, n >> 32
    low = low_x * low_n
    middle = high_x * low_n + ((low >> 32) & 0xFFFFFFFF)
    cross = low_x * high_n + (middle & 0xFFFFFFFF)
    return (cross << 32) | (low & 0xFFFFFFFF), high_x * high_n + (middle >> 32) + (cross >> 32)


@compiled
def _double(lo: int, hi: int) -> float:
    """A 128-bit integer as a double, within a unit in the last place."""
    if hi == lo >> 63:
        return float(lo)
    word = 18446744073709551616.0
    return float(hi) * word + (float(lo) if lo >= 0 else float(lo) + word)
