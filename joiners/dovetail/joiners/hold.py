"""Holding a poll back until what it waits for is there: one answer to moves, rebalances and stops, for every agent."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Iterator
from contextlib import contextmanager
from typing import TypeVar

from dovetail.platform.runtime.signal import Signal

__all__ = ["Hold"]

T = TypeVar("T")


class Hold:
    """The poll that a stage holds back, if it does. Belongs to the event loop.

    A stage passes its ``forget`` and ``hurry`` on to here. From then on :attr:`wanted` is False and whoever waits in
    :meth:`until` returns at once, whatever it waited for.
    """

    def __init__(self, moved: Signal, look_again_s: float = 0.5) -> None:
        """``moved`` is signalled when an answer may have changed.

        ``look_again_s``: how often one looks without a signal, in seconds; nobody signals from another process.
        """
        self._moved = moved
        self._look_again_s = look_again_s
        self._partition: int | None = None
        self._leaving = False

    @property
    def partition(self) -> int | None:
        """The partition a poll of which is held back; None when none is, or when it has gone meanwhile."""
        return self._partition

    @property
    def wanted(self) -> bool:
        """Whether what is held back is to go on here: its partition has not gone, and the worker does not stop."""
        return self._partition is not None and not self._leaving

    @contextmanager
    def of(self, partition: int) -> Iterator[None]:
        """In here a poll of ``partition`` is held back. One at a time."""
        self._partition = partition
        try:
            yield
        finally:
            self._partition = None

    async def until(self, look: Callable[[], Awaitable[T | None]]) -> T | None:
        """Wait until ``look`` finds something, and return it; None when nothing is :attr:`wanted` any more.

        ``look`` is asked now, after every signal and every ``look_again_s``. No signal is missed between two looks.
        Raises what ``look`` raises.
        """
        listener = self._moved.listen()
        try:
            while self.wanted:
                found = await look()
                if found is not None:
                    return found
                await listener.wait(self._look_again_s)
            return None
        finally:
            listener.close()

    def forget(self, partitions: Collection[int]) -> None:
        """These have gone to another worker: see :meth:`~dovetail.platform.stage.Stage.forget`."""
        if self._partition in partitions:
            self._partition = None
            self._moved.send()

    def hurry(self) -> None:
        """The worker is about to stop: see :meth:`~dovetail.platform.stage.Stage.hurry`. There is no way back."""
        self._leaving = True
        self._moved.send()
