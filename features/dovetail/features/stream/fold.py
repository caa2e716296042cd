"""The two loops everything is made of: fold raw rows, or partials, into one aggregate.

An aggregate in progress is two words ``(x, y)``: COUNT, MIN and MAX use ``x``; SUM and SQUARES are ``(lo, hi)``.
All folds are associative and commutative on exact integers, so any order of rows, buckets and partitions agrees.
"""

from __future__ import annotations

from dovetail.features.stream.kernel import INT64_MAX, INT64_MIN, Words, add128, compiled
from dovetail.features.stream.layout import COUNT, MAX, MIN, SQUARES, SUM

__all__ = ["fold_partials", "fold_rows", "identity", "square128", "words_of"]

_LOW = (1 << 32) - 1


@compiled
def words_of(kind: int) -> int:
    """Words that an aggregate in progress takes in a partial."""
    return 2 if kind in (SUM, SQUARES) else 1


@compiled
def square128(value: int) -> tuple[int, int]:
    """``value²`` for ``|value| < 2**47``, as (lo, hi)."""
    high, low = value >> 24, value & 0xFFFFFF
    lo, hi = high * high << 48, high * high >> 16
    lo, hi = add128(lo, hi, high * low << 25, high * low >> 39)
    return add128(lo, hi, low * low, 0)


@compiled
def identity(kind: int) -> tuple[int, int]:
    """``(x, y)`` of an aggregate over nothing."""
    if kind == MIN:
        return INT64_MAX, 0
    return INT64_MIN if kind == MAX else 0, 0


@compiled
def fold_rows(
    x: int, y: int, kind: int, bit: int, column: int, words: Words, base: int, rows: int, first: int, last: int
) -> tuple[int, int]:
    """Fold rows ``[first, last)`` whose mask has ``bit``; ``words[base:]`` is times, masks, values, ``rows`` each."""
    masks = words[base + rows + first : base + rows + last]
    if kind == COUNT:
        for i in range(masks.size):
            x += (masks[i] >> bit) & 1
        return x, y
    start = base + (2 + column) * rows
    values = words[start + first : start + last]
    if kind == SUM:
        # Halves of 32 bits cannot overflow below 2**31 rows, and need no carry inside the loop.
        low, high = 0, 0
        for i in range(masks.size):
            value = values[i] & -((masks[i] >> bit) & 1)
            low += value & _LOW
            high += value >> 32
        x, y = add128(x, y, low, 0)
        return add128(x, y, high << 32, high >> 32)
    if kind == SQUARES:
        for i in range(masks.size):
            low, high = square128(values[i] & -((masks[i] >> bit) & 1))
            x, y = add128(x, y, low, high)
        return x, y
    if kind == MIN:
        for i in range(masks.size):
            x = min(x, values[i] if (masks[i] >> bit) & 1 else INT64_MAX)
        return x, y
    for i in range(masks.size):
        x = max(x, values[i] if (masks[i] >> bit) & 1 else INT64_MIN)
    return x, y


@compiled
def fold_partials(
    x: int, y: int, kind: int, words: Words, column: int, partials: int, first: int, last: int
) -> tuple[int, int]:
    """Fold partials ``[first, last)`` of the list whose column for this aggregate begins at ``words[column]``."""
    values = words[column + first : column + last]
    if kind == COUNT:
        for i in range(values.size):
            x += values[i]
    elif kind in (SUM, SQUARES):
        highs = words[column + partials + first : column + partials + last]
        low, middle, high = 0, 0, 0
        for i in range(values.size):
            low += values[i] & _LOW
            middle += (values[i] >> 32) & _LOW
            high += highs[i]
        x, y = add128(x, y, low, high)
        return add128(x, y, middle << 32, middle >> 32)
    elif kind == MIN:
        for i in range(values.size):
            x = min(x, values[i])
    else:
        for i in range(values.size):
            x = max(x, values[i])
    return x, y
