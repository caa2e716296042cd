"""Takes polls for a stage: those of several partitions that wait are computed at once, each takes effect by itself.

A stage that computes together pays once for what a call costs, whatever is in it. Its works stay those of a partition:
published and committed by themselves, in the order of their partition, beside the works of the others. So a partition
that goes to another worker in between takes nothing else with it, and neither does a commit that is refused.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Generic, NamedTuple, TypeVar

from dovetail.platform.runtime.offsets import Offsets
from dovetail.platform.runtime.refusing import computed_together, tried
from dovetail.platform.runtime.steps import Steps
from dovetail.platform.runtime.tenure import Gone, Tenure
from dovetail.platform.runtime.trial import Trial
from dovetail.platform.runtime.turns import Turns
from dovetail.platform.stage import Observer, Poll, Stage, Work

__all__ = ["Arrival", "Taking"]

P = TypeVar("P", bound=tuple[str, int])


class Arrival(NamedTuple, Generic[P]):
    """A poll as it came: of which partition; ``current()`` is False once it will be handed out again."""

    partition: P
    poll: Poll
    current: Callable[[], bool]


class _Given(NamedTuple, Generic[P]):
    """The part of a poll that a stage has not had: of which tenure of the partition, and the offset after the poll."""

    partition: P
    tenure: int
    poll: Poll
    after: int


class Taking(Generic[P]):
    """Gives polls to stages and carries their works through. Belongs to the event loop."""

    def __init__(
        self,
        tenure: Tenure[P],
        offsets: Offsets[P],
        turns: Turns[P],
        steps: Steps[P],
        *,
        trial: Trial | None,
        observer: Observer | None,
        halted: Callable[[], bool],
        complete: Callable[[Stage, P, int], None],
        handled: Callable[[P, int], None],
    ) -> None:
        """``halted``: no further poll is given, and a poll is handled up to a point to resume from only.

        ``complete`` is told of what a stage's store includes already; ``handled(partition, offset)`` of the offset
        below which all stages have handled a partition.
        """
        self._tenure, self._offsets, self._turns, self._steps = tenure, offsets, turns, steps
        self._trial = trial
        self._observer = observer
        self._halted = halted
        self._complete = complete
        self._handled = handled

    async def take(self, stage: Stage, arrivals: Sequence[Arrival[P]]) -> None:
        """Handle polls, in their order by partition; several at once if the stage computes together.

        Raises what a step or the stage raises.
        """
        left = list(arrivals)
        while left:
            now, left = _first_of_each(left) if stage.together else (left[:1], left[1:])
            async with self._turns.turn(stage.name):
                given = [one for arrival in now if (one := self._give(stage, arrival)) is not None]
                if len(given) < 2 or not await self._together(stage, given):
                    for one in given:
                        self._turns.begin(stage.name, one.partition, one.tenure)
                        # When a stop has begun, up to a point to resume from; the rest is for the next start.
                        beat = self._beat(stage, [one])
                        await self._carry(stage, one, tried(stage, one.poll, self._trial, beat))

    async def _together(self, stage: Stage, given: Sequence[_Given[P]]) -> bool:
        """Handle polls of several partitions at once; False where it cannot be, and nothing has been done."""
        for one in given:
            self._turns.begin(stage.name, one.partition, one.tenure)
        try:
            polls = [one.poll for one in given]
            works = await computed_together(stage, polls, self._trial, self._beat(stage, given))
            if works is None:
                return False
            # Side by side: one that has gone must not wait behind one that waits for the rebalance to end.
            async with asyncio.TaskGroup() as carried:
                for one, mine in zip(given, works, strict=True):
                    if mine:
                        carried.create_task(self._carry(stage, one, _each(mine)))
                    else:
                        await self._turns.end(stage.name, one.partition)
                        self._note(stage, one)
        except BaseExceptionGroup as group:
            raise group.exceptions[0] from None
        finally:
            for one in given:
                await self._turns.end(stage.name, one.partition)
        return True

    async def _carry(self, stage: Stage, given: _Given[P], works: AsyncIterator[Work]) -> None:
        """Carry the works of a poll through, which ``stage`` is at work on until it returns or raises."""
        try:
            await self._steps.take_all(stage, given.partition, works, given.tenure, self._halted)
        except Gone:
            return
        finally:
            await self._turns.end(stage.name, given.partition)
        self._note(stage, given)

    def _note(self, stage: Stage, given: _Given[P]) -> None:
        """Note that a poll is handled, if its partition is still here and the stage was not cut short."""
        if self._tenure.number(given.partition) == given.tenure and not self._halted():
            self._end(stage, given.partition, given.after)

    def _give(self, stage: Stage, arrival: Arrival[P]) -> _Given[P] | None:
        """The part of a poll that the stage has not had; None where there is none, or it is not to have it here."""
        partition, poll, current = arrival
        tenure = self._tenure.number(partition)
        if tenure is None or self._halted() or not current():
            return None  # somebody else reads it, the next start does, or it is handed out once more
        after = poll.last + 1
        if after <= self._offsets.stored(stage.name, partition):
            self._complete(stage, partition, after)
        todo = self._offsets.give(stage.name, poll, partition)
        if len(todo) == 0:
            self._end(stage, partition, after)
            return None
        if self._observer is not None:
            self._observer.polled(stage.name, poll.topic, len(todo))
        return _Given(partition, tenure, todo, after)

    def _end(self, stage: Stage, partition: P, after: int) -> None:
        self._handled(partition, self._offsets.handle(stage.name, partition, after))

    def _beat(self, stage: Stage, given: Sequence[_Given[P]]) -> Callable[[], None]:
        def beat() -> None:
            for one in given:
                self._steps.beat(stage.name, one.partition)

        return beat


def _first_of_each(arrivals: Sequence[Arrival[P]]) -> tuple[list[Arrival[P]], list[Arrival[P]]]:
    """The first poll of each partition, and the rest."""
    first: dict[P, Arrival[P]] = {}
    rest = [arrival for arrival in arrivals if first.setdefault(arrival.partition, arrival) is not arrival]
    return list(first.values()), rest


async def _each(works: Sequence[Work]) -> AsyncIterator[Work]:
    for work in works:
        yield work
