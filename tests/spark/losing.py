"""A cluster that loses a frame on its way."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from dovetail.spark.cluster import Stage
from dovetail.spark.frames import Frame
from tests.spark.in_process import InProcess

__all__ = ["Losing"]


class Losing(InProcess):
    """Loses the first frame of a kind that a stage gives."""

    def __init__(self, stage: str, kind: int) -> None:
        super().__init__()
        self._stage, self._kind = stage, kind

    def _tasks(self, stage: Stage, given: Sequence[Sequence[pa.RecordBatch]]) -> list[Frame]:
        frames = super()._tasks(stage, given)
        if type(stage.function).__name__ == self._stage:
            frames.remove(next(frame for frame in frames if frame.kind == self._kind))
        return frames
