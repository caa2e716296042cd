"""The task of some requests: joins their snapshots with their labels, and sends the joined rows to their days."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dovetail.joiners.batch.clock_rows import SETTER_COLUMNS, with_setter_rows
from dovetail.joiners.batch.join import join_samples
from dovetail.joiners.meanings.label_meaning import LabelMeaning
from dovetail.platform.archive.dayfiles import day_of
from dovetail.platform.rows.intake import time_us
from dovetail.platform.rows.positions import OWN_COLUMNS, pack
from dovetail.spark.frames import ERROR, MARK, Frame, Held, opened, sealed
from dovetail.spark.label_join.join_work import MEANING, JoinPlan
from dovetail.spark.label_join.row_shipping import KEYS, LABELS
from dovetail.spark.sent import task_folder, told

__all__ = ["LANES", "ROWS", "JoinRequests"]

#: The kind of frames with joined rows; their ``a`` is the number of the meaning times ``LANES``, and the lane.
ROWS = 18
LANES = 1 << 16
_DAY_US = 86_400_000_000


@dataclass(frozen=True, slots=True)
class JoinRequests:
    """Joins by the query of the batch join, each snapshot by the meaning that it is judged by."""

    plan: JoinPlan

    def __call__(self, given: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        yield from told(3, self._frames(opened(given)))

    def _frames(self, frames: Iterator[Frame]) -> Iterator[Frame]:
        held: dict[int, Held] = {}
        with task_folder() as folder, self.plan.work.within(folder):
            for frame in frames:
                if frame.kind == ERROR:
                    yield frame._replace(to=0)
                else:
                    if frame.to not in held:
                        held[frame.to] = Held(folder)
                    held[frame.to].put(frame)
            for task, rows in sorted(held.items()):
                yield from self._joined(task, rows)
                rows.close()

    def _joined(self, task: int, held: Held) -> Iterator[Frame]:
        plan = self.plan
        keys = held.rows(KEYS, plan.keys).sort_by([(name, "ascending") for name in OWN_COLUMNS])
        logs = {
            log.name: with_setter_rows(held.rows(LABELS + number, log.shipped), log.time).drop_columns(
                list(SETTER_COLUMNS)
            )
            for number, log in enumerate(plan.work.logs)
            if log.name
        }
        sent: dict[int, int] = {}
        for number, meaning in enumerate(plan.meanings):
            mine = keys.filter(pc.equal(keys.column(MEANING), number))
            if mine.num_rows:
                yield from self._of_meaning(task, number, meaning, mine, logs, sent)
        for day, rows in sent.items():
            yield Frame.of(day, MARK, rows, a=-1, b=task)

    def _of_meaning(
        self,
        task: int,
        number: int,
        meaning: LabelMeaning,
        keys: pa.Table,
        logs: dict[str, pa.Table],
        sent: dict[int, int],
    ) -> Iterator[Frame]:
        work = self.plan.work
        joined = join_samples(
            keys,
            {kind: logs[kind] for kind in meaning.kinds},
            meaning.targets[work.target],
            allowed_lateness_us=work.allowed_lateness_us,
            early_us=meaning.early_us,
            rules=meaning.rules,
        )
        for name in OWN_COLUMNS:
            joined = joined.append_column(name, keys.column(name).take(joined.column("_at")))
        lanes = joined.column("_lane").to_numpy().astype(np.int64)
        partitions = joined.column("_partition").to_numpy()
        at = pack(joined.column("_offset").to_numpy(), joined.column("_row").to_numpy())
        bounds = np.zeros(len(at), dtype=np.int64)
        for (lane, partition), bound in work.bounds.items():
            bounds[(lanes == lane) & (partitions == partition)] = bound
        days = time_us(joined, "request_time") // _DAY_US
        numbers = {day: place for place, day in enumerate(work.days)}
        rows = joined.select(self.plan.sent[number].names)
        released = at < bounds
        for day in np.unique(days[released]).tolist():
            place = numbers[day_of(day * _DAY_US)]
            for lane in np.unique(lanes[released & (days == day)]).tolist():
                mine = np.flatnonzero(released & (days == day) & (lanes == lane))
                for part, payload in enumerate(sealed(rows.take(pa.array(mine)))):
                    yield Frame(place, ROWS, number * LANES + lane, (task << 16) + part, payload)
                sent[place] = sent.get(place, 0) + len(mine)
