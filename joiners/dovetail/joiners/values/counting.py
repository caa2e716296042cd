"""The labels that count for a snapshot row where all of a kind are kept, and what their columns come to.

A label counts when it took effect by the horizon, did not happen too long before the request, and no label of a kind
that takes it back, which took effect by the horizon too, happened at its time or after it. The same in SQL is in
``batch/counted.py``, which shares no code with this.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from dovetail.joiners.policies.policy import NEVER, Bools, Int64
from dovetail.joiners.values.kind_rules import KindRule, ValueColumn
from dovetail.joiners.values.payload import unpacked

__all__ = ["Counted", "Met", "count_labels", "first_met"]

_NONE = np.iinfo(np.int64).min


class Met(NamedTuple):
    """Labels of one kind with the snapshot rows that have their key: m pairs, by row and then in order of effect.

    ``row`` int64 [m], ascending; ``effective_us`` and ``event_us`` int64 [m]; ``payload`` string [m].
    """

    row: Int64
    effective_us: Int64
    event_us: Int64
    payload: pa.ChunkedArray


class Counted(NamedTuple):
    """The labels of a kind that count for n snapshot rows.

    ``effective_us`` and ``event_us`` int64 [n] of the first label that counts, NEVER without one. ``taken_back`` bool
    [n]: the first label of the key counted, were it not taken back. ``gone`` bool [n]: some would count, and all of
    these are taken back. ``values``: the rule's columns, [n].
    """

    effective_us: Int64
    event_us: Int64
    taken_back: Bools
    gone: Bools
    values: Mapping[str, pa.Array]


def count_labels(
    rule: KindRule, met: Mapping[str, Met], request_time_us: Int64, *, horizon_us: int, early_us: int
) -> Counted:
    """Count the labels of ``rule.kind`` for snapshot rows with these request times; ``met`` by kind."""
    n, mine = len(request_time_us), met[rule.kind]
    in_time = _in_time(mine, request_time_us, horizon_us, early_us)
    until = np.full(n, _NONE, dtype=np.int64)
    for kind in rule.taken_back_by:
        theirs = met[kind]
        chosen = _in_time(theirs, request_time_us, horizon_us, early_us)
        np.maximum.at(until, theirs.row[chosen], theirs.event_us[chosen])
    kept = in_time & (mine.event_us > until[mine.row])
    effective, event = np.full(n, NEVER, dtype=np.int64), np.full(n, NEVER, dtype=np.int64)
    rows, first = np.unique(mine.row[kept], return_index=True)
    effective[rows], event[rows] = mine.effective_us[kept][first], mine.event_us[kept][first]
    taken_back = np.zeros(n, dtype=np.bool_)
    heads, head = np.unique(mine.row, return_index=True)
    taken_back[heads] = in_time[head] & ~kept[head]
    gone = np.zeros(n, dtype=np.bool_)
    gone[mine.row[in_time]] = True
    gone &= effective == NEVER
    return Counted(effective, event, taken_back, gone, _values(rule.values, mine, kept, n))


def first_met(met: Met, request_time_us: Int64, early_us: int) -> tuple[Int64, Int64]:
    """Effective and event time, int64 [n] µs, of the first label that did not happen too early; NEVER without one."""
    n = len(request_time_us)
    effective, event = np.full(n, NEVER, dtype=np.int64), np.full(n, NEVER, dtype=np.int64)
    kept = met.event_us >= request_time_us[met.row] - early_us
    rows, first = np.unique(met.row[kept], return_index=True)
    effective[rows], event[rows] = met.effective_us[kept][first], met.event_us[kept][first]
    return effective, event


def _in_time(met: Met, request_time_us: Int64, horizon_us: int, early_us: int) -> Bools:
    asked = request_time_us[met.row]
    in_time: Bools = (met.effective_us <= asked + horizon_us) & (met.event_us >= asked - early_us)
    return in_time


def _values(columns: Sequence[ValueColumn], met: Met, kept: Bools, n: int) -> dict[str, pa.Array]:
    if not columns:
        return {}
    given = unpacked(met.payload.filter(pa.array(kept)), columns)
    rows = met.row[kept]
    return {column.name: _aggregated(column, values, rows, n) for column, values in zip(columns, given, strict=True)}


def _aggregated(column: ValueColumn, values: pa.Array, rows: Int64, n: int) -> pa.Array:
    """``values`` by row, which ascend, to one value for each of ``n`` rows."""
    there = np.asarray(values.is_valid())
    values, rows = values.filter(pa.array(there)), rows[there]
    if column.aggregate in ("first", "last"):
        backwards = column.aggregate == "last"
        found, at = np.unique(rows[::-1] if backwards else rows, return_index=True)
        made = values.take(pa.array(len(rows) - 1 - at if backwards else at))
    else:
        if column.aggregate == "sum":
            values = values.cast(column.type)
        grouped = pa.table({"row": rows, "value": values}).group_by("row", use_threads=False)
        totals = grouped.aggregate([("value", column.aggregate)])
        found, made = totals.column("row").to_numpy(), totals.column(f"value_{column.aggregate}").cast(column.type)
    return _spread(made, found, n)


def _spread(made: pa.Array | pa.ChunkedArray, found: npt.NDArray[np.int64], n: int) -> pa.Array:
    place = np.full(n, -1, dtype=np.int64)
    place[found] = np.arange(len(found))
    whole = pc.take(made, pa.array(place, mask=place < 0))
    return whole.combine_chunks() if isinstance(whole, pa.ChunkedArray) else whole
