"""Several workers of one group on a real Kafka: set DOVETAIL_TEST_KAFKA=kafka://HOST:PORT, see `make services-test`."""

from __future__ import annotations

import asyncio
import os
import uuid
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import pytest
from faust.types import TP

from dovetail.platform.errors import StaleCommit
from dovetail.platform.runtime.runner import Runtime, create_app
from dovetail.platform.stage import Outgoing, Poll, Stage, Work
from tests.platform.transports.members import until

PARTITIONS = 4
pytestmark = [pytest.mark.services, pytest.mark.slow]


@pytest.fixture
def kafka() -> str:
    url = os.environ.get("DOVETAIL_TEST_KAFKA", "")
    if not url:
        pytest.skip("DOVETAIL_TEST_KAFKA is not set: no real Kafka")
    return url


class Store:
    """Positions and values, with a compare-and-set, shared by the workers."""

    def __init__(self) -> None:
        self.positions: dict[tuple[str, int], int] = {}
        self.values: list[int] = []


class Reader(Stage):
    """Reads one topic into the store."""

    def __init__(self, topic: str, store: Store) -> None:
        self.name, self.topics, self.store = f"reads.{topic}", (topic,), store
        self.polls: list[Poll] = []

    def resume(self, topic: str) -> Mapping[int, int]:
        return {number: at for (name, number), at in self.store.positions.items() if name == topic}

    async def handle(self, poll: Poll) -> AsyncIterator[Work]:
        self.polls.append(poll)
        yield Work(commit=lambda: self.commit(poll), done=poll.last + 1)

    def commit(self, poll: Poll) -> None:
        key = (poll.topic, poll.partition)
        found = self.store.positions.get(key, 0)
        if found != poll.first:
            raise StaleCommit(poll.topic, poll.partition, expected=poll.first, found=found)
        self.store.positions[key] = poll.last + 1
        self.store.values += [int(value or b"") for value in poll.values]


class All(Reader):
    """Keeps no position: every worker reads all there is, from the beginning."""

    def resume(self, topic: str) -> Mapping[int, int]:
        return {}

    async def handle(self, poll: Poll) -> AsyncIterator[Work]:
        self.polls.append(poll)
        yield Work(done=poll.last + 1)


class Worker:
    def __init__(self, kafka: str, run: str, store: Store) -> None:
        self.reader, self.all, self.one = (
            Reader(f"{run}-split", store),
            All(f"{run}-shared", store),
            Reader(f"{run}-whole", store),
        )
        topics = {f"{run}-split": PARTITIONS, f"{run}-shared": 1, f"{run}-whole": PARTITIONS}
        app = create_app(run, kafka, topics=topics, broker_session_timeout=10.0, broker_heartbeat_interval=1.0)
        app.shared, app.whole = frozenset({f"{run}-shared"}), frozenset({f"{run}-whole"})
        self.runtime = Runtime(app, [self.reader, self.all, self.one])

    def has(self, topic: str) -> int:
        return sum(tp.topic == topic for tp in self.runtime.tenure.partitions) if self.runtime.tenure.settled else -1


async def got(holds: Callable[[], bool], *workers: Worker) -> None:
    await until(holds, *(worker.runtime for worker in workers))


def run(main: Callable[[], Any]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(120):
            await main()

    asyncio.run(limited())


def test_workers_share_partitions_hand_them_over_and_read_shared_topics_whole(kafka: str) -> None:
    name, store = f"t{uuid.uuid4().hex[:8]}", Store()

    async def main() -> None:
        sent = 0

        async def send(runtime: Runtime, count: int) -> None:
            nonlocal sent
            for start in range(sent, sent + count, 50):
                numbers = range(start, start + 50)
                await runtime.publish([Outgoing(f"{name}-split", b"%d" % n, partition=n % PARTITIONS) for n in numbers])
            sent += count

        first, second = Worker(kafka, name, store), Worker(kafka, name, store)
        await first.runtime.start()
        await got(lambda: first.has(f"{name}-split") == PARTITIONS, first)
        await first.runtime.publish([Outgoing(f"{name}-shared", b"%d" % n) for n in range(10)])
        loading = asyncio.create_task(send(first.runtime, 5000))
        await second.runtime.start()
        await got(lambda: first.has(f"{name}-split") == second.has(f"{name}-split") == 2, first, second)
        assert sorted([first.has(f"{name}-whole"), second.has(f"{name}-whole")]) == [0, PARTITIONS]
        await loading
        await got(lambda: len(store.values) == sent, first, second)
        for worker in (first, second):
            await got(lambda seen=worker.all: sum(map(len, seen.polls)) >= 10, first, second)  # type: ignore[misc]
            # Also where it does not read itself, each knows where a log ends.
            ends = await asyncio.to_thread(
                worker.runtime.end_offsets, {TP(f"{name}-split", number) for number in range(PARTITIONS)}
            )
            assert sum(ends.values()) == sent
        loading = asyncio.create_task(send(second.runtime, 5000))
        await first.runtime.stop()
        await got(lambda: second.has(f"{name}-split") == PARTITIONS, second)
        await loading
        await got(lambda: len(store.values) == sent, second)
        await second.runtime.stop()
        assert sorted(store.values) == list(range(sent))

    run(main)
