"""A stage that handles its partitions each by itself: conformance of both transports."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator

import pytest

from dovetail.platform.runtime.runner import Runtime
from dovetail.platform.stage import Outgoing, Poll, Work
from tests.platform.transports.recording import PARTITIONS, Broker, Recorder, app_for, numbered, run, until


class Apart(Recorder):
    """Keeps partition 0 waiting until told otherwise; notes how many polls it has in hand, of all and of each."""

    by_partition = True

    def __init__(self, topic: str) -> None:
        super().__init__("apart", [topic])
        self.opened = asyncio.Event()
        self.in_hand: defaultdict[int, int] = defaultdict(int)
        self.most = 0

    async def handle(self, poll: Poll) -> AsyncIterator[Work]:
        self.in_hand[poll.partition] += 1
        assert self.in_hand[poll.partition] == 1, "one poll of a partition at a time"
        self.most = max(self.most, sum(self.in_hand.values()))
        if poll.partition == 0:
            await self.opened.wait()
        self.note(poll)
        yield Work(commit=lambda: self.commit(poll), done=poll.last + 1)
        self.in_hand[poll.partition] -= 1


def test_one_partition_waits_for_no_other_and_keeps_its_order(broker: Broker, topic: str) -> None:
    async def main() -> None:
        stage = Apart(topic)
        runtime = Runtime(app_for(broker, topic, topics=broker.create(topic)), [stage])
        await runtime.start()
        await runtime.publish([Outgoing(topic, b"held %d" % n, partition=0) for n in range(3)])
        sent = 0
        for n in range(5):
            await runtime.publish(numbered(topic, 10, start=10 * n, partition=1 + n % (PARTITIONS - 1)))
            sent += 10
            await until(runtime, stage, sent)
        assert stage.most >= 1
        assert runtime.handled["apart", topic, 0] == 0
        stage.opened.set()
        await until(runtime, stage, sent + 3)
        await runtime.wait_for(lambda: sum(runtime.completed.values()) == sent + 3)
        await runtime.stop()
        assert runtime.failure is None
        by_partition: defaultdict[int, list[int]] = defaultdict(list)
        for row in stage.rows[topic]:
            by_partition[row.partition].append(row.offset)
        assert all(offsets == list(range(len(offsets))) for offsets in by_partition.values())

    run(main)


def test_a_failure_in_one_partition_ends_all(broker: Broker, topic: str) -> None:
    class Failing(Apart):
        async def handle(self, poll: Poll) -> AsyncIterator[Work]:
            if poll.partition == 1:
                raise ValueError("it cannot")
            async for work in super().handle(poll):
                yield work

    async def main() -> None:
        stage = Failing(topic)
        runtime = Runtime(app_for(broker, topic, topics=broker.create(topic)), [stage])
        await runtime.start()
        await runtime.publish([Outgoing(topic, b"", partition=0), Outgoing(topic, b"", partition=1)])
        with pytest.raises(ValueError, match="it cannot"):
            await runtime.wait_for(lambda: False)
        await runtime.stop()
        assert isinstance(runtime.failure, ValueError)
        assert stage.store == {}

    run(main)
