"""Drops the entries that a collection no longer needs: the rules of ``collections/rules.py``, key after key."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from dovetail.features.kernels.integers import add128, boundary_of, bucket_of, lower_bound
from dovetail.features.kernels.words import Words
from dovetail.features.stream.collections.rules import (
    ADD,
    BEST,
    FIRST,
    GROUP,
    LATEST,
    LEAST,
    PLAIN_STEP,
    ROWS,
)
from dovetail.platform.compiling import compiled

__all__ = ["better", "fold_group", "insert", "prune"]


@compiled
def better(a: int, b: int, order: Words, descending: bool) -> bool:
    """Whether entry a wins against entry b; indices are in total order."""
    if order[a] != order[b]:
        return bool((order[a] > order[b]) == descending)
    return (a > b) == descending


@compiled
def insert(best: Words, held: int, k: int, entry: int, order: Words, descending: bool) -> int:
    """Put ``entry`` among the ``held`` best, best first, of which at most ``k`` are kept; how many there are then."""
    if held == k:
        if not better(entry, best[k - 1], order, descending):
            return held
        held -= 1
    at = held
    while at > 0 and better(entry, best[at - 1], order, descending):
        best[at] = best[at - 1]
        at -= 1
    best[at] = entry
    return held + 1


@compiled
def fold_group(into: Words, at: int, column: int, sums: Words, i: int, fold: int) -> None:
    """Fold ``sums[i]``, a count and what is folded, into ``into[at, column:]``."""
    into[at, column] += sums[i, 0]
    if fold == ADD:
        lo, hi = add128(into[at, column + 1], into[at, column + 2], sums[i, 1], sums[i, 2])
        into[at, column + 1], into[at, column + 2] = lo, hi
    elif (sums[i, 1] < into[at, column + 1]) == (fold == LEAST):
        into[at, column + 1], into[at, column + 2] = sums[i, 1], sums[i, 2]


@compiled
def prune(
    starts: Words,
    times: Words,
    positions: Words,
    codes: Words,
    order: Words,
    sums: Words,
    floors: Words,
    lows: Words,
    rule: int,
    k: int,
    step: int,
    descending: bool,
    fold: int,
    keep: npt.NDArray[np.bool_],
) -> None:
    """Set ``keep``; for GROUP also rewrite ``times``, ``positions`` and ``sums`` of the entries that took in others.

    Args:
        starts: key i's entries are ``[starts[i], starts[i + 1])``, in total order.
        times, positions, order: of each entry. codes: of each entry's value, dense: equal exactly where values are.
        sums: ``[E, 3]`` count, then lo, hi of the sum, or in lo the least or greatest; only for GROUP.
        floors, lows: of each key: the earliest end of a window, and the first event time worth keeping.
        rule, k, step, descending, fold: see ``Collection``.
    """
    values = 0
    for i in range(codes.size):
        values = max(values, codes[i] + 1)
    stamps, slots = np.zeros(values, np.int64), np.zeros(values, np.int64)
    best = np.empty(k if rule == BEST else 0, np.int64)
    stamp = 0
    for key in range(starts.size - 1):
        last = starts[key + 1]
        first = lower_bound(times, starts[key], last, lows[key])
        end = lower_bound(times, first, last, floors[key] + 1)
        keep[first:last] = True
        stamp += 1
        if rule == ROWS:
            keep[first : max(first, end - k)] = False
        elif rule == LATEST:
            _keep_latest(first, end, codes, k, stamps, stamp, keep)
        elif rule == BEST:
            _keep_best(first, end, times, step, order, descending, best, keep)
        elif rule == FIRST:
            stamp = _keep_first(first, end, times, step, codes, stamps, stamp, keep)
        elif rule == GROUP and step != PLAIN_STEP:
            end = lower_bound(times, first, last, boundary_of(floors[key], step))
            stamp = _merge_groups(first, end, times, positions, step, codes, sums, fold, stamps, slots, stamp, keep)


@compiled
def _keep_latest(
    first: int, end: int, codes: Words, k: int, stamps: Words, stamp: int, keep: npt.NDArray[np.bool_]
) -> None:
    seen = 0
    for n in range(end - first):
        i = end - 1 - n
        keep[i] = stamps[codes[i]] != stamp and seen < k
        if keep[i]:
            stamps[codes[i]] = stamp
            seen += 1


@compiled
def _keep_best(
    first: int,
    end: int,
    times: Words,
    step: int,
    order: Words,
    descending: bool,
    best: Words,
    keep: npt.NDArray[np.bool_],
) -> None:
    held = 0
    while end > first:
        lower = _bucket_begin(times, first, end, step)
        keep[lower:end] = False
        for n in range(end - lower):
            i = end - 1 - n if descending else lower + n  # of times in order, each is worse than the one before
            if held == best.size:
                last = best[held - 1]
                if not better(i, last, order, descending):
                    continue
                if last < end:  # of the same run; one of a later run is in windows that this one is not in
                    keep[last] = False
            held = insert(best, held, best.size, i, order, descending)
            keep[i] = True
        end = lower


@compiled
def _keep_first(
    first: int,
    end: int,
    times: Words,
    step: int,
    codes: Words,
    stamps: Words,
    stamp: int,
    keep: npt.NDArray[np.bool_],
) -> int:
    while end > first:
        lower = _bucket_begin(times, first, end, step)
        stamp += 1
        for i in range(lower, end):
            keep[i] = stamps[codes[i]] != stamp
            stamps[codes[i]] = stamp
        end = lower
    return stamp


@compiled
def _merge_groups(
    first: int,
    end: int,
    times: Words,
    positions: Words,
    step: int,
    codes: Words,
    sums: Words,
    fold: int,
    stamps: Words,
    slots: Words,
    stamp: int,
    keep: npt.NDArray[np.bool_],
) -> int:
    while end > first:
        lower = _bucket_begin(times, first, end, step)
        bucket = bucket_of(times[lower], step)
        stamp += 1
        for i in range(lower, end):
            times[i], positions[i] = bucket, 0
            if stamps[codes[i]] == stamp:
                into = slots[codes[i]]
                keep[i] = False
                fold_group(sums, into, 0, sums, i, fold)
            else:
                stamps[codes[i]], slots[codes[i]] = stamp, i
        end = lower
    return stamp


@compiled
def _bucket_begin(times: Words, first: int, upper: int, step: int) -> int:
    """Begin of the run of entries before ``upper`` that are in all the same windows."""
    if step == PLAIN_STEP:
        return upper - 1
    bucket = bucket_of(times[upper - 1], step)
    return lower_bound(times, first, upper, bucket)
