"""Tracks how far each stage has come in each partition that is assigned here, by five offsets.

=============  ======================================================================================
``stored``     the next offset to read, by the stage's store, when the partition was last assigned
``given``      after the last poll that the stage was given
``released``   after the last poll that is handled, or gathered while more may be read of its partition
``handled``    after the last poll whose ``handle`` has ended; not durable
``completed``  everything below it is completed, durably
=============  ======================================================================================
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Generic, TypeVar

from dovetail.platform.errors import TransportError
from dovetail.platform.stage import Poll, Stage

__all__ = ["Offsets", "Progress", "Stored"]

#: Offsets by (stage, topic, partition), each after the last message it counts.
Progress = dict[tuple[str, str, int], int]
#: Answers of :meth:`Stage.resume`: by (stage, topic), the next offset to read by partition.
Stored = Mapping[tuple[str, str], Mapping[int, int]]

P = TypeVar("P", bound=tuple[str, int])


class Offsets(Generic[P]):
    """The offsets of ``stages`` by partition, a (topic, partition). Belongs to the event loop."""

    def __init__(self, stages: Sequence[Stage]) -> None:
        #: The offset after the last poll whose ``handle`` has ended. Not durable.
        self.handled: Progress = {}
        #: The offset below which everything is completed, durably.
        self.completed: Progress = {}
        self._stored: Progress = {}
        self._released: Progress = {}
        # The offset after the last poll a stage was given; while its partition stays here, that is where it goes on.
        self._given: Progress = {}
        self._readers: dict[str, list[str]] = {}
        for stage in stages:
            for topic in stage.topics:
                self._readers.setdefault(topic, []).append(stage.name)

    def given(self, stage: str, partition: P) -> int:
        """The offset after the last poll that the stage was given."""
        key = (stage, *partition)
        return max(self._given.get(key, 0), self._stored.get(key, 0))

    def resume(self, partition: P, stored: Stored) -> int:
        """Begin with a partition that is assigned, anew or still, at the offsets ``stored``.

        Returns the least offset that a stage of its topic needs.
        """
        needed = []
        for stage in self._readers[partition[0]]:
            key = (stage, *partition)
            position = stored[stage, partition[0]].get(partition[1], 0)
            self._stored[key] = position
            self.handled.setdefault(key, position)
            self.completed.setdefault(key, position)
            self._released.pop(key, None)  # what was gathered is read again
            # A partition kept through a rebalance goes on where its stage is, which may be ahead of the store.
            needed.append(self._given.get(key, position))
        return min(needed)

    def moved(self, stored: Stored) -> set[str]:
        """The topics whose ``stored`` offsets are not those completed here.

        The stored ones are ahead where another worker has had the partitions, and behind where the store lost commits.
        """
        return {
            topic
            for (stage, topic, partition), completed in self.completed.items()
            if stored[stage, topic].get(partition, 0) != completed
        }

    def forget(self, gone: Collection[P]) -> None:
        """Drop the offsets of partitions that have gone to another worker."""
        for progress in (self._given, self._stored, self._released, self.handled, self.completed):
            for key in [key for key in progress if key[1:] in gone]:
                del progress[key]

    def stored(self, stage: str, partition: P) -> int:
        """The stage's offset by its store, when the partition was last assigned."""
        return self._stored.get((stage, *partition), 0)

    def give(self, stage: str, poll: Poll, partition: P) -> Poll:
        """Give the stage the part of ``poll`` that it has not had yet: returns that part, which may be empty."""
        todo = poll.since(self.given(stage, partition))
        if len(todo):
            self._given[stage, *partition] = poll.last + 1
        return todo

    def handle(self, stage: str, partition: P, after: int) -> int:
        """Note that the stage has handled all below ``after``; returns the offset below which all have released."""
        self.handled[stage, *partition] = max(after, self.handled[stage, *partition])
        return self.release(stage, partition, after)

    def release(self, stage: str, partition: P, after: int) -> int:
        """Note that what is below ``after`` keeps no more from being read; returns the offset below which none does."""
        key = (stage, *partition)
        self._released[key] = max(after, self._released.get(key, 0))
        return min(
            max(self._released.get((reader, *partition), 0), self.handled.get((reader, *partition), 0))
            for reader in self._readers[partition[0]]
        )

    def complete(self, stage: str, partition: P, done: int) -> int | None:
        """Note that the stage has completed all below ``done``; returns the offset below which all stages have.

        None when the stage has said so before, or the partition is not here.

        Raises:
            TransportError: ``done`` is beyond what the stage was given.
        """
        given = self.given(stage, partition)
        if done > given:
            raise TransportError(
                f"stage {stage} says it is done up to offset {done} of {partition[0]}, partition {partition[1]}, "
                f"but was given offsets below {given} only: done is the offset after the last message completed"
            )
        key = (stage, *partition)
        if key not in self._stored or done <= self.completed[key]:
            return None
        self.completed[key] = done
        return self._least(self.completed, partition)

    def _least(self, progress: Progress, partition: P) -> int:
        return min(progress.get((stage, *partition), 0) for stage in self._readers[partition[0]])
