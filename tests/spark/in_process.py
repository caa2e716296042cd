"""A cluster that is this process: frames are shuffled by hand, and tasks can be made to fail."""

from __future__ import annotations

import pickle
import random
from collections.abc import Sequence

import pyarrow as pa

from dovetail.spark.cluster import Stage
from dovetail.spark.frames import Frame, batches, opened

__all__ = ["InProcess"]


class InProcess:
    """Runs stages as Spark does: functions travel pickled, the output of a run counts once, whichever run it was.

    ``unsteady``: a seed by which attempts end half-way and are run again, and some are run twice.
    """

    def __init__(self, unsteady: int | None = None) -> None:
        self.tasks_at_once = 2
        self._chance = None if unsteady is None else random.Random(unsteady)

    def run(self, items: int, stages: Sequence[Stage]) -> list[Frame]:
        """As ``Cluster.run``."""
        first = stages[0]
        given = [
            [pa.RecordBatch.from_pydict({"id": pa.array(range(n, items, first.partitions), pa.int64())})]
            for n in range(first.partitions)
        ]
        frames = self._tasks(first, given)
        for stage in stages[1:]:
            ordered = sorted(frames, key=lambda frame: (frame.to, frame.a, frame.b))
            given = [list(batches(f for f in ordered if f.to == n)) for n in range(stage.partitions)]
            frames = self._tasks(stage, given)
        return frames

    def _tasks(self, stage: Stage, given: Sequence[Sequence[pa.RecordBatch]]) -> list[Frame]:
        frames: list[Frame] = []
        for part in given:
            function = pickle.loads(pickle.dumps(stage.function))
            if self._chance is not None:
                attempt = function(iter(part))
                if self._chance.random() < 0.5:
                    next(attempt, None)  # it dies after its first output, or is slower than the one below
                if self._chance.random() < 0.5:
                    list(attempt)
                attempt.close()
            frames += opened(list(function(iter(part))))
        return frames
