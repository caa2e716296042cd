"""Collections of a view: events into entries, entries into values. What ``engine.py`` calls beside the folds."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from dovetail.features.kernels import finish
from dovetail.features.kernels.ordered import from_words
from dovetail.features.kernels.shapes import shaped
from dovetail.features.kernels.words import Words, decimal_array, validity_buffer
from dovetail.features.plan.aggregates import BY_KEY, DEVIATIONS, SHAPES, decimal_scale
from dovetail.features.plan.definitions import TIME_BUCKET_ORIGIN_US, Aggregate
from dovetail.features.plan.sources import in_order
from dovetail.features.stream.collections import pick
from dovetail.features.stream.collections.entries import (
    COUNTS,
    NOT_NULL,
    Entries,
    States,
    coded,
)
from dovetail.features.stream.collections.prune import prune
from dovetail.features.stream.collections.rules import (
    GROUP,
    PLAIN_STEP,
    ROWS,
    Collection,
    CollectionLayout,
    fold_of,
    lowest_kept,
)
from dovetail.features.stream.collections.structs import unpack_structs
from dovetail.features.stream.layout import step_of
from dovetail.features.stream.prepare import PreparedRows
from dovetail.features.stream.results import Parts, finished

__all__ = ["add_entries", "collected_values", "horizons", "maps", "member_rows"]

_Flags = npt.NDArray[np.bool_]


def member_rows(layout: CollectionLayout, rows: PreparedRows) -> _Flags:
    """A mask of the rows that an aggregate of a collection counts."""
    members = np.zeros(len(rows), dtype=np.bool_)
    for collected in rows.collected:
        members[collected.rows_of(np.flatnonzero(collected.counts))] = True
    if any(collection.rule == ROWS for collection in layout.collections):
        members[:] = True
    return members


def add_entries(layout: CollectionLayout, states: States, rows: PreparedRows, watermarks: Words) -> tuple[Entries, ...]:
    """The entries of every collection after ``rows``, at the new ``watermarks`` of the keys, by key, in total order."""
    added = []
    floors = np.where(
        watermarks == np.iinfo(np.int64).min, watermarks, watermarks - layout.view.stream.allowed_lateness_us
    )
    for index, collection in enumerate(layout.collections):
        entries = Entries.concat([states.entries[index], _fresh(collection, index, rows)])
        added.append(_pruned(collection, entries, floors))
    return tuple(added)


def _fresh(collection: Collection, index: int, rows: PreparedRows) -> Entries:
    collected = rows.collected[index]
    of = collected.rows_of(np.arange(len(collected.counts)))
    wanted = rows.codes[of] >= 0
    if collection.rule != ROWS:
        wanted = wanted & collected.counts
    at = np.flatnonzero(wanted)
    of = of[at]
    words = np.zeros((len(at), collection.columns), dtype=np.int64)
    words[:, 0], words[:, 1] = rows.event_time[of], rows.positions[of]
    words[:, 2] = np.where(collected.counts, COUNTS, 0)[at] | np.where(collected.not_null, NOT_NULL, 0)[at]
    words[:, 3] = collected.values[at]
    if collection.summed:
        words[:, 4], words[:, 5], words[:, 6] = 1, collected.by[at], collected.by[at] >> 63
    else:
        words[:, 4] = collected.by[at]
    text = None if collected.text is None else collected.text.take(pa.array(at))
    return Entries(rows.codes[of].astype(np.int64), words, text)


def _pruned(collection: Collection, entries: Entries, floors: Words) -> Entries:
    entries = entries.take(np.lexsort((entries.words[:, 1], entries.words[:, 0], entries.owners)))
    keys = len(floors)
    starts = np.zeros(keys + 1, dtype=np.int64)
    np.cumsum(np.bincount(entries.owners, minlength=keys), out=starts[1:])
    codes, _ = _codes(collection, entries)
    times, positions = entries.words[:, 0].copy(), entries.words[:, 1].copy()
    order = _order(collection, entries, codes)
    sums = _sums(collection, entries)
    keep = np.zeros(len(codes), dtype=np.bool_)
    prune(
        starts, times, positions, codes, order, sums, floors - collection.end_us, lowest_kept(collection, floors),
        collection.rule, collection.k, collection.step, collection.descending, collection.fold, keep,
    )  # fmt: skip
    if collection.rule != GROUP:
        return entries.take(np.flatnonzero(keep))
    words = entries.words.copy()
    words[:, 0], words[:, 1], words[:, 4:7] = times, positions, sums
    kept = np.lexsort((codes, positions, times, entries.owners))
    return Entries(entries.owners, words, entries.text).take(kept[keep[kept]])


def _codes(collection: Collection, entries: Entries) -> tuple[Words, int]:
    """:func:`coded` where values are compared with each other."""
    if collection.compares and (entries.text is None or pa.types.is_large_string(entries.text.type)):
        return coded(entries)
    return np.zeros(len(entries.words), dtype=np.int64), 1


def _order(collection: Collection, entries: Entries, codes: Words) -> Words:
    if collection.by == collection.input:
        return codes
    return np.zeros(len(codes), dtype=np.int64) if collection.summed else entries.words[:, 4].copy()


def _sums(collection: Collection, entries: Entries) -> Words:
    if collection.summed:
        return entries.words[:, 4:7].copy()
    order = entries.words[:, 4]
    return np.stack([np.ones(len(order), dtype=np.int64), order, order >> 63], axis=1)


@dataclass(frozen=True, slots=True)
class _Asked:
    """Entries of all states in the total order of each key, and the probes."""

    collection: Collection
    type: pa.DataType
    entries: Entries
    codes: Words
    distinct: int
    counted: Words
    ranges: Words
    answerable: _Flags


def collected_values(
    layout: CollectionLayout,
    states: States,
    owners: npt.NDArray[np.int32],
    codes: Words,
    times: Words,
    answerable: _Flags,
) -> dict[str, pa.Array]:
    """The values of the aggregates that read collections, by output."""
    sorted_entries = [_by_key(layout, entries, states, owners) for entries in states.entries]
    keys = int(max(codes.max(initial=-1), owners.max(initial=-1))) + 1
    columns = {}
    for aggregate in layout.aggregates:
        index = layout.index_of(aggregate)
        collection, entries = layout.collections[index], sorted_entries[index]
        window = layout.view.windows[aggregate.window]
        starts = np.zeros(keys + 1, dtype=np.int64)
        np.cumsum(np.bincount(entries.owners, minlength=keys), out=starts[1:])
        ranges = np.zeros((len(codes), 2), dtype=np.int64)
        step = collection.step if window.rows is not None else step_of(window)
        pick.window_ranges(
            starts, entries.words[:, 0].copy(), codes, times, window.size_us, PLAIN_STEP if step is None else step,
            -1 if window.rows is None else window.rows, window.end_us, window.skip, ranges,
        )  # fmt: skip
        value_codes, distinct = _codes(collection, entries)
        counted = entries.words[:, 2] & COUNTS
        asked = _Asked(
            collection,
            layout.value_type(collection),
            entries,
            value_codes,
            max(distinct, 1),
            counted,
            ranges,
            answerable,
        )
        by = None if aggregate.by is None else layout.view.inputs[aggregate.by].type
        columns[aggregate.output] = _value(aggregate, asked, by)
    return columns


def _by_key(layout: CollectionLayout, entries: Entries, states: States, owners: npt.NDArray[np.int32]) -> Entries:
    moved = Entries(owners.astype(np.int64)[entries.owners], entries.words, entries.text)
    partitions = in_order(layout.view, states.partitions)[entries.owners]
    return moved.take(np.lexsort((moved.words[:, 1], partitions, moved.words[:, 0], moved.owners)))


def _value(aggregate: Aggregate, asked: _Asked, by: pa.DataType | None) -> pa.Array:
    function = aggregate.function
    if function in ("histogram", "top_k", "histogram_each", *SHAPES, *BY_KEY):
        return _grouped(aggregate, asked, by)
    if function == "count_distinct":
        counts = np.zeros(len(asked.ranges), dtype=np.int64)
        pick.count_distinct(asked.ranges, asked.counted, asked.codes, asked.distinct, counts)
        return from_words(counts, asked.answerable, aggregate.type)
    if function in ("count", "sum", "avg", *DEVIATIONS) or (
        function in ("min", "max") and asked.entries.text is None and asked.collection.rule == ROWS
    ):
        return _folded(aggregate, asked)
    k = aggregate.k or 1
    most = int((asked.ranges[:, 1] - asked.ranges[:, 0]).max(initial=0)) if aggregate.k is not None else k
    k = k if function in ("nth_oldest", "nth_newest") else min(k, max(most, 1))  # k may be large, and no list that long
    picked, lengths = np.zeros((len(asked.ranges), k), dtype=np.int64), np.zeros(len(asked.ranges), dtype=np.int64)
    descending = function in ("last", "arg_max", "max", "last_distinct", "nth_newest", "newest")
    if function in ("first_distinct", "last_distinct"):
        pick.pick_distinct(asked.ranges, asked.counted, asked.codes, asked.distinct, k, descending, picked, lengths)
    else:
        order = asked.codes if function in ("min", "max") else _order(asked.collection, asked.entries, asked.codes)
        pick.pick_best(asked.ranges, asked.counted, order, k, descending, picked, lengths)
    lengths[~asked.answerable] = 0
    if aggregate.k is None or function in ("nth_oldest", "nth_newest"):
        return _values_at(asked, picked[:, k - 1], lengths >= k)
    flat = picked[np.arange(k) < lengths[:, None]]
    return _lists(_values_at(asked, flat, np.ones(len(flat), dtype=np.bool_)), lengths, aggregate.type)


def _values_at(asked: _Asked, rows: Words, present: _Flags) -> pa.Array:
    if not len(asked.entries.words):
        return pa.nulls(len(rows), asked.type)
    rows = np.where(present, rows, 0)
    present = present & ((asked.entries.words[rows, 2] & NOT_NULL) > 0)
    if asked.entries.text is not None:
        texts = asked.entries.text.take(pa.array(rows, mask=~present))
        return unpack_structs(texts, asked.type) if pa.types.is_struct(asked.type) else texts.cast(asked.type)
    return from_words(asked.entries.words[rows, 3], present, asked.type)


def _lists(values: pa.Array, lengths: Words, type_: pa.DataType) -> pa.Array:
    """Lists of the given lengths; NULL where there is nothing."""
    offsets = np.concatenate(([0], np.cumsum(lengths))).astype(np.int32)
    mask = None if (lengths > 0).all() else pa.array(lengths == 0)
    return pa.ListArray.from_arrays(offsets, values, type=type_, mask=mask)


def _grouped(aggregate: Aggregate, asked: _Asked, by: pa.DataType | None) -> pa.Array:
    probes = len(asked.ranges)
    room = int((asked.ranges[:, 1] - asked.ranges[:, 0]).sum())
    groups, lengths = np.zeros((room, 6), dtype=np.int64), np.zeros(probes, dtype=np.int64)
    asked.ranges[~asked.answerable] = 0
    sums = _sums(asked.collection, asked.entries)
    fold = fold_of(aggregate.function)
    n = pick.group_entries(asked.ranges, asked.counted, asked.codes, asked.distinct, sums, fold, groups, lengths)
    groups = groups[:n]
    if aggregate.function == "top_k":
        groups = groups[np.lexsort((groups[:, 1], -groups[:, 3], groups[:, 0]))]
        begins = np.concatenate(([0], np.cumsum(lengths)))[:-1]
        groups = groups[np.arange(n) - np.repeat(begins, lengths) < (aggregate.k or 0)]
        values = _values_at(asked, groups[:, 2], np.ones(len(groups), dtype=np.bool_))
        return _lists(values, np.minimum(lengths, aggregate.k or 0), aggregate.type)
    groups = groups[np.lexsort((groups[:, 1], groups[:, 0]))]
    if aggregate.function in SHAPES:
        words = asked.entries.words[groups[:, 2], 3]
        return shaped(aggregate.function, words, groups[:, 3], lengths, asked.answerable)
    keys = _values_at(asked, groups[:, 2], np.ones(n, dtype=np.bool_))
    lo, hi, present = groups[:, 4].copy().view(np.uint64), groups[:, 5].copy(), np.ones(n, dtype=np.bool_)
    if aggregate.function in ("histogram", "histogram_each"):
        items = pa.array(groups[:, 3], pa.uint64())
    elif aggregate.function == "sum_by":
        items = decimal_array(lo, hi, present, aggregate.type.item_type)
    elif aggregate.function in ("least_by", "greatest_by"):
        items = from_words(groups[:, 4].copy(), present, aggregate.type.item_type)
    else:
        items = finish.avg(lo, hi, groups[:, 3].copy(), decimal_scale(by or asked.type))
    return maps(keys, items, lengths, aggregate.type)


def maps(keys: pa.Array, items: pa.Array, lengths: Words, type_: pa.DataType) -> pa.Array:
    """Maps of the given lengths; NULL where there is nothing."""
    offsets = np.concatenate(([0], np.cumsum(lengths))).astype(np.int32)
    entries = pa.StructArray.from_arrays([keys, items], fields=[type_.key_field, type_.item_field])
    present = lengths > 0
    return pa.Array.from_buffers(
        type_, len(lengths), [validity_buffer(present), pa.py_buffer(offsets)], children=[entries]
    )


def _folded(aggregate: Aggregate, asked: _Asked) -> pa.Array:
    folded = np.zeros((len(asked.ranges), 7), dtype=np.int64)
    pick.fold_entries(asked.ranges, asked.counted, asked.entries.words[:, 3].copy(), folded)
    count, lo, hi, squares_lo, squares_hi, least, greatest = (folded[:, i].copy() for i in range(7))
    lo = {"min": least, "max": greatest}.get(aggregate.function, lo)
    parts = Parts(count, lo, hi, squares_lo, squares_hi)
    return finished(aggregate.function, aggregate.type, decimal_scale(asked.type), parts, asked.answerable)


def horizons(layout: CollectionLayout, watermark_before: Words) -> Words:
    """First event time that may still matter, for the watermark before each row; any window of the view counts."""
    least = np.iinfo(np.int64).min
    view = layout.view
    if any(not window.bounded_us for window in view.windows):
        return np.full(len(watermark_before), least)
    known = watermark_before != least
    floors = np.where(known, watermark_before, 0) - view.stream.allowed_lateness_us
    lows = np.stack([_lower(floors, window.size_us, window.step_us) for window in view.windows]).min(axis=0)
    return np.where(known, lows, least)


def _lower(times: Words, size: int, step: int | None) -> Words:
    low = times - size
    return low if step is None else (low - TIME_BUCKET_ORIGIN_US) // step * step + TIME_BUCKET_ORIGIN_US
