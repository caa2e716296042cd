"""What is the Kafka driver's own: declaring topics, losing messages to retention, rebalancing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Protocol

import pytest

from dovetail.platform.errors import StaleCommit, TransportError
from dovetail.platform.runtime import Runtime, create_app
from dovetail.platform.stage import Outgoing, Poll, Stage, Work

pytestmark = pytest.mark.slow


class Broker(Protocol):
    url: str
    settings: Mapping[str, Any]

    def create(self, *topics: str) -> Mapping[str, int]: ...
    def produce(self, messages: Sequence[Outgoing]) -> None: ...


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

    asyncio.run(declare({topic: 4}))
    with pytest.raises(TransportError, match=f"topic '{topic}' at .* has 4 partitions, 8 declared"):
        asyncio.run(declare({topic: 8}))
    with pytest.raises(TransportError, match="has no topic nowhere, and creating is off"):
        asyncio.run(declare({"nowhere": 4}, topic_allow_declare=False))
    # The mock cluster cannot create topics on request; that the broker's refusal is passed on is what is seen here.
    with pytest.raises(TransportError, match="cannot declare topics"):
        asyncio.run(declare({"nowhere": 4}))


def test_a_broker_that_is_not_there_is_named(topic: str) -> None:
    async def main() -> None:
        app = create_app("test", "kafka://127.0.0.1:9", topics={topic: 1})
        await app.transport.declare({topic: 1})  # type: ignore[attr-defined]

    with pytest.raises(TransportError, match=r"cannot declare topics at \['127.0.0.1:9'\]"):
        asyncio.run(main())


def test_what_the_broker_refuses_to_take_is_an_error(mock_kafka: Broker, topic: str) -> None:
    async def main() -> None:
        app = create_app("test", mock_kafka.url, topics=mock_kafka.create(topic), max_message_bytes=1000)
        producer = app.producer
        await producer.start()
        with pytest.raises(TransportError, match=f"publishing 1 messages to {topic} at kafka://.* failed"):
            await producer.publish([Outgoing("not a topic name!", b"x", partition=0)])  # type: ignore[attr-defined]
        await producer.stop()

    asyncio.run(main())


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

    asyncio.run(main())


def test_a_rebalance_neither_loses_nor_repeats(mock_kafka: Broker, topic: str) -> None:
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
            mine = [(key[2], runtime) for key in runtime.completed]
            assert mine
            await runtime.wait_for(lambda mine=mine: all(store.get(number) == 200 for number, _ in mine))
        await second.stop()
        await first.wait_for(lambda: len(first.completed) == 4)
        await feed(800, 400)
        await first.wait_for(lambda: sum(store.values()) == 1200)
        await first.stop()
        assert sorted(int(value or b"") for stage in stages for value in stage.values) == list(range(1200))

    asyncio.run(main())
