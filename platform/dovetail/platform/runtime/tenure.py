"""The partitions that this worker has, the assignment each is from, and whether works may take effect now.

A rebalance must not cut a work in two, nor let two workers act for one partition. So effects (publishing and
committing) stop before this worker tells the group that it is ready, and go on when the new positions are known: a work
of a partition that has gone to another worker by then is given up, without an effect.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Hashable, Iterable
from contextlib import asynccontextmanager
from typing import Generic, TypeVar

__all__ = ["Gone", "Tenure"]

P = TypeVar("P", bound=Hashable)


class Gone(Exception):
    """The partition is no longer this worker's; what was being done with it must have no effect."""


class Tenure(Generic[P]):
    """The assigned partitions. Belongs to the event loop.

    Each time a partition is assigned anew it gets another *number*: a poll of an earlier tenure is none of this one's.
    """

    def __init__(self) -> None:
        self._numbers: dict[P, int] = {}
        self._last = 0
        self._effects = 0
        self._closed = True
        self._closings = 0
        self._changed = asyncio.Condition()

    @property
    def partitions(self) -> frozenset[P]:
        """The partitions assigned; during a rebalance, those that were."""
        return frozenset(self._numbers)

    @property
    def settled(self) -> bool:
        """False before the first assignment, and from a rebalance's beginning until the new positions are known."""
        return not self._closed

    def number(self, partition: P) -> int | None:
        """The number of the present tenure of ``partition``; None when it is not assigned."""
        return self._numbers.get(partition)

    @asynccontextmanager
    async def effect(self, partition: P, number: int) -> AsyncIterator[None]:
        """Publish and commit in here. Waits while a rebalance goes on.

        Raises:
            Gone: the partition is not, or no longer, this worker's by tenure ``number``.
        """
        async with self._changed:
            await self._changed.wait_for(lambda: not self._closed or self._numbers.get(partition) != number)
            if self._numbers.get(partition) != number:
                raise Gone
            self._effects += 1
        try:
            yield
        finally:
            # No await: whoever is cancelled in here must still be counted out.
            self._effects -= 1
            self._wake()

    async def close(self) -> int:
        """A rebalance begins: let no further effect begin; returns when those that have begun are over.

        The number it returns is what :meth:`open` asks for.
        """
        async with self._changed:
            self._closed = True
            self._closings += 1
            closing = self._closings
            await self._changed.wait_for(lambda: not self._effects)
        return closing

    async def change(self, partitions: Iterable[P]) -> set[P]:
        """These partitions are assigned now; returns those that have gone. What works on them gets :class:`Gone`."""
        kept = set(partitions)
        gone = self._numbers.keys() - kept
        async with self._changed:
            self._numbers = {partition: n for partition, n in self._numbers.items() if partition in kept}
            for partition in kept - self._numbers.keys():
                self._last += 1
                self._numbers[partition] = self._last
            self._changed.notify_all()
        return gone

    async def renew(self, partitions: Iterable[P]) -> None:
        """These partitions are assigned as if anew: what works on them gets :class:`Gone`."""
        async with self._changed:
            for partition in partitions:
                self._last += 1
                self._numbers[partition] = self._last
            self._changed.notify_all()

    async def open(self, closing: int) -> None:
        """The positions are known: works may take effect again, unless it was closed once more since ``closing``."""
        async with self._changed:
            if closing == self._closings:
                self._closed = False
                self._changed.notify_all()

    def _wake(self) -> None:
        async def notify() -> None:
            async with self._changed:
                self._changed.notify_all()

        if self._closed:
            self._waking = asyncio.ensure_future(notify())
