"""Events into states: merge new rows into the raw rows, and everything below the collapse boundary into partials.

For a key with watermark W, ``floor = W - allowed_lateness`` is the earliest time that may still be asked for. Then:

- partials of a step cover the buckets from ``bucket_start(floor - reach)`` up to but not
  ``B = bucket_start(floor - end)``, ``end`` being how long before a request the windows end, mostly 0 (unbounded
  windows: one partial of all before ``B = floor - end``);
- raw rows cover everything from the lowest of ``floor - plain_reach`` and the ``B`` of every step.

So the state is a function of the rows accepted and of W alone: neither the order in which rows came nor where polls
were cut leaves a trace in it (rows of one event time keep their order of arrival).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from dovetail.features.kernels.integers import (
    INT64_MAX,
    INT64_MIN,
    boundary_of,
    bucket_end,
    bucket_of,
    copy_words,
    lower_bound,
)
from dovetail.features.kernels.words import Words
from dovetail.features.stream.blobs import MAGIC
from dovetail.features.stream.fold import fold_partials, fold_rows, identity, words_of
from dovetail.features.stream.layout import Layout
from dovetail.platform.compiling import compiled

__all__ = ["UpdatePlan", "merge_states"]


class UpdatePlan(NamedTuple):
    """A layout as :func:`merge_states` reads it."""

    fingerprint: int
    lateness: int
    plain_reach: int  # -1 without plain windows
    columns: int  # value columns
    steps: Words  # [S, 3]: step, reach, end
    op_offsets: Words  # [S + 1]: the ops of step s are ops[op_offsets[s] : op_offsets[s + 1]]
    ops: Words  # [ops, 3]: kind, bit, column

    @classmethod
    def of(cls, layout: Layout) -> UpdatePlan:
        """The plan of ``layout``."""
        reach = -1 if layout.plain_reach_us is None else layout.plain_reach_us
        offsets = np.cumsum([0] + [len(step.ops) for step in layout.steps], dtype=np.int64)
        lists = [(step.step_us, step.reach_us, step.end_us) for step in layout.steps]
        steps = np.array(lists, dtype=np.int64).reshape(-1, 3)
        ops = np.array([op for step in layout.steps for op in step.ops], dtype=np.int64).reshape(-1, 3)
        columns = len(layout.value_arguments)
        return cls(layout.fingerprint, layout.lateness_us, reach, columns, steps, offsets, ops)


@compiled
def merge_states(
    words: Words, starts: Words, fresh: Words, fresh_starts: Words, watermarks: Words, plan: UpdatePlan
) -> tuple[Words, Words]:
    """The states after the new rows, laid out like ``words, starts``.

    Args:
        words, starts: states before, as ``blobs.decode`` gives them; K keys.
        fresh, fresh_starts: new rows sorted by key and event time, columns like raw rows; key k's are
            ``fresh_starts[k] : fresh_starts[k + 1]``.
        watermarks: the highest watermark at a row of the key, ``[K]``; INT64_MIN for keys without rows.
        plan: of the view.
    """
    keys = starts.size - 1
    lists = plan.steps.shape[0]
    counts = np.zeros((keys, 1 + lists), np.int64)  # raw rows, then partials of each step
    merged = np.empty(0, np.int64)
    new_starts = np.zeros(keys + 1, np.int64)
    # Twice the same walk: first for the lengths, then to write. One call site, because each is compiled in place.
    for writing in range(2):
        for k in range(keys):
            if writing == 0 or new_starts[k] < new_starts[k + 1]:
                at = new_starts[k]
                size = _merge_key(merged, at, words, starts, fresh, fresh_starts, k, watermarks[k], plan, counts[k])
                new_starts[k + 1] = at + size
        if writing == 0:
            merged = np.empty(new_starts[keys], np.int64)
    return merged, new_starts


@compiled
def _merge_key(
    out: Words,
    at: int,
    words: Words,
    starts: Words,
    fresh: Words,
    fresh_starts: Words,
    k: int,
    watermark: int,
    plan: UpdatePlan,
    counts: Words,
) -> int:
    """Write key k's state at ``out[at:]``; with an empty ``out`` fill ``counts`` and return its length instead."""
    sizing = out.size == 0
    lists = plan.steps.shape[0]
    head, row_words = 4 + lists, 2 + plan.columns
    base = starts[k]
    held = base < starts[k + 1]
    old_watermark = words[base + 2] if held else INT64_MIN
    watermark = max(watermark, old_watermark)
    if watermark == INT64_MIN:
        return 0
    raw, old_rows = base + head, words[base + 3] if held else 0
    fresh_rows, k0, k1 = fresh.size // row_words, fresh_starts[k], fresh_starts[k + 1]
    floor = watermark - plan.lateness

    raw_low = floor - plan.plain_reach if plan.plain_reach >= 0 else INT64_MAX
    for s in range(lists):
        raw_low = min(raw_low, boundary_of(floor - plan.steps[s, 2], plan.steps[s, 0]))
    j = lower_bound(words, raw, raw + old_rows, raw_low) - raw
    f = lower_bound(fresh, k0, k1, raw_low)
    if sizing:
        counts[0] = old_rows - j + k1 - f
    else:
        out[at], out[at + 1], out[at + 2] = MAGIC, plan.fingerprint, watermark
        copy_words(out, at + 3, counts, 0, 1 + lists)
        at += head
        _merge_rows(out, at, counts[0], words, raw, old_rows, j, fresh, fresh_rows, f, k1, row_words)
        at += counts[0] * row_words

    size = counts[0] * row_words
    old_list = raw + old_rows * row_words
    for s in range(lists):
        step, reach, end = plan.steps[s, 0], plan.steps[s, 1], plan.steps[s, 2]
        low = bucket_of(floor - reach, step)
        boundary = boundary_of(floor - end, step)
        old_partials = words[base + 4 + s] if held else 0
        # Raw rows from the old boundary on are not in partials yet.
        j0, j1 = old_rows, old_rows
        if held:
            old_boundary = boundary_of(old_watermark - plan.lateness - end, step)
            j0 = lower_bound(words, raw, raw + old_rows, max(old_boundary, low)) - raw
            j1 = lower_bound(words, raw + j0, raw + old_rows, boundary) - raw
        f0 = lower_bound(fresh, k0, k1, low)
        f1 = lower_bound(fresh, f0, k1, boundary)
        ops = plan.ops[plan.op_offsets[s] : plan.op_offsets[s + 1]]
        source = (old_list, old_partials, raw, old_rows, j0, j1, fresh_rows, f0, f1)
        partials = _merge_partials(out, at, counts[1 + s], words, fresh, source, low, step, ops)
        width = 1
        for o in range(ops.shape[0]):
            width += words_of(ops[o, 0])
        if sizing:
            counts[1 + s] = partials
        at += partials * width
        size += partials * width
        old_list += old_partials * width
    return head + size if size > 0 else 0


