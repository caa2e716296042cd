"""Messages of one partition on their way to the broker: those that come while a batch is under way share the next.

aiokafka has one batch of a partition under way at a time. Whoever hands it a batch meanwhile waits, and when that one
is acknowledged, all who wait try again. One of them gets its batch in, not the one who waits for longest, and each
batch is a round trip of its own. While callers are slower than the broker nobody sees that. Once the broker is late,
those who wait are answered a round trip apart, and some behind all who came later: of 750 requests in fifteen seconds,
some took a second where those beside them took a tenth.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol

from dovetail.platform.stage import Outgoing

__all__ = ["Batch", "PartitionQueue"]


class Batch(Protocol):
    """The part of aiokafka's ``BatchBuilder`` that is used."""

    def append(self, *, key: Any, value: Any, timestamp: int, headers: Any) -> object | None:
        """Add a message; None where the batch is full. An empty one takes a message of any size."""


class _Run:
    """Messages that are sent in order, with no gap: how many are in batches, and who waits for their offsets."""

    __slots__ = ("answer", "messages", "offsets", "taken")

    def __init__(self, messages: Sequence[Outgoing], answer: asyncio.Future[list[int]]) -> None:
        self.messages, self.answer = messages, answer
        self.taken = 0
        self.offsets: list[int] = []

    def fill(self, batch: Batch, now_ms: int) -> int:
        """Take messages into ``batch`` for as long as it has room; how many."""
        before = self.taken
        for message in self.messages[before:]:
            at = now_ms if message.timestamp_ms is None else message.timestamp_ms
            headers = list(message.headers)
            if batch.append(key=message.key, value=message.value, timestamp=at, headers=headers) is None:
                break
            self.taken += 1
        return self.taken - before

    def sent(self, offsets: Sequence[int]) -> None:
        """The broker has the next messages, at ``offsets``. Answers when it has all."""
        self.offsets += offsets
        if len(self.offsets) == len(self.messages) and not self.answer.done():
            self.answer.set_result(self.offsets)

    @property
    def whole(self) -> bool:
        """Whether no message is left to be taken."""
        return self.taken == len(self.messages)


class PartitionQueue:
    """Sends runs of messages of one partition, in the order they were put. Belongs to an event loop.

    ``create`` makes an empty batch, ``send`` returns the offset of its first message when the broker has it, and
    ``now_ms`` is the time of messages that have none.

    A batch that fails fails all who have messages in it, and of their messages none is sent any more: in the topic are
    the first of each run, with no gap. Others go on. A run that nobody waits for any more is sent as far as it is under
    way.
    """

    def __init__(
        self, create: Callable[[], Batch], send: Callable[[Batch], Awaitable[int]], now_ms: Callable[[], int]
    ) -> None:
        self._create, self._send, self._now_ms = create, send, now_ms
        self._waiting: deque[_Run] = deque()
        self._sending: asyncio.Task[None] | None = None

    async def put(self, messages: Sequence[Outgoing]) -> list[int]:
        """Send ``messages``, at least one; their offsets, when the broker has all. Raises what ``send`` raises."""
        answer: asyncio.Future[list[int]] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Run(messages, answer))
        if self._sending is None or self._sending.done():
            self._sending = asyncio.create_task(self._send_all())
        return await answer

    def close(self) -> None:
        """Send nothing more; who waits is cancelled."""
        if self._sending is not None:
            self._sending.cancel()
        for run in self._waiting:
            run.answer.cancel()
        self._waiting.clear()

    async def _send_all(self) -> None:
        while self._waiting:
            batch = self._create()
            shares = self._fill(batch)
            if not shares:
                continue  # nobody waits for what was left
            try:
                first = await self._send(batch)
            except asyncio.CancelledError:
                for run, _ in shares:
                    run.answer.cancel()
                raise
            except Exception as error:  # noqa: BLE001 - belongs to those who wait
                for run, _ in shares:
                    if not run.answer.done():
                        run.answer.set_exception(error)
                continue
            for run, count in shares:
                run.sent(range(first, first + count))
                first += count

    def _fill(self, batch: Batch) -> list[tuple[_Run, int]]:
        """Take what waits into ``batch`` for as long as it has room; the runs, and how many messages of each."""
        shares: list[tuple[_Run, int]] = []
        while self._waiting:
            run = self._waiting[0]
            if not run.answer.done():  # else it has failed, or nobody waits for it
                count = run.fill(batch, self._now_ms())
                if count:
                    shares.append((run, count))
                if not run.whole:
                    break
            self._waiting.popleft()
        return shares
