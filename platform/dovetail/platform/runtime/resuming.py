"""Where stages go on when partitions are assigned: what has gone is given up, what is stored decides."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from typing import Generic, TypeVar

from dovetail.platform.runtime.journal import Journal
from dovetail.platform.runtime.offsets import Offsets, Stored
from dovetail.platform.runtime.tenure import Tenure
from dovetail.platform.runtime.turns import Turns
from dovetail.platform.stage import Stage

__all__ = ["Resuming"]

# How often a stage that is at work on what has gone is told so, in seconds.
_TELL_AGAIN_S = 0.1

P = TypeVar("P", bound=tuple[str, int])


class Resuming(Generic[P]):
    """Finds the positions of partitions that are assigned, each a (topic, partition). Belongs to the event loop."""

    def __init__(
        self,
        readers: Mapping[str, Sequence[Stage]],
        tenure: Tenure[P],
        offsets: Offsets[P],
        turns: Turns[P],
        journal: Journal,
    ) -> None:
        """``readers`` are the stages that read each topic."""
        self._readers = readers
        self._tenure = tenure
        self._offsets = offsets
        self._turns = turns
        self._journal = journal
        # Stages whose stored positions are those of another state than the one they were given messages for.
        self._afresh: dict[str, Stage] = {}

    def replaced(self, stage: Stage) -> None:
        """Note that ``stage`` has replaced its state: its topics are to be resumed."""
        self._afresh[stage.name] = stage

    def owed(self, stage: Stage) -> bool:
        """Whether the topics of ``stage`` are to be resumed and have not been yet."""
        return stage.name in self._afresh

    async def positions(self, assigned: set[P]) -> Mapping[P, int]:
        """Take over the partitions that are ``assigned``: for each, the least of what its stages need.

        Asked once at a time.
        """
        closing = await self._tenure.close()
        gone = await self._tenure.change(assigned)
        await self._give_up(gone)
        stored = await asyncio.to_thread(self._read_stored, {tp[0] for tp in assigned})
        replaced = {topic for stage in self._afresh.values() for topic in stage.topics}
        self._afresh.clear()
        if moved := self._moved(stored) | {tp for tp in self._tenure.partitions if tp[0] in replaced}:
            await self._tenure.renew(moved)
            await self._give_up(moved)
            stored = await asyncio.to_thread(self._read_stored, {tp[0] for tp in assigned})
        positions = {tp: self._offsets.resume(tp, stored) for tp in assigned}
        await self._tenure.open(closing)
        self._journal.assigned(assigned, gone)
        return positions

    def forget(self, gone: Collection[P]) -> None:
        """Let the stages forget these partitions."""
        for topic in {tp[0] for tp in gone}:
            for stage in self._readers[topic]:
                stage.forget(topic, {tp[1] for tp in gone if tp[0] == topic})

    def _moved(self, stored: Stored) -> set[P]:
        """The partitions that are not where we left them, although we were never told that they had gone.

        Somebody else has had it while this worker was paused for longer than its session. Or the store has lost its
        last commits: to go on from memory would leave a gap. What is held here belongs to a state that is not there any
        more, of all partitions of the topic: some stages have one state for all.
        """
        moved = self._offsets.moved(stored)
        return {tp for tp in self._tenure.partitions if tp[0] in moved}

    async def _give_up(self, gone: Collection[P]) -> None:
        """Let the stages forget these, and return when none is at work on them.

        A stage that still computes on what has gone must not be asked to resume meanwhile. It is told until it has
        ended, and once more then: it may have been told before it came to where it waits, and would wait there for what
        another worker reads now; and it may have kept something since.
        """
        self.forget(gone)
        while not self._turns.holds(self._ended):
            with suppress(TimeoutError):
                async with asyncio.timeout(_TELL_AGAIN_S):
                    await self._turns.wait_for(self._ended)
            self.forget(gone)
        self._offsets.forget(gone)

    def _ended(self, at_work: Collection[tuple[P, int]]) -> bool:
        """Whether all that is at work is at work on what is assigned here."""
        return all(self._tenure.number(tp) == number for tp, number in at_work)

    def _read_stored(self, topics: set[str]) -> Stored:
        for topic in topics:
            for stage in self._readers[topic]:
                if stage.refusals is not None:
                    stage.refusals.forget(topic)
        return {(stage.name, topic): stage.resume(topic) for topic in topics for stage in self._readers[topic]}
