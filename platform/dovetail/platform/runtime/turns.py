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
        # The partition each stage is at work on, and which tenure of it.
        self._at_work: dict[str, tuple[P, int]] = {}
        self._changed = asyncio.Condition()

    @asynccontextmanager
    async def turn(self, stage: str) -> AsyncIterator[None]:
        """Nobody else has a turn of ``stage`` in here; those who wait get theirs in the order they came."""
        async with self._locks[stage]:
            yield

    @asynccontextmanager
    async def at_work(self, stage: str, partition: P, tenure: int) -> AsyncIterator[None]:
        """In here ``stage`` is at work on ``partition``; in a turn of its own."""
        self._at_work[stage] = partition, tenure
        try:
            yield
        finally:
            async with self._changed:
                del self._at_work[stage]
                self._changed.notify_all()

    def partition(self, stage: str) -> P | None:
        """The partition that ``stage`` is at work on; None while it is idle."""
        work = self._at_work.get(stage)
        return None if work is None else work[0]

    async def wait_for(self, condition: Callable[[Collection[tuple[P, int]]], bool]) -> None:
        """Wait until ``condition`` is true of all that is at work, as (partition, tenure)."""
        async with self._changed:
            await self._changed.wait_for(lambda: condition(self._at_work.values()))

    async def notify(self) -> None:
        """Have those who wait look again: something else their conditions look at has changed."""
        async with self._changed:
            self._changed.notify_all()
