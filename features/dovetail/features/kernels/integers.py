"""The integer arithmetic that kernels of features share.

Words are int64 throughout, also where they are read as unsigned: numba turns int64 ⊕ uint64 into float64.
A 128-bit integer is ``(lo, hi)``, two's complement, ``lo`` read as unsigned.
"""

from __future__ import annotations

from dovetail.features.kernels.words import Words
from dovetail.features.plan.definitions import TIME_BUCKET_ORIGIN_US
from dovetail.platform.compiling import compiled

__all__ = [
    "INT64_MAX",
    "INT64_MIN",
    "add128",
    "boundary_of",
    "bucket_end",
    "bucket_of",
    "bucket_start",
    "copy_words",
    "lower_bound",
    "unsigned_less",
]

INT64_MIN = -(1 << 63)
INT64_MAX = (1 << 63) - 1


@compiled
def unsigned_less(a: int, b: int) -> bool:
    """``a < b`` with both read as unsigned 64-bit."""
    return (a ^ INT64_MIN) < (b ^ INT64_MIN)


@compiled
def add128(lo: int, hi: int, other_lo: int, other_hi: int) -> tuple[int, int]:
    """Sum of two 128-bit integers, modulo 2**128."""
    low = lo + other_lo
    carry = 1 if unsigned_less(low, lo) else 0
    return low, hi + other_hi + carry


@compiled
def bucket_start(time: int, step: int, origin: int) -> int:
    """Start of the bucket of width ``step``, counted from ``origin``, that ``time`` is in; floors before the origin."""
    return (time - origin) // step * step + origin


@compiled
def bucket_of(time: int, step: int) -> int:
    """The bucket that stores the partial of ``time``; a step of 0 has one bucket for all times."""
    if step == 0:
        return -(1 << 62)
    return bucket_start(time, step, TIME_BUCKET_ORIGIN_US)


@compiled
def bucket_end(bucket: int, step: int) -> int:
    """First time after the bucket."""
    return INT64_MAX if step == 0 else bucket + step


@compiled
def boundary_of(floor: int, step: int) -> int:
    """The collapse boundary: rows before it are in partials. With one bucket for all times it need not be an edge."""
    return floor if step == 0 else bucket_start(floor, step, TIME_BUCKET_ORIGIN_US)


@compiled
def copy_words(out: Words, at: int, words: Words, first: int, count: int) -> None:
    """``out[at : at + count] = words[first : first + count]``, which takes numba ten times as long to compile."""
    for i in range(count):
        out[at + i] = words[first + i]


@compiled
def lower_bound(words: Words, first: int, last: int, value: int) -> int:
    """First index in ``[first, last)`` whose word is not below ``value``; ``last`` if none. Ascending words."""
    while first < last:
        middle = (first + last) >> 1
        if words[middle] < value:
            first = middle + 1
        else:
            last = middle
    return first
