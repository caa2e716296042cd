"""Members of a group on a real broker: joining, leaving, dying, waiting. What Faust is known to do wrong is here."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import pytest
from confluent_kafka import Consumer, ConsumerGroupTopicPartitions, TopicPartition
from confluent_kafka.admin import AdminClient

from dovetail.platform.runtime.runner import Runtime, create_app
from dovetail.platform.stage import Outgoing, Poll, Work
from scripts.servers import Kafka
from tests import forked
from tests.platform.transports.members import SharedStore, Summing, member_ids, until

pytestmark = pytest.mark.services

PARTITIONS = 4
SESSION: dict[str, Any] = {"broker_session_timeout": 1.5, "broker_heartbeat_interval": 0.3}


class Broker(Protocol):
    url: str
    address: str

    def create(self, *topics: str) -> Mapping[str, int]: ...
    def produce(self, messages: Sequence[Outgoing]) -> None: ...


def run(main: Callable[[], Any]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(60):
            await main()

    asyncio.run(limited())


def numbers(topic: str, start: int, count: int) -> list[Outgoing]:
    return [Outgoing(topic, b"%d" % n, partition=n % PARTITIONS) for n in range(start, start + count)]


def member(broker: Broker, topic: str, stage: Summing, **settings: Any) -> Runtime:
    app = create_app(topic, broker.url, topics={topic: PARTITIONS}, **{**SESSION, **settings})
    return Runtime(app, [stage])


async def until_broker(holds: Callable[[], bool]) -> None:
    """Until what the broker thinks holds, or a thread has done what it does; the test's own deadline ends it."""
    while not await asyncio.to_thread(holds):  # noqa: ASYNC110 - there is no event for what a broker thinks
        await asyncio.sleep(0.05)


def committed(broker: Broker, group: str, topic: str) -> dict[int, int]:
    admin = AdminClient({"bootstrap.servers": broker.address})
    wanted = [TopicPartition(topic, number) for number in range(PARTITIONS)]
    found = admin.list_consumer_group_offsets([ConsumerGroupTopicPartitions(group, wanted)])[group].result()
    return {tp.partition: tp.offset for tp in found.topic_partitions if tp.offset >= 0}


def test_two_members_share_the_partitions_and_each_number_counts_once(real_kafka: Broker, topic: str) -> None:
    """One comes while there is traffic, the other leaves while there is: state follows the partition."""
    real_kafka.create(topic)
    store = SharedStore()

    async def main() -> None:
        first, second = (member(real_kafka, topic, Summing(topic, store)) for _ in range(2))
        await first.start()
        await first.publish(numbers(topic, 0, 1_000))
        starting = asyncio.create_task(second.start())
        for start in range(1_000, 5_000, 200):
            await first.publish(numbers(topic, start, 200))
        await starting
        await second.wait_for(lambda: len(second.completed) == PARTITIONS / 2)
        await first.wait_for(lambda: len(first.completed) == PARTITIONS / 2)
        assert {*first.completed} | {*second.completed} == {("summing", topic, n) for n in range(PARTITIONS)}
        await first.publish(numbers(topic, 5_000, 1_000))
        leaving = asyncio.create_task(first.stop())
        await second.publish(numbers(topic, 6_000, 2_000))
        await leaving
        await second.wait_for(lambda: len(second.completed) == PARTITIONS)
        await until(lambda: store.count() == 8_000, first, second)
        assert (first.failure, second.failure) == (None, None)
        await second.stop()
        assert sorted(n for values in store.values.values() for n in values) == list(range(8_000))

    run(main)


