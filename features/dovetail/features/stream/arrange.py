"""Rows of a batch, sorted out: which still matter, in key and time order, as columns."""

from __future__ import annotations

import numpy as np

from dovetail.features.kernels.integers import INT64_MAX, INT64_MIN, bucket_start
from dovetail.features.kernels.words import Words
from dovetail.features.plan.definitions import TIME_BUCKET_ORIGIN_US
from dovetail.features.stream.layout import TIME_LIMIT_US
from dovetail.platform.compiling import compiled

__all__ = ["arrange_rows", "horizon_of"]


@compiled
def arrange_rows(
    codes: Words,
    times: Words,
    watermark_before: Words,
    masks: Words,
    values: Words,
    order: Words,
    keys: int,
    lateness: int,
    windows: Words,
) -> tuple[Words, Words, Words, int, int]:
    """Drop rows that cannot matter any more, and group the rest by key.

    Args:
        codes, times, watermark_before, masks, values: as in ``PreparedRows``, masks as int64.
        order: row numbers by ascending event time, stable.
        keys: how many.
        lateness: allowed lateness.
        windows: ``[W, 3]``: size, step or 0, and 1 where unbounded.

    Returns:
        ``fresh`` (columns time, mask, values of the kept rows, by key and time), ``fresh_starts`` ``[keys + 1]``,
        ``watermarks`` ``[keys]`` (highest at any row of the key, INT64_MIN without rows), rows expired, rows unused.
    """
    rows = codes.size
    kept = np.zeros(rows, np.bool_)
    fresh_starts = np.zeros(keys + 1, np.int64)
    watermarks = np.full(keys, INT64_MIN, np.int64)
    expired, unused = 0, 0
    known, horizon = INT64_MIN, INT64_MIN
    for i in range(rows):
        code = codes[i]
        if code < 0:
            unused += 1
            continue
        watermarks[code] = max(watermarks[code], watermark_before[i], times[i])
        if watermark_before[i] != known:
            known = watermark_before[i]
            horizon = horizon_of(known, lateness, windows)
        if times[i] < horizon:
            expired += 1
        elif masks[i] == 0:
            unused += 1
        else:
            kept[i] = True
            fresh_starts[code + 1] += 1
    fresh_starts = np.cumsum(fresh_starts)
    total, columns = fresh_starts[keys], values.shape[1]
    fresh = np.empty(total * (2 + columns), np.int64)
    ends = fresh_starts[:keys].copy()
    for n in range(rows):
        i = order[n]
        if kept[i]:
            at = ends[codes[i]]
            ends[codes[i]] += 1
            fresh[at] = times[i]
            fresh[total + at] = masks[i]
            for c in range(columns):
                fresh[(2 + c) * total + at] = values[i, c]
    return fresh, fresh_starts, watermarks, expired, unused


@compiled
def horizon_of(watermark: int, lateness: int, windows: Words) -> int:
    """First event time that a request at or after ``watermark - lateness`` can still see."""
    if watermark < -TIME_LIMIT_US:
        return INT64_MIN
    horizon = INT64_MAX
    for w in range(windows.shape[0]):
        if windows[w, 2] == 1:
            return INT64_MIN
        low = watermark - lateness - windows[w, 0]
        if windows[w, 1] > 0:
            low = bucket_start(low, windows[w, 1], TIME_BUCKET_ORIGIN_US)
        horizon = min(horizon, low)
    return horizon
