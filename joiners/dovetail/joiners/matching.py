"""The match of snapshot rows with label rows by ``(request_id, item_id)``, and the draw that goes with the same key."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from dovetail.joiners.pairs import find_pairs, hash_pairs
from dovetail.joiners.policies.policy import NEVER, Int64
from dovetail.joiners.values.counting import Met
from dovetail.platform.stores.labels import ORDER, joined_keys

__all__ = ["Early", "Keys", "Matched", "chance", "keys_of", "match_labels", "meet_events", "warm", "without_early"]

#: Effective and event time by row, int64 µs, NEVER where there is no label.
Matched = dict[str, tuple[Int64, Int64]]


#: By kind, effective time by row of a label that happened too long before its request, NEVER where there is none.
Early = dict[str, Int64]


class Keys(NamedTuple):
    """``(request_id, item_id)`` of n rows as bytes with boundaries (int64 [n + 1]), and their hashes, uint64 [n]."""

    hashes: npt.NDArray[np.uint64]
    request: npt.NDArray[np.uint8]
    request_at: Int64
    item: npt.NDArray[np.uint8]
    item_at: Int64


def keys_of(table: pa.Table) -> Keys:
    """The keys of ``table``'s rows; ``item_id`` as text, as the label store has it."""
    request, request_at = _strings(table.column("request_id"))
    item, item_at = _strings(table.column("item_id"))
    return Keys(hash_pairs(request, request_at, item, item_at), request, request_at, item, item_at)


def match_labels(keys: Keys, labels: pa.Table) -> Matched:
    """For each kind of label: effective and event time by row, int64 µs, :data:`NEVER` where there is none.

    ``labels`` has the columns of LABEL_ROWS and at most one row per (request_id, item_id, kind).
    """
    matched: Matched = {}
    for kind in sorted(pc.unique(labels.column("kind")).to_pylist()):
        rows = labels.filter(pc.equal(labels.column("kind"), kind))
        known = keys_of(rows)
        index = find_pairs(*keys, *known)
        found = np.flatnonzero(index >= 0)
        times = []
        for name in ("effective_us", "event_time_us"):
            values = np.full(len(index), NEVER, dtype=np.int64)
            values[found] = rows.column(name).to_numpy()[index[found]]
            times.append(values)
        matched[kind] = (times[0], times[1])
    return matched


def meet_events(keys: Keys, events: pa.Table, kind: str) -> Met:
    """The labels of ``kind`` among ``events`` (LABEL_EVENTS), each with every row that has its key."""
    mine = events.filter(pc.equal(events.column("kind"), kind))
    if not mine.num_rows:
        none = np.zeros(0, dtype=np.int64)
        return Met(none, none, none, mine.column("payload"))
    mine = mine.sort_by([(name, "ascending") for name in ("request_id", "item_id", *ORDER)]).combine_chunks()
    # The first label of each key, and how many follow it.
    names = joined_keys(mine, ["request_id", "item_id"])
    changes = np.ones(mine.num_rows, dtype=np.bool_)
    changes[1:] = np.asarray(pc.not_equal(names[1:], names[:-1]))
    heads = np.flatnonzero(changes)
    counts = np.diff(np.append(heads, mine.num_rows))
    index = find_pairs(*keys, *keys_of(mine.take(pa.array(heads))))
    rows = np.flatnonzero(index >= 0)
    each = counts[index[rows]]
    # Each row's labels stand together, from its key's first one on.
    ends = np.cumsum(each)
    within = np.arange(int(ends[-1]) if len(ends) else 0) - np.repeat(ends - each, each)
    at = np.repeat(heads[index[rows]], each) + within
    effective, event = (mine.column(name).to_numpy()[at] for name in ("effective_us", "event_time_us"))
    return Met(np.repeat(rows, each).astype(np.int64), effective, event, mine.column("payload").take(pa.array(at)))


def without_early(matched: Matched, request_time_us: Int64, early_us: int) -> tuple[Matched, Early]:
    """``matched`` without the labels that happened more than ``early_us`` before their request; and which those are.

    Such a label is not of this request, whenever it took effect: clocks that disagree explain no more than that.
    """
    kept: Matched = {}
    early: Early = {}
    for kind, (effective, event) in matched.items():
        before = event < request_time_us - early_us
        early[kind] = np.where(before, effective, NEVER)
        kept[kind] = (np.where(before, NEVER, effective), np.where(before, NEVER, event))
    return kept, early


def chance(keys: Keys) -> npt.NDArray[np.float64]:
    """A number in [0, 1) per row, float64 [n]: the upper 53 bits of the key's hash. The same key, the same number."""
    drawn: npt.NDArray[np.float64] = (keys.hashes >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return drawn


def warm() -> None:
    """Compile what :func:`keys_of` and :func:`match_labels` run."""
    keys = keys_of(pa.table({"request_id": ["r"], "item_id": ["i"]}))
    find_pairs(*keys, *keys)


def _strings(column: pa.ChunkedArray) -> tuple[npt.NDArray[np.uint8], Int64]:
    """A column without NULLs as text: its bytes, and the boundaries of its values in them."""
    strings = column.cast(pa.large_string()).combine_chunks()
    if isinstance(strings, pa.ChunkedArray):  # a column without chunks combines to one
        strings = pa.array([], pa.large_string())
    _, offsets, data = strings.buffers()
    at = np.zeros(1, dtype=np.int64)
    if offsets is not None and offsets.size:
        at = np.frombuffer(offsets, dtype=np.int64)[strings.offset : strings.offset + len(strings) + 1]
    raw = np.frombuffer(data, dtype=np.uint8) if data is not None and data.size else np.zeros(0, dtype=np.uint8)
    for array in (raw, at):
        array.flags.writeable = False  # one mutability, one compilation
    return raw, at
