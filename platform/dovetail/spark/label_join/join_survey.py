"""The first look at a join: the columns and settings of snapshots, and the newest row of each part of a log."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from dovetail.features.batch.one_view import times_of
from dovetail.features.batch.views import versions
from dovetail.joiners.batch.clock_rows import Setter, newest_of
from dovetail.joiners.meanings.known import marks_of
from dovetail.joiners.snapshots.shape import flat_snapshots
from dovetail.platform.rows.positions import OWN_COLUMNS, pack
from dovetail.spark.label_join.join_work import JoinWork, LogPart, SnapshotFile

__all__ = ["LookAt", "Looked", "positions_of"]


class Looked(NamedTuple):
    """The findings of a file of snapshots: its columns, each mark's first packed position, versions that are read."""

    columns: pa.Schema
    marks: Mapping[int, int]
    versions: set[tuple[str, int]]


@dataclass(frozen=True, slots=True)
class LookAt:
    """Looks at a file of snapshots, or finds the newest row of a part of a log."""

    work: JoinWork

    def __call__(self, item: SnapshotFile | LogPart) -> Looked | Setter | None:
        if isinstance(item, LogPart):
            return newest_of(self.work.rows_of(item), self.work.logs[item.log].time)
        with self.work.offline.open(item.path) as file:
            columns = flat_snapshots(file.schema_arrow.empty_table()).schema
        keys = self.work.keys_of(item)
        at = positions_of(keys)
        marks, where = np.unique(marks_of(keys), return_inverse=True)
        firsts = np.full(len(marks), np.iinfo(np.int64).max)
        np.minimum.at(firsts, where, at)
        times = times_of(keys, "request_time")[at < self.work.released_before(item.partition)]
        used = {
            (name, version)
            for name, view in self.work.batch_views.items()
            for version in np.unique(versions(view, times)).tolist()
        }
        return Looked(columns, dict(zip(marks.tolist(), firsts.tolist(), strict=True)), used)


def positions_of(rows: pa.Table) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """int64 [n]: each row's own position in its partition, packed."""
    return pack(*(rows.column(name).to_numpy() for name in OWN_COLUMNS[1:]))
