"""The values of a streaming view at the events of its stream, by DuckDB."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from dovetail.features.at_events.rounds import too_old
from dovetail.features.batch.streaming import evaluate_view
from dovetail.features.kernels.words import Words
from dovetail.features.plan.definitions import StreamView
from dovetail.platform.rows.positions import pack, seen_column

__all__ = ["by_place", "recomputed_values", "seen_at"]


def recomputed_values(view: StreamView, events: pa.Table) -> pa.Table:
    """The values of ``view`` at ``events``, all rows of its stream, with their positions; in the given order.

    Raises:
        WireError, StateError: as :func:`~dovetail.features.batch.streaming.evaluate_view`.
    """
    seen = seen_column(view.name)
    placed = by_place(events)
    probes = _probes(view, placed, seen)
    values = evaluate_view(
        view, placed, probes, time_column=view.stream.event_time, seen_column=seen, visibility="as_served"
    ).values
    kept = np.arange(events.num_rows)
    return values.take(pa.array(kept, mask=_old_rows(view, events)))


def _probes(view: StreamView, events: pa.Table, seen: str) -> pa.Table:
    """The probes that ask for the values of ``view`` at ``events``: key, time, and in ``seen`` what is visible."""
    partitions, offsets = (np.asarray(events.column(c).to_numpy(), dtype=np.int64) for c in ("_partition", "_offset"))
    names = list(dict.fromkeys([*view.entity, view.stream.event_time]))
    return events.select(names).append_column(seen, seen_at(partitions, offsets))


def by_place(events: pa.Table) -> pa.Table:
    """``events`` with each row's place in its partition (:func:`~dovetail.platform.rows.positions.pack`) as its offset.

    Then what is said of messages, such as what is visible of a partition, is said of rows.
    """
    offsets, rows = (np.asarray(events.column(c).to_numpy()) for c in ("_offset", "_row"))
    places = pack(offsets.astype(np.int64), rows.astype(np.int32))
    return events.set_column(events.column_names.index("_offset"), "_offset", pa.array(places))


def seen_at(partitions: Words, places: Words) -> pa.ListArray:
    """For rows at these places, the first place of each partition that is not visible to them: list<int64>."""
    ends = np.cumsum(partitions + 1)
    visible = np.zeros(int(ends[-1]) if len(ends) else 0, dtype=np.int64)
    visible[ends - 1] = places + 1
    return pa.ListArray.from_arrays(np.concatenate(([0], ends)).astype(np.int32), pa.array(visible))


def _old_rows(view: StreamView, events: pa.Table) -> npt.NDArray[np.bool_]:
    """A mask of the ``events``, all rows of the stream, that are too old to have a value."""
    partitions, offsets, rows = (
        np.asarray(events.column(c).to_numpy(), dtype=np.int64) for c in ("_partition", "_offset", "_row")
    )
    times: Words = np.asarray(events.column(view.stream.event_time).cast(pa.int64()).to_numpy(), dtype=np.int64)
    order = np.lexsort((rows, offsets, partitions))
    found = np.zeros(len(times), dtype=np.bool_)
    for mine in np.split(order, np.flatnonzero(np.diff(partitions[order])) + 1):
        if len(mine):
            newest = np.maximum.accumulate(times[mine])
            found[mine] = too_old(times[mine], newest, view.stream.allowed_lateness_us)
    return found
