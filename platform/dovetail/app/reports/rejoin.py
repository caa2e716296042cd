"""Samples in batch, and whether the stream made the same."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dovetail.app.label_meanings import with_meanings
from dovetail.app.reports.archived import (
    archived_labels,
    archived_samples,
    archived_snapshots,
    released_positions,
    target_of,
)
from dovetail.app.storage import Stores
from dovetail.features import Project
from dovetail.features.stored.consistency import equal_bits
from dovetail.joiners.batch.by_meaning import samples_by_meaning
from dovetail.joiners.contracts import BatchFeatures
from dovetail.platform.rows.positions import (
    LANE,
    OWN_COLUMNS,
    SOURCE_COLUMNS,
    pack,
)

__all__ = ["JoinDifference", "JoinedDays", "difference", "difference_between", "join_archived"]

_KEY = [*SOURCE_COLUMNS, "emission"]


class JoinDifference(NamedTuple):
    """Batch against stream: rows compared, rows only one side has, and columns that differ with how many rows do."""

    compared: int
    only_batch: int
    only_stream: int
    columns: dict[str, int]

    @property
    def equal(self) -> bool:
        """Whether there is no difference."""
        return not (self.only_batch or self.only_stream or self.columns)


class JoinedDays(NamedTuple):
    """The rows of a join, their columns, the files written, and, if asked for, how they differ from the stream's."""

    rows: int
    columns: pa.Schema
    files: list[str]
    compared: JoinDifference | None


def join_archived(project: Project, stores: Stores, features: BatchFeatures, *, target: str = "") -> pa.Table:
    """The samples of a target from everything archived, as far as the stream has released them.

    Each is made by the settings that were in force when its request was answered.

    No sample columns but an empty table when no snapshot is archived.
    """
    project, meanings = with_meanings(project, stores)
    target_of(project, target)
    snapshots = archived_snapshots(stores, scene=project.config.scene)
    if snapshots.num_rows == 0:
        return pa.table({})
    order = [(name, "ascending") for name in OWN_COLUMNS]
    samples = samples_by_meaning(
        snapshots.sort_by(order),
        archived_labels(project, stores, meanings),
        meanings,
        target,
        features,
        allowed_lateness_us=project.config.labels.allowed_lateness,
    )
    bounds = released_positions(project, stores, target)
    lane, partition = np.divmod(samples.column("_source_partition").to_numpy(), LANE)
    at = pack(samples.column("_source_offset").to_numpy(), samples.column("_source_row").to_numpy())
    bound = np.zeros(len(at), dtype=np.int64)
    for (of_lane, of_partition), value in bounds.items():
        bound[(lane == of_lane) & (partition == of_partition)] = value
    return samples.filter(pa.array(at < bound))


def difference(stores: Stores, batch: pa.Table, *, target: str = "", scene: str = "") -> JoinDifference:
    """Compare the batch join's samples with the archived ones, value by value."""
    return difference_between(batch, archived_samples(stores, target, scene))


def difference_between(batch: pa.Table, stream: pa.Table) -> JoinDifference:
    """Compare samples of the batch join with archived ones, value by value.

    The differences of days add up to that of all of them.
    """
    if batch.num_rows == 0 or stream.num_rows == 0:
        return JoinDifference(0, batch.num_rows, stream.num_rows, {})
    stream = stream.drop_columns(list(OWN_COLUMNS))
    order = [(name, "ascending") for name in _KEY]
    batch, stream = batch.sort_by(order).combine_chunks(), stream.sort_by(order).combine_chunks()
    mine, theirs = _keys(batch), _keys(stream)
    in_both, in_batch = pc.is_in(mine, theirs), pc.is_in(theirs, mine)
    only_batch, only_stream = batch.num_rows - pc.sum(in_both).as_py(), stream.num_rows - pc.sum(in_batch).as_py()
    batch, stream = batch.filter(in_both), stream.filter(in_batch)
    names = sorted({*batch.column_names, *stream.column_names})
    columns = {}
    for name in names:
        if name not in batch.column_names or name not in stream.column_names:
            # What only some settings have is NULL in samples of others, and no column where there are none else.
            there = (batch if name in batch.column_names else stream).column(name)
            if there.null_count < len(there):
                columns[name] = len(there) - there.null_count
            continue
        left, right = batch.column(name), stream.column(name)
        differing = int((~equal_bits(left, right.cast(left.type))).sum())
        if differing:
            columns[name] = differing
    return JoinDifference(batch.num_rows, only_batch, only_stream, columns)


def _keys(samples: pa.Table) -> pa.ChunkedArray:
    return pc.binary_join_element_wise(*(samples.column(name).cast(pa.string()) for name in _KEY), "/")
