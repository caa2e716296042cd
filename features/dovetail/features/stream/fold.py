"""The two loops everything is made of: fold raw rows, or partials, into one aggregate.

An aggregate in progress is two words ``(x, y)``: COUNT, MIN and MAX use ``x``; SUM and SQUARES are ``(lo, hi)``.
All folds are associative and commutative on exact integers, so any order of rows, buckets and partitions agrees.

Loops count in unsigned integers: an index that cannot be negative needs no test for one, so they are vectorised, and no
slice is taken, whose reference count costs more than adding up the 64 words behind it.
"""

from __future__ import annotations

import numpy as np

from dovetail.features.kernels.integers import INT64_MAX, INT64_MIN, add128
from dovetail.features.kernels.words import Words
from dovetail.features.stream.layout import COUNT, MAX, MIN, SQUARES, SUM
from dovetail.platform.compiling import compiled

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
    count = np.uint64(last - first)
    masks = np.uint64(base + rows + first)
    values = np.uint64(base + (2 + column) * rows + first)
    if kind == COUNT:
        for i in range(count):
            x += (words[masks + i] >> bit) & 1
        return x, y
    if kind == SUM:
        low, high = 0, 0
        for i in range(count):
            value = words[values + i] & -((words[masks + i] >> bit) & 1)
            low += value & _LOW
            high += value >> 32
        x, y = add128(x, y, low, 0)
        return add128(x, y, high << 32, high >> 32)
    if kind == SQUARES:
        for i in range(count):
            low, high = square128(words[values + i] & -((words[masks + i] >> bit) & 1))
            x, y = add128(x, y, low, high)
        return x, y
    if kind == MIN:
        for i in range(count):
            x = min(x, words[values + i] if (words[masks + i] >> bit) & 1 else INT64_MAX)
        return x, y
    for i in range(count):
        x = max(x, words[values + i] if (words[masks + i] >> bit) & 1 else INT64_MIN)
    return x, y


@compiled
def fold_partials(
    x: int, y: int, kind: int, words: Words, column: int, partials: int, first: int, last: int
) -> tuple[int, int]:
    """Fold partials ``[first, last)`` of the list whose column for this aggregate begins at ``words[column]``."""
    count = np.uint64(last - first)
    values = np.uint64(column + first)
    if kind == COUNT:
        for i in range(count):
            x += words[values + i]
    elif kind in (SUM, SQUARES):
        highs = np.uint64(column + partials + first)
        low, middle, high = 0, 0, 0
        for i in range(count):
            low += words[values + i] & _LOW
            middle += (words[values + i] >> 32) & _LOW
            high += words[highs + i]
        x, y = add128(x, y, low, high)
        return add128(x, y, middle << 32, middle >> 32)
    elif kind == MIN:
        for i in range(count):
            x = min(x, words[values + i])
    else:
        for i in range(count):
            x = max(x, words[values + i])
    return x, y