def test_a_rebalance_while_positions_are_read_starts_over(real_kafka: Broker, topic: str) -> None:
    """A member comes while another one, just assigned, is still asking its stores where to go on."""
    real_kafka.create(topic)
    real_kafka.produce(numbers(topic, 0, 400))
    store = SharedStore()

    async def main() -> None:
        slow, second = Summing(topic, store), Summing(topic, store)
        slow.resuming.clear()
        one, two = member(real_kafka, topic, slow), member(real_kafka, topic, second)
        starting = asyncio.create_task(one.start())
        await asyncio.to_thread(slow.asked.wait)
        joining = asyncio.create_task(two.start())
        await until_broker(lambda: len(member_ids(real_kafka.address, topic)) == 2)
        slow.resuming.set()
        await asyncio.gather(starting, joining)
        await one.wait_for(lambda: len(one.completed) == PARTITIONS / 2)
        await two.wait_for(lambda: len(two.completed) == PARTITIONS / 2)
        await one.publish(numbers(topic, 400, 400))
        await until(lambda: store.count() == 800, one, two)
        await one.stop()
        await two.stop()
        assert sorted(n for values in store.values.values() for n in values) == list(range(800))

    run(main)


class Poisoned(Summing):
    """Fails on the number 666, when it may."""

    async def handle(self, poll: Poll) -> AsyncIterator[Work]:
        if b"666" in poll.values:
            self.entered.set()
            await self.gate.wait()
            raise ValueError("poisoned")
        async for work in super().handle(poll):
            yield work


def test_the_committed_offset_never_passes_what_has_failed(real_kafka: Broker, topic: str) -> None:
    real_kafka.create(topic)

    async def main() -> None:
        stage = Poisoned(topic, SharedStore())
        runtime = member(real_kafka, topic, stage, broker_commit_interval=0.05)
        await runtime.start()
        await runtime.publish([Outgoing(topic, b"%d" % n, partition=0) for n in range(10)])
        await runtime.wait_for(lambda: runtime.completed["summing", topic, 0] == 10)
        stage.entered.clear()
        stage.gate.clear()
        await runtime.publish([Outgoing(topic, b"666", partition=0)])
        await stage.entered.wait()
        await runtime.app.consumer.commit()
        stage.gate.set()
        with pytest.raises(ValueError, match="poisoned"):
            await runtime.wait_for(lambda: False)
        await runtime.stop()

    run(main)
    assert committed(real_kafka, topic, topic).get(0, 0) <= 10


def test_what_is_held_back_is_not_committed(real_kafka: Broker, topic: str) -> None:
    """Partition 0 waits for its window; a commit leaves it where it is."""
    real_kafka.create(topic)

    async def main() -> None:
        stage = Summing(topic, SharedStore())
        runtime = member(real_kafka, topic, stage, broker_commit_interval=0.05)
        await runtime.start()
        messages = numbers(topic, 0, 400)
        await runtime.publish([message for message in messages if message.partition])
        await until_broker(lambda: committed(real_kafka, topic, topic) == {1: 100, 2: 100, 3: 100})
        stage.gate.clear()
        stage.entered.clear()
        await runtime.publish([message for message in messages if not message.partition])
        await stage.entered.wait()
        await runtime.app.consumer.commit()
        assert await asyncio.to_thread(committed, real_kafka, topic, topic) == {1: 100, 2: 100, 3: 100}
        stage.gate.set()
        await until_broker(lambda: committed(real_kafka, topic, topic) == dict.fromkeys(range(PARTITIONS), 100))
        await runtime.stop()

    run(main)


def longer_than_a_session(broker: Broker, topic: str) -> None:
    """Until the coordinator misses a member of another group, with the same session time-out, that is gone now."""
    group = f"{topic}-canary"
    canary = Consumer(
        {
            "bootstrap.servers": broker.address,
            "group.id": group,
            "group.instance.id": "canary",  # a static member does not say that it leaves
            "session.timeout.ms": 1_500,
            "heartbeat.interval.ms": 300,
        }
    )
    canary.subscribe([topic])
    while not canary.assignment():
        canary.poll(0.1)
    assert len(member_ids(broker.address, group)) == 1
    canary.close()
    while member_ids(broker.address, group):
        pass


