"""The sources of a view: the partitions of the streams it reads, under one number each.

State, positions and watermark of a view are kept per source, so that each has one writer. Where a view reads one
stream, a source is a partition. Where it reads a UNION ALL of n SELECTs (*branches*), partition p of branch b is source
``p * n + b``: numbers with hardly a hole, which stay what they are when a topic gets more partitions. Everything that
is recorded "by partition" of a view (online state, progress, what a snapshot has seen) is by source.

The total order of a view's rows is ``(event_time, branch, partition, offset, row)``: of rows at one time, those of an
earlier SELECT of the UNION ALL are before those of a later one.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from dovetail.features.plan.definitions import StreamView
from dovetail.platform.rows.positions import LANE

__all__ = ["Place", "in_order", "order_columns", "place_of", "source_of", "with_sources"]


class Place(NamedTuple):
    """Where a source is: the branch (its index in ``view.reads``) and the partition of that branch's stream."""

    branch: int
    partition: int


def source_of(view: StreamView, place: Place) -> int:
    """The number of a source of ``view``."""
    return place.partition * len(view.reads) + place.branch


def place_of(view: StreamView, source: int) -> Place:
    """The inverse of :func:`source_of`."""
    partition, branch = divmod(source, len(view.reads))
    return Place(branch, partition)


def in_order(view: StreamView, sources: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """A number for each source that ascends in the total order."""
    branches = len(view.reads)
    ordered: npt.NDArray[np.int64] = sources % branches * LANE + sources // branches
    return ordered


def order_columns(view: StreamView, owner: str = "") -> list[str]:
    """SQL of what breaks ties of event time, most significant first, over position columns by source.

    ``owner`` is put before the columns' names, like ``e.``.
    """
    branches = len(view.reads)
    source = f"{owner}_partition"
    by = [source] if branches == 1 else [f"{source} % {branches}", f"{source} // {branches}"]
    return [*by, f"{owner}_offset", f"{owner}_row"]


def with_sources(view: StreamView, branch: int, events: pa.Table) -> pa.Table:
    """``events`` of a branch, their ``_partition`` column (where they have one) being the source."""
    if len(view.reads) == 1 or "_partition" not in events.column_names:
        return events
    at = events.column_names.index("_partition")
    partitions = np.asarray(events.column(at).to_numpy(), dtype=np.int32)
    sources = pa.array(partitions * np.int32(len(view.reads)) + np.int32(branch), pa.int32())
    return events.set_column(at, events.schema.field(at), sources)
