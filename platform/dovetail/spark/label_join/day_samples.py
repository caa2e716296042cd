"""The last stage of a join: a day's joined rows take their order, and are put beside the day's snapshots."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, groupby

import numpy as np
import pyarrow as pa

from dovetail.features.serving.completing import CompletedFeatures, completed_from
from dovetail.features.stored.day_engine import VersionTables
from dovetail.joiners.batch.whole_samples import samples_of
from dovetail.platform.errors import StateError
from dovetail.platform.rows.positions import OWN_COLUMNS
from dovetail.spark.frames import ERROR, MARK, RESULT, Frame, opened, rows_of
from dovetail.spark.label_join.join_survey import positions_of
from dovetail.spark.label_join.join_work import Consumer, JoinPlan, SnapshotFile
from dovetail.spark.label_join.request_tasks import LANES
from dovetail.spark.sent import task_folder, told

__all__ = ["FinishDays"]


@dataclass(frozen=True, slots=True)
class FinishDays:
    """Makes the samples of a day, in the order of one machine: by meaning, lane and snapshot."""

    plan: JoinPlan
    versions: VersionTables
    consume: Consumer

    def __call__(self, given: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        yield from told(4, self._frames(opened(given)))

    def _frames(self, frames: Iterator[Frame]) -> Iterator[Frame]:
        work = self.plan.work
        features = completed_from(work.features, work.batch_views, self.versions.table)
        with task_folder() as folder, work.within(folder):
            for to, mine in groupby(frames, key=lambda frame: frame.to):
                head, rest = _head(mine)
                if errors := [frame for frame in head if frame.kind == ERROR]:
                    yield from errors
                    continue
                samples = _Samples(self.plan, features, work.days[to], sum(frame.value() for frame in head))
                yield Frame.of(to, RESULT, self.consume(work.days[to], self.plan.samples, samples.of(rest)))


def _head(frames: Iterator[Frame]) -> tuple[list[Frame], Iterator[Frame]]:
    """The errors and counts that come before all rows, and the rows."""
    head: list[Frame] = []
    for frame in frames:
        if frame.kind not in (ERROR, MARK):
            return head, chain([frame], frames)
        head.append(frame)
    return head, iter(())


class _Samples:
    """Makes samples of the frames of one day, of so many rows."""

    def __init__(self, plan: JoinPlan, features: CompletedFeatures, day: str, rows: int) -> None:
        self._plan, self._features, self._day = plan, features, day
        self._missing = rows

    def of(self, frames: Iterator[Frame]) -> Iterator[pa.Table]:
        """The samples, in parts.

        Raises:
            StateError: rows did not come, or their snapshots are gone.
        """
        for which, mine in groupby(frames, key=lambda frame: frame.a):
            schema = self._plan.sent[which // LANES]
            rows = pa.concat_tables([schema.empty_table(), *(rows_of(frame, schema) for frame in mine)])
            yield from self._of_lane(which // LANES, rows)
        if self._missing:  # raised to the consumer, which then keeps nothing of what it has written
            raise StateError(
                f"{self._day}: {self._missing} joined rows did not come, or found no snapshot; nothing of the day is "
                "kept. Files changed meanwhile: run it again"
            )

    def _of_lane(self, number: int, rows: pa.Table) -> Iterator[pa.Table]:
        """The samples of one meaning and lane, by partition and position; those of one row in the order they have."""
        partitions, at = rows.column(OWN_COLUMNS[0]).to_numpy(), positions_of(rows)
        order = np.lexsort((at, partitions))
        rows, partitions, at = rows.take(pa.array(order)), partitions[order], at[order]
        for file in sorted(self._files(), key=lambda file: (file.partition, file.first_offset)):
            low = int(np.searchsorted(partitions, file.partition, side="left"))
            high = int(np.searchsorted(partitions, file.partition, side="right"))
            if low == high:
                continue
            snapshots = self._plan.work.snapshots_of(file)
            there = positions_of(snapshots)
            sorter = np.argsort(there, kind="stable")
            place = np.searchsorted(there[sorter], at[low:high])
            known = place < len(there)
            known[known] = there[sorter][place[known]] == at[low:high][known]
            if not known.any():
                continue
            joined = rows.slice(low, high - low).filter(pa.array(known))
            chosen = self._plan.whole(snapshots, sorter[place[known]])
            self._missing -= joined.num_rows
            meaning = self._plan.meanings[number]
            made = samples_of(chosen, joined, self._features, kinds=meaning.kinds, rules=meaning.rules)
            yield pa.concat_tables([self._plan.samples.empty_table(), made], promote_options="permissive")

    def _files(self) -> Iterator[SnapshotFile]:
        return (file for file in self._plan.work.snapshots if file.day == self._day)
