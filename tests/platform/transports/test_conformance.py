"""What both drivers promise, each checked on both."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

import pytest
from faust.types import TP, StreamT

from dovetail.platform.errors import StaleCommit, TransportError
from dovetail.platform.runtime.runner import (
    Runtime,
)
from dovetail.platform.stage import Outgoing, Poll, Work
from dovetail.platform.transports.coalescing import PollSchema
from tests.platform.transports.recording import (
    PARTITIONS,
    Broker,
    Recorder,
    Store,
    app_for,
    numbered,
    run,
)


def test_messages_arrive_whole_and_in_order_of_their_partition(broker: Broker, topic: str) -> None:
    sent = [
        Outgoing(
            topic,
            b"value-%d" % n,
            key=None if n % 3 else b"key-%d" % n,
            partition=n % PARTITIONS,
            timestamp_ms=1_700_000_000_123 + n,
            headers=(("trace", b"\x00%d" % n), ("empty", b"")) if n % 2 else (),
        )
        for n in range(400)
    ]

    async def main() -> None:
        stage = Recorder("stage", [topic])
        runtime = Runtime(app_for(broker, topic, topics=broker.create(topic)), [stage])
        await runtime.start()
        await runtime.publish(sent)
        await runtime.wait_for(lambda: stage.count() == len(sent))
        await runtime.stop()
        for partition in range(PARTITIONS):
            expected = [message for message in sent if message.partition == partition]
            got = [row for row in stage.rows[topic] if row.partition == partition]
            assert [row.offset for row in got] == list(range(len(expected)))
            assert [(row.timestamp_ms, row.key, row.value, row.headers) for row in got] == [
                (message.timestamp_ms, message.key, message.value, tuple(message.headers)) for message in expected
            ]

    run(main)


def test_a_key_goes_to_the_partition_that_other_clients_give_it(broker: Broker, topic: str) -> None:
    async def main() -> None:
        stage = Recorder("stage", [topic])
        runtime = Runtime(app_for(broker, topic, topics=broker.create(topic)), [stage])
        await runtime.start()
        await runtime.publish(
            [Outgoing(topic, b"", key=key) for key in (b"21", b"foobar", b"a-little-bit-long-string")]
        )
        await runtime.wait_for(lambda: stage.count() == 3)
        await runtime.stop()
        # murmur2 of these, from the Java client's own tests: -973932308, -790332482, -985981536
        hashes = {b"21": -973932308, b"foobar": -790332482, b"a-little-bit-long-string": -985981536}
        assert {row.key: row.partition for row in stage.rows[topic]} == {
            key: (value & 0x7FFFFFFF) % PARTITIONS for key, value in hashes.items()
        }

    run(main)


def test_tombstones_are_none(broker: Broker, topic: str) -> None:
    topics = broker.create(topic)
    broker.produce(
        [
            Outgoing(topic, None, key=b"gone", partition=1),  # type: ignore[arg-type]
            Outgoing(topic, b"", key=b"empty", partition=1),
        ]
    )

    async def main() -> None:
        stage = Recorder("stage", [topic])
        runtime = Runtime(app_for(broker, topic, topics=topics), [stage])
        await runtime.start()
        await runtime.wait_for(lambda: stage.count() == 2)
        await runtime.stop()
        assert [(row.key, row.value) for row in stage.rows[topic]] == [(b"gone", None), (b"empty", b"")]

    run(main)


def test_a_message_of_megabytes_passes(broker: Broker, topic: str) -> None:
    big = bytes(range(250)) * (broker.max_message // 250)

    async def main() -> None:
        stage = Recorder("stage", [topic])
        runtime = Runtime(app_for(broker, topic, topics=broker.create(topic)), [stage])
        await runtime.start()
        await runtime.publish([Outgoing(topic, big, partition=0)])
        await runtime.wait_for(lambda: stage.count() == 1)
        await runtime.publish([Outgoing(topic, b"after", partition=0)])
        await runtime.wait_for(lambda: stage.count() == 2)
        await runtime.stop()
        assert stage.values(topic) == [big, b"after"]

    run(main)


def test_an_empty_topic_starts_and_stops(broker: Broker, topic: str) -> None:
    async def main() -> None:
        stage = Recorder("stage", [topic])
        runtime = Runtime(app_for(broker, topic, topics=broker.create(topic)), [stage])
        await runtime.start()
        assert runtime.completed == {("stage", topic, partition): 0 for partition in range(PARTITIONS)}
        await runtime.publish([])
        await runtime.stop()
        assert stage.polls == []

    run(main)


def test_a_restart_goes_on_at_the_stored_positions(broker: Broker, topic: str) -> None:
    store = Store()

    async def first() -> None:
        stage = Recorder("stage", [topic], store)
        runtime = Runtime(app_for(broker, topic, topics=broker.create(topic)), [stage])
        await runtime.start()
        await runtime.publish(numbered(topic, 100))
        await runtime.wait_for(lambda: sum(runtime.completed.values()) == 100)
        await runtime.stop()

    async def second() -> None:
        stage = Recorder("stage", [topic], store)
        runtime = Runtime(app_for(broker, topic, topics=broker.create(topic)), [stage])
        await runtime.start()
        assert sum(runtime.completed.values()) == 100
        await runtime.publish(numbered(topic, 50, start=100))
        await runtime.wait_for(lambda: sum(runtime.completed.values()) == 150)
        await runtime.stop()
        assert sorted(int(value or b"") for value in stage.values(topic)) == list(range(100, 150))

    run(first)
    run(second)


def test_the_stored_position_wins_over_the_committed_offset(broker: Broker, topic: str) -> None:
    """A store that lost its last second heals from the log."""
    store = Store()

    async def once(expected: int) -> None:
        stage = Recorder("stage", [topic], store)
        app = app_for(broker, topic, topics=broker.create(topic))
        runtime = Runtime(app, [stage])
        await runtime.start()
        await runtime.wait_for(lambda: runtime.completed["stage", topic, 2] == 100)
        await app.consumer.commit()
        await runtime.stop()
        assert len(stage.rows[topic]) == expected

    broker.create(topic)
    broker.produce(numbered(topic, 100, partition=2))
    run(lambda: once(100))
    store[topic, 2] = 60
    run(lambda: once(40))
    store.clear()
    run(lambda: once(100))


class Failing(Recorder):
    """Fails, in one of the steps, on the first poll with the poison in it."""

    def __init__(self, step: str, topics: Sequence[str], store: Store) -> None:
        super().__init__("stage", topics, store)
        self.step = step

    async def handle(self, poll: Poll) -> AsyncIterator[Work]:
        self.note(poll)
        if b"poison" not in poll.values:
            yield Work(commit=lambda: self.commit(poll), done=poll.last + 1)
        elif self.step == "compute":
            raise ValueError("poisoned")
        elif self.step == "commit":
            yield Work(commit=lambda: self.refuse(poll), done=poll.last + 1)
        else:
            yield Work(
                outgoing=[Outgoing(poll.topic, b"x", partition=99)],
                commit=lambda: self.commit(poll),
                done=poll.last + 1,
            )

    def refuse(self, poll: Poll) -> None:
        raise StaleCommit(poll.topic, poll.partition, expected=1, found=2)


@pytest.mark.parametrize(
    ("step", "error"), [("compute", ValueError), ("publish", TransportError), ("commit", StaleCommit)]
)
def test_a_failure_is_not_acknowledged_and_the_poll_comes_again(
    broker: Broker, topic: str, step: str, error: type[Exception]
) -> None:
    store = Store()
    topics = broker.create(topic)

    async def failing() -> None:
        stage = Failing(step, [topic], store)
        app = app_for(broker, topic, topics=topics)
        runtime = Runtime(app, [stage])
        await runtime.start()
        await runtime.publish(numbered(topic, 10, partition=0))
        await runtime.wait_for(lambda: runtime.completed["stage", topic, 0] == 10)
        await runtime.publish([Outgoing(topic, b"poison", partition=0)])
        with pytest.raises(error):
            await runtime.wait_for(lambda: False)
        assert isinstance(runtime.failure, error)
        assert runtime.completed["stage", topic, 0] == 10
        assert app.consumer.committable(TP(topic, 0)) == 10  # type: ignore[attr-defined]
        with pytest.raises(error):
            await runtime.publish([Outgoing(topic, b"later", partition=0)])
        await runtime.stop()
        assert store == {(topic, 0): 10}

    async def healed() -> None:
        stage = Recorder("stage", [topic], store)
        runtime = Runtime(app_for(broker, topic, topics=topics), [stage])
        await runtime.start()
        await runtime.wait_for(lambda: runtime.completed["stage", topic, 0] == 11)
        await runtime.stop()
        assert stage.values(topic) == [b"poison"]

    run(failing)
    run(healed)


def test_reading_starts_where_the_neediest_stage_is(broker: Broker, topic: str) -> None:
    topics = broker.create(topic)
    broker.produce(numbered(topic, 20, partition=3))

    async def main() -> None:
        ahead = Recorder("ahead", [topic], Store({(topic, 3): 15}))
        behind = Recorder("behind", [topic], Store({(topic, 3): 5}))
        done = Recorder("done", [topic], Store({(topic, 3): 20}))
        app = app_for(broker, topic, topics=topics)
        runtime = Runtime(app, [ahead, behind, done])
        await runtime.start()
        await runtime.wait_for(lambda: all(runtime.completed[stage.name, topic, 3] == 20 for stage in runtime.stages))
        await runtime.wait_for(lambda: app.consumer.committable(TP(topic, 3)) == 20)  # type: ignore[attr-defined]
        await runtime.stop()
        assert ahead.values(topic) == [b"%d" % n for n in range(15, 20)]
        assert behind.values(topic) == [b"%d" % n for n in range(5, 20)]
        assert done.values(topic) == []

    run(main)


def test_a_position_past_the_end_is_refused(broker: Broker, topic: str) -> None:
    """The topic was recreated: going on would drop everything that comes, as if it had been included."""
    topics = broker.create(topic)
    broker.produce(numbered(topic, 5, partition=0))

    async def main() -> None:
        stage = Recorder("stage", [topic], Store({(topic, 0): 7}))
        runtime = Runtime(app_for(broker, topic, topics=topics), [stage])
        with pytest.raises(TransportError, match="stored position is 7, the topic ends at 5"):
            await runtime.start()
        assert stage.polls == []

    run(main)


def test_an_ordinary_faust_agent_gets_polls_and_its_acks_are_committed(broker: Broker, topic: str) -> None:
    topics = broker.create(topic)
    seen: list[int] = []

    async def main(expected: int) -> None:
        app = app_for(broker, topic, topics=topics)
        finished = asyncio.Event()

        async def agent(stream: StreamT[Poll]) -> None:
            async for poll in stream:
                seen.extend(poll.offsets.tolist())
                if len(seen) >= expected:
                    finished.set()

        app.agent(app.topic(topic, schema=PollSchema()))(agent)
        await app.start()
        for start in range(0, 100, 10):
            await app.producer.publish(numbered(topic, 10, start=start, partition=1))  # type: ignore[attr-defined]
        await finished.wait()
        await app.stop()

    run(lambda: main(100))
    run(lambda: main(200))
    # At least once, and in order; only the last poll, whose loop body was still running, may have come again.
    assert sorted(set(seen)) == list(range(200))
    assert len(seen) < 300


def test_resume_given_to_the_app_decides_for_ordinary_agents(broker: Broker, topic: str) -> None:
    topics = broker.create(topic)
    broker.produce(numbered(topic, 10, partition=1))
    seen: list[int] = []

    async def main() -> None:
        app = app_for(broker, topic, topics, resume=lambda _: {1: 7})
        finished = asyncio.Event()

        async def agent(stream: StreamT[Poll]) -> None:
            async for poll in stream:
                seen.extend(poll.offsets.tolist())
                finished.set()

        app.agent(app.topic(topic, schema=PollSchema()))(agent)
        await app.start()
        await finished.wait()
        await app.stop()

    run(main)
    assert seen == [7, 8, 9]


class Replaced(Recorder):
    """Goes on from other positions than those that it was given messages for, when it is told to."""

    def __init__(self, topic: str) -> None:
        super().__init__("replaced", [topic])
        self.to: dict[int, int] = {}

    async def settle(self, topic: str, partition: int, *, stopping: bool = False) -> AsyncIterator[Work]:
        if self.to:
            positions = {(topic, number): offset for number, offset in self.to.items()}
            self.to = {}
            yield Work(commit=lambda: self.store.update(positions), afresh=True)


def test_a_stage_that_has_replaced_its_state_is_given_messages_from_there_on(broker: Broker, topic: str) -> None:
    """Before and at where it is, by partition; a bystander of the same topic is given each message once."""

    async def main() -> None:
        stage, bystander = Replaced(topic), Recorder("bystander", [topic])
        runtime = Runtime(app_for(broker, topic, topics=broker.create(topic)), [stage, bystander], tick_s=0)
        await runtime.start()
        for partition in range(PARTITIONS):
            await runtime.publish(numbered(topic, 6, partition=partition))
        await runtime.wait_for(lambda: sum(runtime.completed.values()) == 2 * 6 * PARTITIONS)
        again = {0: 0, 1: 2, 2: 6, 3: 5}
        stage.to = dict(again)
        await runtime.tick()
        for partition in range(PARTITIONS):
            await runtime.publish(numbered(topic, 2, start=6, partition=partition))
        await runtime.wait_for(lambda: sum(runtime.completed.values()) == 2 * 8 * PARTITIONS)
        await runtime.stop()
        assert runtime.failure is None
        for partition, start in again.items():
            seen = [row.offset for row in stage.rows[topic] if row.partition == partition]
            assert seen == [*range(6), *range(start, 8)]
            once = [row.offset for row in bystander.rows[topic] if row.partition == partition]
            assert once == list(range(8))

    run(main)
