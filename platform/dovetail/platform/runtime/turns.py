"""Who is at work on what: a stage does one thing at a time, in all or in each partition, and others wait their turn."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Collection, Hashable
from contextlib import asynccontextmanager
from typing import Generic, TypeVar

__all__ = ["Turns"]

P = TypeVar("P", bound=Hashable)


class Turns(Generic[P]):
    """One turn after the other, by stage, or by stage and partition. Belongs to the event loop."""

    def __init__(self) -> None:
        self._locks: defaultdict[tuple[str, P | None], asyncio.Lock] = defaultdict(asyncio.Lock)
        # The partitions each stage is at work on, and which tenure of each.
        self._at_work: dict[tuple[str, P], int] = {}
        self._changed = asyncio.Condition()

    @asynccontextmanager
    async def turn(self, stage: str, partition: P | None = None) -> AsyncIterator[None]:
        """Nobody else has a turn of ``stage`` in here; those who wait get theirs in the order they came.

        With ``partition``, nobody else has one of it; a stage's turns are all with, or all without.
        """
        async with self._locks[stage, partition]:
            yield

    def taken(self, stage: str, partition: P | None = None) -> bool:
        """Whether somebody has a turn of ``stage``, with ``partition`` one of it."""
        return self._locks[stage, partition].locked()

    @asynccontextmanager
    async def at_work(self, stage: str, partition: P, tenure: int) -> AsyncIterator[None]:
        """In here ``stage`` is at work on ``partition``; in a turn of its own."""
        self._at_work[stage, partition] = tenure
        try:
            yield
        finally:
            async with self._changed:
                del self._at_work[stage, partition]
                self._changed.notify_all()

    def partition(self, stage: str) -> P | None:
        """A partition that ``stage`` is at work on; None while it is idle."""
        return next((partition for name, partition in self._at_work if name == stage), None)

    def holds(self, condition: Callable[[Collection[tuple[P, int]]], bool]) -> bool:
        """Whether ``condition`` is true of all that is at work, as (partition, tenure)."""
        return condition([(partition, tenure) for (_, partition), tenure in self._at_work.items()])

    async def wait_for(self, condition: Callable[[Collection[tuple[P, int]]], bool]) -> None:
        """Wait until ``condition`` :meth:`holds`."""
        async with self._changed:
            await self._changed.wait_for(lambda: self.holds(condition))

    async def notify(self) -> None:
        """Have those who wait look again: something else their conditions look at has changed."""
        async with self._changed:
            self._changed.notify_all()