@compiled
def _merge_rows(
    out: Words,
    at: int,
    rows: int,
    words: Words,
    raw: int,
    old_rows: int,
    j: int,
    fresh: Words,
    fresh_rows: int,
    f: int,
    f_end: int,
    row_words: int,
) -> None:
    """Merge old rows ``[j, old_rows)`` and new rows ``[f, f_end)`` by event time, old ones first on ties."""
    n = 0
    while n < rows:
        if f == f_end:
            run = old_rows - j
        elif j < old_rows and words[raw + j] <= fresh[f]:
            run = lower_bound(words, raw + j, raw + old_rows, fresh[f] + 1) - raw - j
        else:
            run = 0
        if run > 0:
            for w in range(row_words):
                copy_words(out, at + w * rows + n, words, raw + w * old_rows + j, run)
            j += run
            n += run
        else:
            for w in range(row_words):
                out[at + w * rows + n] = fresh[w * fresh_rows + f]
            f += 1
            n += 1


@compiled
def _merge_partials(
    out: Words,
    at: int,
    partials: int,
    words: Words,
    fresh: Words,
    source: tuple[int, int, int, int, int, int, int, int, int],
    low: int,
    step: int,
    ops: Words,
) -> int:
    """Merge the old list with the rows that now belong below the boundary; return how many partials there are.

    With an empty ``out`` it only counts. Runs of old buckets that no row falls into are copied as a whole.
    """
    old_list, old_partials, raw, old_rows, j, j_end, fresh_rows, f, f_end = source
    i = lower_bound(words, old_list, old_list + old_partials, low) - old_list
    n = 0
    while i < old_partials or j < j_end or f < f_end:
        earliest = INT64_MAX
        if j < j_end:
            earliest = words[raw + j]
        if f < f_end:
            earliest = min(earliest, fresh[f])
        run_end, bucket = old_partials, INT64_MAX
        if earliest < INT64_MAX:
            bucket = bucket_of(earliest, step)
            run_end = lower_bound(words, old_list + i, old_list + old_partials, bucket) - old_list
        if run_end > i:
            if out.size > 0:
                _copy_run(out, at + n, partials, words, old_list + i, old_partials, run_end - i, ops)
            n += run_end - i
            i = run_end
        if bucket == INT64_MAX:
            continue
        known = i < old_partials and words[old_list + i] == bucket
        j_next = lower_bound(words, raw + j, raw + j_end, bucket_end(bucket, step)) - raw
        f_next = lower_bound(fresh, f, f_end, bucket_end(bucket, step))
        if out.size > 0:
            out[at + n] = bucket
            column = 1
            for o in range(ops.shape[0]):
                kind, bit, value = ops[o, 0], ops[o, 1], ops[o, 2]
                x, y = identity(kind)
                if known:
                    x, y = fold_partials(x, y, kind, words, old_list + column * old_partials, old_partials, i, i + 1)
                x, y = fold_rows(x, y, kind, bit, value, words, raw, old_rows, j, j_next)
                x, y = fold_rows(x, y, kind, bit, value, fresh, 0, fresh_rows, f, f_next)
                out[at + column * partials + n] = x
                column += 1
                if words_of(kind) == 2:
                    out[at + column * partials + n] = y
                    column += 1
        n += 1
        i, j, f = i + known, j_next, f_next
    return n


@compiled
def _copy_run(
    out: Words, at: int, partials: int, words: Words, source: int, old_partials: int, run: int, ops: Words
) -> None:
    width = 1
    for o in range(ops.shape[0]):
        width += words_of(ops[o, 0])
    for w in range(width):
        copy_words(out, at + w * partials, words, source + w * old_partials, run)
