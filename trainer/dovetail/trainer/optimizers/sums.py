"""The distinct slots of a batch, and the sums of its gradients by slot."""

from __future__ import annotations

import numpy as np

from dovetail.platform.compiling import compiled_as_ieee
from dovetail.trainer.arithmetic import Float32, Float64, Int32, UInt32

__all__ = ["distinct_slots", "sums_by_slot"]

# Fibonacci hashing: 2^64 divided by the golden ratio spreads what is alike or in a row.
_SPREAD = np.uint64(0x9E3779B97F4A7C15)


def sums_by_slot(slots: UInt32, gradients: Float32) -> tuple[UInt32, Float32]:
    """The distinct slots of two [n] arrays, as they first appear, uint32 [m], and the sum of each's gradients.

    Sums run in float64, in the order given, and are rounded once: float32 [m]. One beyond float32 is infinite.
    """
    places, shift = _table(len(slots))
    distinct, sums = np.empty(len(slots), np.uint32), np.empty(len(slots), np.float64)
    count = _sum(slots, gradients, places, shift, distinct, sums)
    with np.errstate(over="ignore"):
        return distinct[:count], sums[:count].astype(np.float32)


def distinct_slots(slots: UInt32, values: Float32) -> tuple[UInt32, UInt32]:
    """The distinct slots of inputs that are there, as they first appear, uint32 [m], and which one each input has.

    Both are [n, k], as is the second answer, uint32; an input of value 0 is absent and has ``m``.
    """
    places, shift = _table(slots.size)
    distinct, which = np.empty(slots.size, np.uint32), np.empty(slots.size, np.uint32)
    count = _distinct(slots.ravel(), values.ravel(), places, shift, distinct, which)
    which[which == slots.size] = count
    return distinct[:count], which.reshape(slots.shape)


def _table(slots: int) -> tuple[Int32, np.uint64]:
    """Free places for so many slots, twice as many, and how far a hash is shifted to be one."""
    bits = max(1, (2 * slots).bit_length())
    return np.full(1 << bits, -1, np.int32), np.uint64(64 - bits)


@compiled_as_ieee
def _place(slot: np.uint32, places: Int32, shift: np.uint64, distinct: UInt32) -> np.uint64:
    """Where a slot is in the table, or is to be: the next free place where another slot is."""
    last = np.uint64(len(places) - 1)
    at = (np.uint64(slot) * _SPREAD) >> shift
    while places[at] >= 0 and distinct[places[at]] != slot:
        at = (at + np.uint64(1)) & last
    return at


@compiled_as_ieee
def _sum(slots: UInt32, gradients: Float32, places: Int32, shift: np.uint64, distinct: UInt32, sums: Float64) -> int:
    count = 0
    for i in range(len(slots)):
        at = _place(slots[i], places, shift, distinct)
        if places[at] < 0:
            places[at] = count
            distinct[count] = slots[i]
            # As from zero: of -0.0 alone the sum is 0.0.
            sums[count] = 0.0 + np.float64(gradients[i])
            count += 1
        else:
            sums[places[at]] += np.float64(gradients[i])
    return count


@compiled_as_ieee
def _distinct(slots: UInt32, values: Float32, places: Int32, shift: np.uint64, distinct: UInt32, which: UInt32) -> int:
    count = 0
    for i in range(len(slots)):
        if values[i] == 0:
            which[i] = len(slots)
            continue
        at = _place(slots[i], places, shift, distinct)
        if places[at] < 0:
            places[at] = count
            distinct[count] = slots[i]
            count += 1
        which[i] = places[at]
    return count
