"""Who is at work on what: a stage does one thing at a time, and others wait for their turn or for it to be idle."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Collection, Hashable
from contextlib import asynccontextmanager
from typing import Generic, TypeVar

__all__ = ["Turns"]

P = TypeVar("P", bound=Hashable)


class Turns(Generic[P]):
    """One turn after the other, by stage. Belongs to the event loop."""

    def __init__(self) -> None:
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        # The partitions each stage is at work on, in the order in which it began, and which tenure of each.
        self._at_work: defaultdict[str, dict[P, int]] = defaultdict(dict)
        self._changed = asyncio.Condition()

    @asynccontextmanager
    async def turn(self, stage: str) -> AsyncIterator[None]:
        """Nobody else has a turn of ``stage`` in here; those who wait get theirs in the order they came."""
        async with self._locks[stage]:
            yield

    def begin(self, stage: str, partition: P, tenure: int) -> None:
        """``stage`` is at work on ``partition`` from now on, in a turn of its own, and may be on others, too."""
        self._at_work[stage][partition] = tenure

    async def end(self, stage: str, partition: P) -> None:
        """It is not any more."""
        async with self._changed:
            self._at_work[stage].pop(partition, None)
            self._changed.notify_all()

    @asynccontextmanager
    async def at_work(self, stage: str, partition: P, tenure: int) -> AsyncIterator[None]:
        """In here ``stage`` is at work on ``partition``."""
        self.begin(stage, partition, tenure)
        try:
            yield
        finally:
            await self.end(stage, partition)

    def partition(self, stage: str) -> P | None:
        """The partition that ``stage`` is at work on, the first where there are several; None while it is idle."""
        return next(iter(self._at_work[stage]), None)

    async def wait_for(self, condition: Callable[[Collection[tuple[P, int]]], bool]) -> None:
        """Wait until ``condition`` is true of all that is at work, as (partition, tenure)."""
        async with self._changed:
            await self._changed.wait_for(
                lambda: condition([one for at in self._at_work.values() for one in at.items()])
            )

    async def notify(self) -> None:
        """Have those who wait look again: something else their conditions look at has changed."""
        async with self._changed:
            self._changed.notify_all()
