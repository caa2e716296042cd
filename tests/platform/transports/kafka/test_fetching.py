"""Polls of a consumer while some partitions are held back: nothing is read twice or lost, and ends are true."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import numpy as np

from dovetail.platform.stage import Poll
from dovetail.platform.transports.kafka.fetching import Fetching
from dovetail.platform.transports.kafka.visible import VisibleEnds
from tests.platform.transports.limited import run

READ, HELD = ("read", 0), ("held", 0)


def poll_of(partition: tuple[str, int], offsets: Sequence[int]) -> Poll:
    """Messages of five bytes."""
    at = np.array(offsets, dtype=np.int64)
    return Poll(*partition, at, at, [None] * len(at), [b"12345"] * len(at), [()] * len(at))


class Consumer:
    """What a poll uses of aiokafka's consumer. A test says what a broker has; what is asked for is kept."""

    def __init__(self) -> None:
        self._subscription: Any = SimpleNamespace(fetch_context=nullcontext, subscription=None)
        self._fetcher: Any = SimpleNamespace(_records=None, _wait_consume_future=None, _notify=lambda _: None)
        self.there: dict[Any, list[int]] = {}
        self.arrived = asyncio.Event()
        self.asked: list[set[Any]] = []
        self.at: dict[Any, int] = {}

    def assignment(self) -> set[Any]:
        return {READ, HELD}

    def seek(self, partition: Any, offset: int) -> None:
        self.at[partition] = offset

    def arrive(self, partition: Any, *offsets: int) -> None:
        self.there.setdefault(partition, []).extend(offsets)
        self.arrived.set()

    async def getmany(self, *partitions: Any, timeout_ms: int) -> dict[Any, Poll]:
        assert partitions, "all partitions would be read"
        assert timeout_ms > 0
        self.asked.append(set(partitions))
        while not self.there.keys() & set(partitions):
            self.arrived.clear()
            await self.arrived.wait()
        there = {partition: self.there.pop(partition) for partition in self.there.keys() & set(partitions)}
        self.at |= {partition: offsets[-1] + 1 for partition, offsets in there.items()}
        return {partition: poll_of(partition, offsets) for partition, offsets in there.items()}


class Over:
    def __init__(self, most_bytes: int = 15) -> None:
        self.consumer: Any = Consumer()
        self.visible: VisibleEnds[Any] = VisibleEnds()
        self.fetching = Fetching(most_bytes, 100, self.visible)
        self.fetching.start(self.consumer)
        self.fetching.seek(self.consumer, {READ: 0, HELD: 0})

    async def poll(self, *wanted: Any) -> dict[Any, list[int]]:
        found = await self.fetching.poll(self.consumer, set(wanted))
        return {partition: poll.offsets.tolist() for partition, poll in found.items()}

    def ends(self, **broker: int) -> dict[Any, int]:
        return self.visible.ends({(name, 0): end for name, end in broker.items()}, self.consumer.at)

    async def settle(self) -> None:
        """Let what waits go on until all of it waits again."""
        for _ in range(20):
            await asyncio.sleep(0)


def over(test: Callable[[Over], Awaitable[None]]) -> None:
    async def main() -> None:
        await test(Over())

    run(main())


def test_records_of_what_is_held_back_are_handed_out_in_one_poll_when_it_is_read_again() -> None:
    async def test(over: Over) -> None:
        over.consumer.arrive(HELD, 0)
        over.consumer.arrive(READ, 0, 1)
        assert await over.poll(READ) == {READ: [0, 1]}
        over.consumer.arrive(HELD, 1, 2)
        polling = asyncio.ensure_future(over.poll(READ))
        await over.settle()
        over.fetching.wake()
        assert await polling == {}
        assert await over.poll(READ, HELD) == {HELD: [0, 1, 2]}
        over.consumer.arrive(HELD, 3)
        assert await over.poll(READ, HELD) == {HELD: [3]}

    over(test)


def test_what_is_set_aside_is_before_the_end_of_its_topic_at_once() -> None:
    async def test(over: Over) -> None:
        over.consumer.arrive(HELD, 0, 1)
        polling = asyncio.ensure_future(over.poll(READ))
        await over.settle()
        assert not polling.done()
        assert over.ends(held=5) == {HELD: 5}  # the broker has more, say of a transaction that is open
        over.consumer.at[HELD] = 5  # that was aborted: nothing of it is ever handed out
        assert over.ends(held=5) == {HELD: 2}
        over.fetching.wake()
        await polling

    over(test)


def test_no_more_is_set_aside_than_has_room_and_nothing_is_asked_for_then() -> None:
    async def test(over: Over) -> None:
        over.consumer.arrive(HELD, 0, 1, 2)  # fifteen bytes
        polling = asyncio.ensure_future(over.poll(READ))
        await over.settle()
        assert over.consumer.asked == [{READ, HELD}, {READ}]
        over.fetching.wake()
        await polling
        held = asyncio.ensure_future(over.poll(HELD))
        assert await held == {HELD: [0, 1, 2]}
        over.consumer.arrive(READ, *range(3))
        over.consumer.arrive(HELD, *range(3, 6))
        nothing = asyncio.ensure_future(over.poll())
        await over.settle()
        assert over.consumer.asked[-1] == {READ, HELD}
        assert not nothing.done()
        over.fetching.wake()
        assert await nothing == {}
        assert await over.poll(HELD) == {HELD: [3, 4, 5]}
        assert await over.poll(READ) == {READ: [0, 1, 2]}

    over(test)


def test_a_seek_drops_what_was_set_aside() -> None:
    async def test(over: Over) -> None:
        over.consumer.arrive(HELD, 0, 1)
        over.consumer.arrive(READ, 0)
        assert await over.poll(READ) == {READ: [0]}
        over.fetching.seek(over.consumer, {READ: 1, HELD: 1})
        over.consumer.arrive(HELD, 1)
        assert await over.poll(READ, HELD) == {HELD: [1]}
        assert over.consumer.at == {READ: 1, HELD: 2}

    over(test)
