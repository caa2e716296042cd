"""Entries into values: what each window holds of a collection at each probe time."""

from __future__ import annotations

import numpy as np

from dovetail.features.kernels.integers import INT64_MAX, INT64_MIN, add128, bucket_of, lower_bound
from dovetail.features.kernels.words import Words
from dovetail.features.stream.collections.prune import fold_group, insert
from dovetail.features.stream.collections.rules import PLAIN_STEP
from dovetail.features.stream.fold import square128
from dovetail.features.stream.layout import UNBOUNDED_STEP
from dovetail.platform.compiling import compiled

__all__ = ["count_distinct", "fold_entries", "group_entries", "pick_best", "pick_distinct", "window_ranges"]


@compiled
def window_ranges(
    starts: Words,
    times: Words,
    keys: Words,
    at: Words,
    size: int,
    step: int,
    rows: int,
    before: int,
    skip: int,
    ranges: Words,
) -> None:
    """``ranges[p]`` = first and end of the entries in probe p's window, which ends so long ``before`` the probe.

    ``rows`` is -1 where no number bounds it, else how many of the last are in it, but for the last ``skip``.
    """
    for p in range(keys.size):
        ranges[p, 0], ranges[p, 1] = 0, 0
        if keys[p] < 0:
            continue
        first, last = starts[keys[p]], starts[keys[p] + 1]
        low = INT64_MIN
        if step != UNBOUNDED_STEP:
            low = at[p] - size
            if step != PLAIN_STEP:
                low = bucket_of(low, step)
        end = lower_bound(times, first, last, at[p] - before + 1)
        begin = lower_bound(times, first, end, low)
        if rows >= 0:
            begin, end = max(begin, end - rows), max(begin, end - skip)
        ranges[p, 0], ranges[p, 1] = begin, end


@compiled
def pick_best(
    ranges: Words, counted: Words, order: Words, k: int, descending: bool, picked: Words, lengths: Words
) -> None:
    """The k entries of each range that win, best first, into ``picked[p, :lengths[p]]``."""
    for p in range(ranges.shape[0]):
        held, rows = 0, ranges[p, 1] - ranges[p, 0]
        for n in range(rows):
            # Where time is the order, as it mostly is, each is worse than the one before and stays where it is put.
            i = ranges[p, 1] - 1 - n if descending else ranges[p, 0] + n
            if counted[i] == 1:
                held = insert(picked[p], held, k, i, order, descending)
        lengths[p] = held


@compiled
def pick_distinct(
    ranges: Words, counted: Words, codes: Words, values: int, k: int, descending: bool, picked: Words, lengths: Words
) -> None:
    """The k latest (or first) distinct values of each range, as the entries that hold them."""
    stamps = np.full(values, -1, np.int64)
    for p in range(ranges.shape[0]):
        held = 0
        for n in range(ranges[p, 1] - ranges[p, 0]):
            i = ranges[p, 1] - 1 - n if descending else ranges[p, 0] + n
            if counted[i] == 1 and stamps[codes[i]] != p and held < k:
                stamps[codes[i]] = p
                picked[p, held] = i
                held += 1
        lengths[p] = held


@compiled
def count_distinct(ranges: Words, counted: Words, codes: Words, values: int, counts: Words) -> None:
    """How many distinct values each range has."""
    stamps = np.full(values, -1, np.int64)
    for p in range(ranges.shape[0]):
        counts[p] = 0
        for i in range(ranges[p, 0], ranges[p, 1]):
            if counted[i] == 1 and stamps[codes[i]] != p:
                stamps[codes[i]] = p
                counts[p] += 1


@compiled
def group_entries(
    ranges: Words, counted: Words, codes: Words, values: int, sums: Words, fold: int, groups: Words, lengths: Words
) -> int:
    """One row per probe and distinct value into ``groups[:, (probe, code, entry, count, lo, hi)]``; how many rows.

    ``sums`` and ``fold`` are as ``prune.py`` has them.
    """
    stamps, slots = np.full(values, -1, np.int64), np.zeros(values, np.int64)
    n = 0
    for p in range(ranges.shape[0]):
        lengths[p] = 0
        for i in range(ranges[p, 0], ranges[p, 1]):
            if counted[i] != 1:
                continue
            code = codes[i]
            if stamps[code] != p:
                stamps[code], slots[code] = p, n
                groups[n, 0], groups[n, 1], groups[n, 2] = p, code, i
                groups[n, 3], groups[n, 4], groups[n, 5] = sums[i, 0], sums[i, 1], sums[i, 2]
                lengths[p] += 1
                n += 1
            else:
                fold_group(groups, slots[code], 3, sums, i, fold)
    return n


@compiled
def fold_entries(ranges: Words, counted: Words, words: Words, folded: Words) -> None:
    """Count, Σx (lo, hi), Σx² (lo, hi), least and greatest of each range into ``folded[p]``."""
    for p in range(ranges.shape[0]):
        count, lo, hi, squares_lo, squares_hi, least, greatest = 0, 0, 0, 0, 0, INT64_MAX, INT64_MIN
        for i in range(ranges[p, 0], ranges[p, 1]):
            if counted[i] == 1:
                word = words[i]
                count += 1
                lo, hi = add128(lo, hi, word, word >> 63)
                x, y = square128(word)
                squares_lo, squares_hi = add128(squares_lo, squares_hi, x, y)
                least, greatest = min(least, word), max(greatest, word)
        folded[p, 0], folded[p, 1], folded[p, 2], folded[p, 3] = count, lo, hi, squares_lo
        folded[p, 4], folded[p, 5], folded[p, 6] = squares_hi, least, greatest
