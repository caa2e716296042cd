"""Sums of a batch's gradients by slot."""

from __future__ import annotations

import numpy as np

from dovetail.platform.compiling import compiled_as_ieee
from dovetail.trainer.arithmetic import Float32, Float64, Int32, UInt32

__all__ = ["sums_by_slot"]

# Fibonacci hashing: 2^64 divided by the golden ratio spreads what is alike or in a row.
_SPREAD = np.uint64(0x9E3779B97F4A7C15)


def sums_by_slot(slots: UInt32, gradients: Float32) -> tuple[UInt32, Float32]:
    """The distinct slots of two [n] arrays, as they first appear, uint32 [m], and the sum of each's gradients.

    Sums run in float64, in the order given, and are rounded once: float32 [m]. One beyond float32 is infinite.
    """
    bits = max(1, (2 * len(slots)).bit_length())
    places = np.full(1 << bits, -1, np.int32)
    distinct, sums = np.empty(len(slots), np.uint32), np.empty(len(slots), np.float64)
    count = _sum(slots, gradients, places, np.uint64(64 - bits), distinct, sums)
    with np.errstate(over="ignore"):
        return distinct[:count], sums[:count].astype(np.float32)


@compiled_as_ieee
def _sum(slots: UInt32, gradients: Float32, places: Int32, shift: np.uint64, distinct: UInt32, sums: Float64) -> int:
    """Look each slot up in a table of at least twice as many places, the next free one where another slot is."""
    count = 0
    last = np.uint64(len(places) - 1)
    for i in range(len(slots)):
        at = (np.uint64(slots[i]) * _SPREAD) >> shift
        while places[at] >= 0 and distinct[places[at]] != slots[i]:
            at = (at + np.uint64(1)) & last
        if places[at] < 0:
            places[at] = count
            distinct[count] = slots[i]
            # As from zero: of -0.0 alone the sum is 0.0.
            sums[count] = 0.0 + np.float64(gradients[i])
            count += 1
        else:
            sums[places[at]] += np.float64(gradients[i])
    return count
