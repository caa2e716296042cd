"""What is the Kafka driver's own: declaring topics, losing messages to retention, failing to publish."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from types import SimpleNamespace
from typing import Any, Protocol

import pytest
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import NotLeaderForPartitionError

from dovetail.platform.errors import TransportError
from dovetail.platform.runtime.runner import Runtime, create_app
from dovetail.platform.stage import Outgoing, Poll, Stage, Work
from tests.platform.transports.limited import run

pytestmark = pytest.mark.slow


class Broker(Protocol):
    url: str
    settings: Mapping[str, Any]

    def create(self, *topics: str) -> Mapping[str, int]: ...
    def produce(self, messages: Sequence[Outgoing]) -> None: ...


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


@pytest.mark.parametrize("code", [0, 36, 41], ids=["created", "by another", "refused"])
def test_missing_topics_are_created(mock_kafka: Broker, topic: str, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    """The mock cluster has no CreateTopics, so the answer is a canned one."""
    asked: list[tuple[str, int, int]] = []

    async def create(_: AIOKafkaAdminClient, topics: Sequence[NewTopic]) -> SimpleNamespace:
        asked.extend((topic.name, topic.num_partitions, topic.replication_factor) for topic in topics)
        return SimpleNamespace(topic_errors=[(topic.name, code, None) for topic in topics])

    monkeypatch.setattr(AIOKafkaAdminClient, "create_topics", create)

    async def main() -> None:
        app = create_app("test", mock_kafka.url, topic_replication_factor=3)
        await app.transport.declare({topic: 4})  # type: ignore[attr-defined]

    if code == 41:
        with pytest.raises(TransportError, match=r"cannot declare topics at .*NotController"):
            run(main())
    else:
        run(main())
    assert asked == [(topic, 4, 3)]


def test_a_broker_that_is_not_there_is_named(topic: str) -> None:
    async def main() -> None:
        app = create_app("test", "kafka://127.0.0.1:9", topics={topic: 1})
        await app.transport.declare({topic: 1})  # type: ignore[attr-defined]

    with pytest.raises(TransportError, match=r"cannot declare topics at \['127.0.0.1:9'\]: .* is the broker running"):
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


def test_calls_at_the_same_time_share_batches_and_are_sent_in_order(mock_kafka: Broker, topic: str) -> None:
    batches: list[int] = []
    places: list[list[tuple[int, int]]] = []

    async def main() -> None:
        app = create_app("test", mock_kafka.url, topics=mock_kafka.create(topic))
        producer: Any = app.producer
        await producer.start()
        send = producer._producer.send_batch

        async def noted(batch: Any, topic: str, *, partition: int) -> asyncio.Future[Any]:
            batches.append(batch.record_count())
            answer: asyncio.Future[Any] = await send(batch, topic, partition=partition)
            return answer

        producer._producer.send_batch = noted
        calls = [producer.publish([Outgoing(topic, b"%d" % number, partition=0)]) for number in range(50)]
        try:
            places.extend(await asyncio.gather(*calls))
        finally:
            await producer.stop()

    run(main())
    assert places == [[(0, offset)] for offset in range(50)]
    assert sum(batches) == 50
    assert len(batches) <= 3


def test_behind_a_message_that_did_not_arrive_none_of_its_partition_is_sent(mock_kafka: Broker, topic: str) -> None:
    """Readers drop by position: what came behind a gap would have the gap's own messages dropped, published again."""
    sent: list[int] = []

    async def main() -> None:
        app = create_app("test", mock_kafka.url, topics=mock_kafka.create(topic))
        producer: Any = app.producer
        await producer.start()
        send = producer._producer.send_batch

        async def lose_the_second(batch: Any, topic: str, *, partition: int) -> asyncio.Future[Any]:
            sent.append(partition)
            if sent.count(0) == 2 and partition == 0:
                lost: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
                lost.set_exception(NotLeaderForPartitionError())
                return lost
            answer: asyncio.Future[Any] = await send(batch, topic, partition=partition)
            return answer

        producer._producer.send_batch = lose_the_second
        # Two do not fit into one batch, which holds 1 MiB.
        large = [Outgoing(topic, b"x" * 700_000, partition=number % 2) for number in range(6)]
        try:
            with pytest.raises(TransportError, match="NotLeaderForPartitionError"):
                await producer.publish(large)
        finally:
            await producer.stop()

    run(main())
    assert sent.count(0) == 2


def test_offsets_the_broker_no_longer_has_end_the_worker(mock_kafka: Broker, topic: str) -> None:
    """The mock cluster keeps 5 MB of a partition: a reader that is held back is overtaken."""
    partitions = mock_kafka.create(topic)

    class Held(Stage):
        name = "held"
        topics = (topic,)

        def __init__(self) -> None:
            self.entered, self.go = asyncio.Event(), asyncio.Event()

        def resume(self, topic: str) -> Mapping[int, int]:
            return {}

        async def handle(self, poll: Poll) -> AsyncIterator[Work]:
            self.entered.set()
            await self.go.wait()
            yield Work(done=poll.last + 1)

    async def main() -> None:
        stage = Held()
        app = create_app(topic, mock_kafka.url, topics=partitions, max_unhandled_polls=1, **mock_kafka.settings)
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
