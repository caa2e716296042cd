"""One request, found by its id: the snapshot rows that answered it, and the samples that became of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from dovetail.app.datasets import samples_dataset
from dovetail.app.looking.made import unarchived_rows
from dovetail.app.storage import Stores
from dovetail.features import Project
from dovetail.joiners.snapshots.shape import flat_snapshots
from dovetail.platform.archive.dayfiles import NEVER_US, DayFiles
from dovetail.platform.archive.finding import Found, find_rows
from dovetail.platform.rows.encodings.shared import spread
from dovetail.platform.rows.intake import time_us
from dovetail.platform.rows.positions import LANE
from dovetail.platform.transports.viewing import TopicView

__all__ = ["OneRequest", "find_request", "snapshots_span"]

#: Rows of a topic that the archive does not have yet, and that are looked through at the most.
_MOST_UNARCHIVED = 200_000
#: Rows of one request that are shown at the most.
_MOST_ROWS = 20_000


class OneRequest(NamedTuple):
    """The rows of one request; a table without rows where there are none.

    ``snapshots`` has a row per candidate, as served; ``samples`` those of the primary target. ``complete`` is False
    where more rows are than were looked through: some may be missing.
    """

    request_id: str
    snapshots: pa.Table
    samples: pa.Table
    complete: bool

    def candidate(self, item_id: str, place: int | None = None) -> int | None:
        """The snapshot row of an item: at ``place`` if that is one of its, or else the first; None: there is none."""
        return _row_of(self.snapshots, item_id, place)

    def sample_of(self, snapshot: int) -> pa.Table:
        """The samples that were made of a snapshot row."""
        if not self.samples.num_rows:
            return self.samples
        places = (("_source_partition", "_partition"), ("_source_offset", "_offset"), ("_source_row", "_row"))
        same = pa.array([True] * self.samples.num_rows)
        for of_sample, of_snapshot in places:
            found = self.samples.column(of_sample)
            if of_sample == "_source_partition":  # lanes are told apart by it
                found = pc.bit_wise_and(found, pa.scalar(LANE - 1, found.type))
            same = pc.and_(same, pc.equal(found, self.snapshots.column(of_snapshot)[snapshot]))
        return self.samples.filter(same)


async def find_request(project: Project, stores: Stores, view: TopicView, request_id: str) -> OneRequest:
    """The rows of ``request_id`` in the archive and behind it in the topics.

    Of the archive one column is read, and of the files that have the request the rest.

    Raises:
        StoreError: a registered file is gone.
        TransportError: the broker cannot be reached.
    """
    config = project.config
    snapshots = await _found(stores, view, "snapshots", config.request.snapshots_topic, request_id, flat_snapshots)
    low_us, high_us = snapshots_span(snapshots.rows)  # a sample is archived under the day of its request
    samples = await _found(
        stores, view, samples_dataset(""), config.labels.samples_topic, request_id, spread, low_us, high_us
    )
    return OneRequest(request_id, snapshots.rows, samples.rows, snapshots.complete and samples.complete)


def snapshots_span(snapshots: pa.Table) -> tuple[int | None, int]:
    """The first and the last request time (µs) of snapshot rows; all times where there are none."""
    if not snapshots.num_rows:
        return None, NEVER_US
    times = time_us(snapshots, "request_time")
    return int(times.min()), int(times.max())


async def _found(
    stores: Stores,
    view: TopicView,
    dataset: str,
    topic: str,
    request_id: str,
    shape: Callable[[pa.Table], pa.Table],
    low_us: int | None = None,
    high_us: int = NEVER_US,
) -> Found:
    archived = await asyncio.to_thread(stores.registry.progress, f"archive.{dataset}")
    before = {partition: progress.next_offset for partition, progress in archived.items()}

    def in_files() -> Found:
        files = DayFiles.archived(stores.registry, stores.offline, dataset, "request_time", before=before)
        return find_rows(files, "request_id", [request_id], low_us=low_us, high_us=high_us, most=_MOST_ROWS)

    kept = await asyncio.to_thread(in_files)
    parts, looked_through, complete = [kept.rows], 0, kept.complete
    async for rows in unarchived_rows(view, topic, archived):
        looked_through += rows.num_rows
        if looked_through > _MOST_UNARCHIVED:
            complete = False
            break
        mine = rows.filter(pc.equal(rows.column("request_id").cast(pa.string()), pa.scalar(request_id)))
        if mine.num_rows:
            parts.append(mine)
    shaped = [shape(part) for part in parts if part.num_rows]
    if not shaped:
        return Found(pa.table({}), complete)
    return Found(pa.concat_tables(shaped, promote_options="permissive").combine_chunks(), complete)


def _row_of(table: pa.Table, item_id: str, place: int | None) -> int | None:
    if not table.num_rows:
        return None
    items = table.column("item_id").cast(pa.string()).to_pylist()
    rows = [row for row, item in enumerate(items) if (item if item is not None else "") == item_id]
    return place if place in rows else next(iter(rows), None)
