"""A cluster, as far as one is needed: stages of functions over frames, with a shuffle between each two."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import pyarrow as pa

from dovetail.spark.frames import Frame

__all__ = ["Cluster", "Stage"]


@dataclass(frozen=True, slots=True)
class Stage:
    """A function over what a partition holds, run in a task, and the number of partitions.

    The first stage's function is given numbers of items, a column of int64, and each later one the frames that went
    ``to`` its partition, by ``(to, a, b)``; it gives frames (``frames.FRAME``). It may be run again, and twice at once:
    the output of one run counts.
    """

    function: Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]]
    partitions: int


class Cluster(Protocol):
    """Runs stages."""

    @property
    def tasks_at_once(self) -> int:
        """How many tasks run at the same time, about."""
        ...

    def run(self, items: int, stages: Sequence[Stage]) -> list[Frame]:
        """Run ``stages`` one after the other over the items ``0 … items - 1``; the frames of the last one.

        Raises:
            StateError: a task failed more often than the cluster tolerates.
        """
        ...