@pytest.mark.parametrize("held", [False, True], ids=["idle", "held back"])
def test_a_member_that_has_nothing_to_poll_for_longer_than_any_limit_stays(
    real_kafka: Broker, topic: str, held: bool
) -> None:
    """Idle, or waiting for a label window with everything held back: neither is a sign of death."""
    real_kafka.create(topic)
    store = SharedStore()

    async def main() -> None:
        stage = Summing(topic, store)
        settings = {"broker_max_poll_interval": 0.5, "max_unhandled_polls": 1}
        runtime = member(real_kafka, topic, stage, **settings)
        await runtime.start()
        if held:
            stage.gate.clear()
            await runtime.publish(numbers(topic, 0, PARTITIONS))
            consumer = runtime.app.consumer
            await until_broker(lambda: consumer._fetching.locked() and not consumer._fetchable())  # type: ignore[attr-defined]
            # aiokafka takes a poll that was cancelled for one that still goes on, which would hide what is tested here.
            # One does go on: it sets aside what comes.
            consumer._thread._consumer._subscription._fetch_count = 1  # type: ignore[attr-defined]
        before = await asyncio.to_thread(member_ids, real_kafka.address, topic)
        await asyncio.to_thread(longer_than_a_session, real_kafka, topic)
        assert await asyncio.to_thread(member_ids, real_kafka.address, topic) == before
        assert len(before) == 1
        stage.gate.set()
        await runtime.publish(numbers(topic, PARTITIONS, 100 - (PARTITIONS if held else 0)))
        await runtime.wait_for(lambda: store.count() == 100)
        await runtime.stop()

    run(main)


def test_a_worker_outlives_the_death_of_its_broker(kafka_server: Kafka, topic: str) -> None:
    """The broker is killed and comes back on the same port and data; the worker goes on where it was."""
    store = SharedStore()

    async def main() -> None:
        stage = Summing(topic, store)
        app = create_app(topic, kafka_server.url, topics={topic: PARTITIONS}, **SESSION)
        runtime = Runtime(app, [stage])
        await runtime.start()
        await runtime.publish(numbers(topic, 0, 400))
        await runtime.wait_for(lambda: sum(runtime.completed.values()) == 400)
        await asyncio.to_thread(kafka_server.kill)
        await asyncio.to_thread(kafka_server.start)
        await runtime.publish(numbers(topic, 400, 400))
        await runtime.wait_for(lambda: sum(runtime.completed.values()) == 800)
        assert runtime.failure is None
        await runtime.stop()

    run(main)
    assert sorted(n for values in store.values.values() for n in values) == list(range(800))


WORKER = """
import os, sys
from dovetail.platform.runtime.runner import Runtime, create_app
from dovetail.platform.stage import Stage, Work

class Reading(Stage):
    name, topics = "reading", (os.environ["TOPIC"],)

    def resume(self, topic):
        return {}

    async def handle(self, poll):
        if b"poison" in poll.values:
            raise ValueError("poisoned")
        yield Work(done=poll.last + 1)
        os.write(1, b"\\ndone\\n")

app = create_app(os.environ["TOPIC"], os.environ["BROKER"], topics={os.environ["TOPIC"]: 4})
Runtime(app, [Reading()])
app.main()
"""


@pytest.mark.parametrize("value", [b"poison", b"fine"])
def test_an_exception_in_an_agent_ends_the_worker(real_kafka: Broker, topic: str, tmp_path: Path, value: bytes) -> None:
    """Stock Faust goes on past the event; here the process ends, with a code other than 0."""
    real_kafka.create(topic)
    real_kafka.produce([Outgoing(topic, value, partition=0)])
    (tmp_path / "worker.py").write_text(WORKER)
    environment = {**os.environ, "TOPIC": topic, "BROKER": real_kafka.url}
    pipe = subprocess.PIPE
    with forked.start(["worker.py", "worker"], cwd=tmp_path, env=environment, stdout=pipe, stderr=pipe) as worker:
        try:
            if value == b"fine":
                assert worker.stdout is not None
                assert any(line.strip() == "done" for line in worker.stdout)
                worker.send_signal(signal.SIGTERM)
            _, err = worker.communicate(timeout=40)
        finally:
            worker.kill()
    assert (worker.returncode == 0) == (value == b"fine")
    assert ("poisoned" in err) == (value == b"poison")
