"""Gathers the polls of a stage: those of a partition that come within the time it allows are given to it as one.

A poll costs a stage about the same whether it has one message or a hundred. So where nobody waits for a stage's
effects, messages wait for others to come (:class:`~dovetail.platform.stage.Gather`), and are handled together.

Guarantees, per stage and partition:

- polls are given in order, each once;
- no message waits for others for longer than ``max_wait_us`` from when the first that waits with it came, and none
  while there are ``max_messages`` or ``max_bytes`` already, or while somebody waits for the stage (:meth:`hastened`).
  A stage that is at work is waited for in any case, and given what has come meanwhile;
- what is gathered is in memory and bounded: only so long may more of the partition be read (:meth:`add`). It has no
  effect yet, so a rebalance drops it, and it is read again; a stop in good order has it handled first.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any, Generic, TypeVar

from dovetail.platform.stage import Gather, Poll

__all__ = ["Gathering", "taken"]

# How often one looks whether what is gathered has been taken, in seconds.
_LOOK_S = 0.01

P = TypeVar("P", bound=Hashable)
M = TypeVar("M")


class _Waiting(Generic[M]):
    """The polls of one partition that wait, and the number and bytes of their messages."""

    __slots__ = ("entries", "messages", "size")

    def __init__(self) -> None:
        #: Each poll, what came with it, when it is due, and its bytes.
        self.entries: deque[tuple[Poll, M, float, int]] = deque()
        self.messages = 0
        self.size = 0


class Gathering(Generic[P, M]):
    """Keeps the polls that wait for one stage, by partition. Belongs to the event loop.

    Each poll comes with an item, which is returned with it. ``seconds`` is the clock that waiting is timed by; the
    running loop's where it is left out.
    """

    def __init__(self, gather: Gather, seconds: Callable[[], float] | None = None) -> None:
        self._gather = gather
        self._seconds = seconds or (lambda: asyncio.get_running_loop().time())
        self._waiting: dict[P, _Waiting[M]] = {}
        self._hastened = 0
        self._changed = asyncio.Event()

    def add(self, partition: P, poll: Poll, item: M) -> bool:
        """Let ``poll`` wait; whether more of its partition may be read meanwhile, because it is still gathered."""
        waiting = self._waiting.setdefault(partition, _Waiting())
        now, first = self._seconds(), not waiting.entries
        gathering = first or not self._ripe(waiting, now)
        size = _size(poll) if self._gather.max_wait_us else 0
        waiting.entries.append((poll, item, now + self._gather.max_wait_us / 1_000_000, size))
        waiting.messages += len(poll)
        waiting.size += size
        ripe = self._ripe(waiting, now)
        if ripe or first:  # else who waits for it knows when it is due
            self._changed.set()
        return gathering and not ripe

    def take(self, only: P | None = None) -> tuple[P, Poll, M] | None:
        """The polls of the partition that is due for longest, as one, and the item of the first.

        None where none is due. With ``only``, no other partition is looked at.
        """
        now = self._seconds()
        ripe = [(each.entries[0][2], partition) for partition, each in self._of(only) if self._ripe(each, now)]
        if not ripe:
            return None
        partition = min(ripe, key=lambda found: found[0])[1]
        waiting = self._waiting[partition]
        polls: list[Poll] = []
        messages = taken = 0
        while waiting.entries and not (polls and self._enough(messages, taken)):
            poll, item, _, size = waiting.entries.popleft()
            messages, taken = messages + len(poll), taken + size
            if not polls:
                first = item
            polls.append(poll)
        waiting.messages -= messages
        waiting.size -= taken
        if not waiting.entries:
            del self._waiting[partition]
        return partition, Poll.joined(polls), first

    async def next(self, only: P | None = None) -> tuple[P, Poll, M]:
        """As :meth:`take`, as soon as some are due. Several may wait, each for a partition of its own."""
        while (found := self.take(only)) is None:
            self._changed.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(self._due_in(only)):
                    await self._changed.wait()
        return found

    @property
    def waits(self) -> bool:
        """Whether a poll waits that came to wait for others."""
        return bool(self._waiting and self._gather.max_wait_us)

    @contextmanager
    def hastened(self) -> Iterator[None]:
        """In here nothing waits for others."""
        self._hastened += 1
        self._changed.set()
        try:
            yield
        finally:
            self._hastened -= 1

    def clear(self) -> None:
        """Drop all that waits."""
        self._waiting.clear()

    def _ripe(self, waiting: _Waiting[M], now: float) -> bool:
        return bool(self._hastened or waiting.entries[0][2] <= now or self._enough(waiting.messages, waiting.size))

    def _enough(self, messages: int, size: int) -> bool:
        gather = self._gather
        return not gather.max_wait_us or messages >= gather.max_messages or size >= gather.max_bytes

    def _of(self, only: P | None) -> Iterable[tuple[P, _Waiting[M]]]:
        if only is None:
            return self._waiting.items()
        return [(only, self._waiting[only])] if only in self._waiting else []

    def _due_in(self, only: P | None) -> float | None:
        due = min((waiting.entries[0][2] for _, waiting in self._of(only)), default=None)
        return None if due is None else due - self._seconds()


async def taken(gatherings: Iterable[Gathering[Any, Any]], owed: Callable[[], bool], patience_s: float) -> None:
    """Hasten all, and return when nothing is ``owed`` any more, or after ``patience_s``."""
    with ExitStack() as stack, suppress(TimeoutError):
        for gathering in gatherings:
            stack.enter_context(gathering.hastened())
        async with asyncio.timeout(patience_s):
            while owed():  # noqa: ASYNC110 - it depends on stages, too, which tell nobody
                await asyncio.sleep(_LOOK_S)


def _size(poll: Poll) -> int:
    return sum(len(value) for value in poll.values if value is not None)
