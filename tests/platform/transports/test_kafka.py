"""What is the Kafka driver's own: declaring topics, losing messages to retention, rebalancing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Mapping, Sequence
from types import SimpleNamespace
from typing import Any, Protocol

import pytest
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.consumer.group_coordinator import CoordinatorGroupRebalance

from dovetail.platform.errors import StaleCommit, TransportError
from dovetail.platform.runtime import Runtime, create_app
from dovetail.platform.stage import Outgoing, Poll, Stage, Work

pytestmark = pytest.mark.slow


class Broker(Protocol):
    url: str
    settings: Mapping[str, Any]

    def create(self, *topics: str) -> Mapping[str, int]: ...
    def produce(self, messages: Sequence[Outgoing]) -> None: ...


def run(main: Coroutine[Any, Any, None]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(60):
            await main

    asyncio.run(limited())


class Checked(Stage):
    """Refuses a position that is not the one it expects, as a store does."""

    def __init__(self, topic: str, store: dict[int, int]) -> None:
        self.name = "checked"
        self.topics = (topic,)
        self.store = store
        self.values: list[bytes | None] = []

    def resume(self, topic: str) -> Mapping[int, int]:
        return dict(self.store)

    async def handle(self, poll: Poll) -> AsyncIterator[Work]:
        yield Work(commit=lambda: self.commit(poll), done=poll.last + 1)

    def commit(self, poll: Poll) -> None:
        found = self.store.get(poll.partition, 0)
        if found != poll.first:
            raise StaleCommit(poll.topic, poll.partition, expected=poll.first, found=found)
        self.store[poll.partition] = poll.last + 1
        self.values.extend(poll.values)


def test_topics_are_checked_against_what_is_there(mock_kafka: Broker, topic: str) -> None:
    mock_kafka.create(topic)

    async def declare(topics: Mapping[str, int], **settings: Any) -> None:
        app = create_app("test", mock_kafka.url, topics=topics, **settings)
        await app.transport.declare(topics)  # type: ignore[attr-defined]

    run(declare({topic: 4}))
    with pytest.raises(TransportError, match=f"topic '{topic}' at .* has 4 partitions, 8 declared"):
        run(declare({topic: 8}))
    with pytest.raises(TransportError, match="has no topic nowhere, and creating is off"):
        run(declare({"nowhere": 4}, topic_allow_declare=False))


@pytest.mark.parametrize("code", [0, 41], ids=["created", "refused"])
def test_missing_topics_are_created(mock_kafka: Broker, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    """The mock cluster has no CreateTopics, so the answer is a canned one."""
    asked: list[tuple[str, int, int]] = []

    async def create(_: AIOKafkaAdminClient, topics: Sequence[NewTopic]) -> SimpleNamespace:
        asked.extend((topic.name, topic.num_partitions, topic.replication_factor) for topic in topics)
        return SimpleNamespace(topic_errors=[(topic.name, code, None) for topic in topics])

    monkeypatch.setattr(AIOKafkaAdminClient, "create_topics", create)

    async def main() -> None:
        app = create_app("test", mock_kafka.url, topic_replication_factor=3)
        await app.transport.declare({"new": 6})  # type: ignore[attr-defined]

    if code:
        with pytest.raises(TransportError, match=r"cannot declare topics at .*NotController"):
            run(main())
    else:
        run(main())
    assert asked == [("new", 6, 3)]


def test_a_broker_that_is_not_there_is_named(topic: str) -> None:
    async def main() -> None:
        app = create_app("test", "kafka://127.0.0.1:9", topics={topic: 1})
        await app.transport.declare({topic: 1})  # type: ignore[attr-defined]

    with pytest.raises(TransportError, match=r"cannot declare topics at \['127.0.0.1:9'\]"):
        run(main())


def test_a_publication_that_fails_is_an_error(mock_kafka: Broker, topic: str) -> None:
    async def main() -> None:
        app = create_app("test", mock_kafka.url, topics=mock_kafka.create(topic))
        producer: Any = app.producer
        await producer.start()
        await producer.publish([Outgoing(topic, b"x", partition=0)])
        with pytest.raises(TransportError, match="partitions 0 to 3; there is no 4"):
            await producer.publish([Outgoing(topic, b"x", partition=4)])
        await producer._producer.stop()
        with pytest.raises(TransportError, match=f"publishing 1 messages to {topic} at kafka://.* failed"):
            await producer.publish([Outgoing(topic, b"x", partition=0)])
        await producer.stop()

    run(main())


def test_offsets_the_broker_no_longer_has_end_the_worker(mock_kafka: Broker, topic: str) -> None:
    """The mock cluster keeps 5 MB of a partition: a reader that is held back is overtaken."""
    topics = mock_kafka.create(topic)

    class Held(Checked):
        def __init__(self) -> None:
            super().__init__(topic, {})
            self.entered, self.go = asyncio.Event(), asyncio.Event()

        async def handle(self, poll: Poll) -> AsyncIterator[Work]:
            self.entered.set()
            await self.go.wait()
            yield Work(done=poll.last + 1)

    async def main() -> None:
        stage = Held()
        app = create_app(topic, mock_kafka.url, topics=topics, max_unhandled_polls=1, **mock_kafka.settings)
        runtime = Runtime(app, [stage])
        await runtime.start()
        await runtime.publish([Outgoing(topic, b"first", partition=0)])
        await stage.entered.wait()
        for _ in range(20):
            await runtime.publish([Outgoing(topic, b"x" * 900_000, partition=0)])
        stage.go.set()
        with pytest.raises(TransportError, match="the broker removed messages before they were read"):
            await runtime.wait_for(lambda: False)
        await runtime.stop()

    run(main())


async def until_all_read(runtime: Runtime, offset: int) -> None:
    await runtime.wait_for(lambda: all(each == offset for each in runtime.completed.values()))


def test_a_rebalance_neither_loses_nor_repeats(mock_kafka: Broker, topic: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # The mock cluster refuses a member's SyncGroup that comes before it has answered all members' JoinGroup.
    sync = CoordinatorGroupRebalance._send_sync_group_request

    async def later(rebalance: Any, request: Any) -> Any:
        await asyncio.sleep(0.5)
        return await sync(rebalance, request)

    monkeypatch.setattr(CoordinatorGroupRebalance, "_send_sync_group_request", later)
    topics = mock_kafka.create(topic)
    store: dict[int, int] = {}

    async def main() -> None:
        stages = [Checked(topic, store), Checked(topic, store)]
        runtimes = [
            Runtime(create_app(topic, mock_kafka.url, topics=topics, **mock_kafka.settings), [stage])
            for stage in stages
        ]
        first, second = runtimes

        async def feed(start: int, count: int) -> None:
            await first.publish([Outgoing(topic, b"%d" % n, partition=n % 4) for n in range(start, start + count)])

        await first.start()
        await feed(0, 400)
        await first.wait_for(lambda: sum(store.values()) == 400)
        await second.start()
        await first.wait_for(lambda: len(first.completed) < 4)  # it has given some away
        await feed(400, 400)
        for runtime in runtimes:
            assert runtime.completed
            await until_all_read(runtime, 200)
        await second.stop()
        await first.wait_for(lambda: len(first.completed) == 4)
        await feed(800, 400)
        await first.wait_for(lambda: sum(store.values()) == 1200)
        await first.stop()
        assert sorted(int(value or b"") for stage in stages for value in stage.values) == list(range(1200))

    run(main())
