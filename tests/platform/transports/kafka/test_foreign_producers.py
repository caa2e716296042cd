"""What ordinary producers do that Dovetail's own does not: compress with any codec, and write in transactions."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import pytest
from aiokafka import codec
from confluent_kafka import Producer

from dovetail.joiners.watermark import PartitionClock
from dovetail.platform.process.monitor import Monitor, Pulse
from dovetail.platform.rows.positions import Progress
from dovetail.platform.runtime.runner import Runtime, create_app
from dovetail.platform.stage import Outgoing, Poll, Stage, Work
from tests.platform.transports.conftest import Broker
from tests.platform.transports.limited import run

services = pytest.mark.services
CODECS = ("gzip", "snappy", "lz4", "zstd")


class Reading(Stage):
    """Keeps what it reads; its positions are those of the object, as a store would have them."""

    name = "reading"

    def __init__(self, topic: str) -> None:
        self.topics = (topic,)
        self.values: list[bytes | None] = []
        self.next: dict[int, int] = {}

    def resume(self, topic: str) -> Mapping[int, int]:
        return dict(self.next)

    async def handle(self, poll: Poll) -> AsyncIterator[Work]:
        def commit() -> None:
            self.values += poll.values
            self.next[poll.partition] = poll.last + 1

        yield Work(commit=commit, done=poll.last + 1)


def runtime_of(broker: Any, stage: Reading) -> Runtime:
    (topic,) = stage.topics
    app = create_app(topic, broker.url, topics=broker.create(topic), **broker.settings)
    return Runtime(app, [stage])


@pytest.mark.parametrize("name", CODECS)
def test_every_codec_of_kafka_is_installed(name: str) -> None:
    encode, decode = getattr(codec, f"{name}_encode"), getattr(codec, f"{name}_decode")
    assert getattr(codec, f"has_{name}")()
    assert bytes(decode(encode(b"behaviour" * 100))) == b"behaviour" * 100


@services
@pytest.mark.parametrize("name", CODECS)
def test_what_a_producer_compresses_is_read(real_kafka: Any, topic: str, name: str) -> None:
    values = [b'{"n": %d, "filler": "%s"}' % (n, b"x" * 500) for n in range(500)]
    stage = Reading(topic)

    async def main() -> None:
        runtime = runtime_of(real_kafka, stage)
        producer = Producer({"bootstrap.servers": real_kafka.address, "compression.type": name, "linger.ms": 100})
        for value in values:
            producer.produce(topic, value, partition=1)
        assert producer.flush(30) == 0
        await runtime.start()
        await runtime.wait_for(lambda: len(stage.values) == len(values))
        await runtime.stop()

    run(main())
    assert stage.values == values


class Transactions:
    """A transactional producer of a foreign program, writing to partition 1."""

    def __init__(self, broker: Any, topic: str) -> None:
        self._topic = topic
        self._producer = Producer({"bootstrap.servers": broker.address, "transactional.id": topic})
        self._producer.init_transactions(30)

    def write(self, values: list[bytes]) -> None:
        self._producer.begin_transaction()
        for value in values:
            self._producer.produce(self._topic, value, partition=1)
        assert self._producer.flush(30) == 0

    def commit(self) -> None:
        self._producer.commit_transaction(30)

    def abort(self) -> None:
        self._producer.abort_transaction(30)


def plain(topic: str, value: bytes) -> Outgoing:
    return Outgoing(topic, value, partition=1)


async def eventually(runtime: Runtime, holds: Callable[[], bool]) -> None:
    """Until ``holds()``: the consumer passes control records by itself, and tells nobody."""
    while not await asyncio.to_thread(holds):
        assert runtime.failure is None
        await asyncio.sleep(0)


def at_end(runtime: Runtime, stage: Reading, partition: int) -> bool:
    """Whether the joiners would take the partition for read to its end."""
    (topic,) = stage.topics
    end = runtime.end_offset(topic, partition)
    assert end is not None
    clock = PartitionClock(Progress(stage.next.get(partition, 0)), lambda: end)
    return clock.at_end and runtime.handled.get((stage.name, topic, partition), 0) >= end


@services
def test_aborted_rows_never_arrive_and_their_gaps_hold_nothing_up(real_kafka: Broker, topic: str) -> None:
    stage = Reading(topic)

    async def main() -> None:
        runtime = runtime_of(real_kafka, stage)
        foreign = Transactions(real_kafka, topic)
        for values, end in (
            ([b"a1", b"a2"], foreign.commit),
            ([b"bad1", b"bad2", b"bad3"], foreign.abort),
            ([b"b1"], foreign.commit),
            ([b"bad4"], foreign.abort),
        ):
            foreign.write(values)
            end()
        await runtime.start()
        await runtime.wait_for(lambda: stage.values == [b"a1", b"a2", b"b1"])
        # 3 + 4 + 2 + 2 offsets, the last three invisible: a reader that has all rows is at the end.
        await eventually(runtime, lambda: at_end(runtime, stage, 1))
        assert await asyncio.to_thread(runtime.end_offset, topic, 1) == 8 == stage.next[1]
        monitor = Monitor(runtime, Pulse(), loop_timeout_s=0)
        assert set((await asyncio.to_thread(monitor.lag)).values()) == {0}
        assert not any(moving.due for moving in (await monitor.moving()).values())
        # Behind an open transaction nothing is read, whoever wrote it; when it is aborted, all but its rows is.
        foreign.write([b"open"])
        real_kafka.produce([plain(topic, b"c1")])
        assert await asyncio.to_thread(runtime.end_offset, topic, 1) == 8
        foreign.abort()
        await runtime.wait_for(lambda: stage.values[3:] == [b"c1"])
        await runtime.stop()
        # Only a control record behind it, and a new start from the position before that.
        foreign.write([b"d1"])
        foreign.commit()
        again = runtime_of(real_kafka, stage)
        await again.start()
        await again.wait_for(lambda: stage.values[4:] == [b"d1"])
        await eventually(again, lambda: at_end(again, stage, 1))
        await again.stop()
        idle = runtime_of(real_kafka, stage)
        await idle.start()
        await eventually(idle, lambda: at_end(idle, stage, 1))
        # Nothing was ever visible of partition 2, and nothing is there.
        assert await asyncio.to_thread(at_end, idle, stage, 2)
        await idle.stop()

    run(main())
    assert stage.values == [b"a1", b"a2", b"b1", b"c1", b"d1"]


@services
def test_a_partition_of_aborted_rows_alone_is_read_to_its_end(real_kafka: Broker, topic: str) -> None:
    stage = Reading(topic)

    async def main() -> None:
        runtime = runtime_of(real_kafka, stage)
        foreign = Transactions(real_kafka, topic)
        foreign.write([b"bad"])
        foreign.abort()
        await runtime.start()
        await eventually(runtime, lambda: at_end(runtime, stage, 1))
        assert await asyncio.to_thread(runtime.end_offset, topic, 1) == 0
        await runtime.stop()

    run(main())
    assert stage.values == []
