"""Messages that a stage lets be gathered hold up nobody, and are lost by nothing: conformance of both transports."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from functools import partial
from typing import cast

import pytest
from faust.types import TP

from dovetail.platform.runtime.runner import Runtime
from dovetail.platform.stage import Gather, Outgoing, Poll, Work
from dovetail.platform.transports.coalescing import CoalescingConsumer
from tests.platform.transports.recording import Broker, Recorder, Row, Store, app_for, run, until

# So long that what is handled here has not waited for it.
LONG = Gather(max_wait_us=3_600_000_000, max_messages=25)


def gatherer(topic: str) -> Recorder:
    stage = Recorder("gatherer", [topic])
    stage.gather = LONG
    return stage


async def sent_one_by_one(runtime: Runtime, topic: str, recorder: Recorder, count: int, *, start: int = 0) -> None:
    for n in range(start, start + count):
        await runtime.publish([Outgoing(topic, b"%d" % n, partition=0)])
        await runtime.wait_for(lambda n=n: recorder.count() == n + 1, hasten=())  # type: ignore[misc]


def test_what_is_gathered_holds_up_nobody_else_and_is_handled_at_once_when_it_is_waited_for(
    broker: Broker, topic: str
) -> None:
    async def main() -> None:
        gathers, recorder = gatherer(topic), Recorder("recorder", [topic])
        runtime = Runtime(app_for(broker, topic, topics=broker.create(topic)), [gathers, recorder])
        await runtime.start()
        await sent_one_by_one(runtime, topic, recorder, 10)  # more polls than may be handed out unhandled
        assert gathers.polls == []
        assert runtime.handled["gatherer", topic, 0] == 0
        await until(runtime, gathers, 10)
        assert gathers.polls == [(topic, 0, 0, 9)]
        assert len(recorder.polls) == 10
        await runtime.wait_for(lambda: runtime.completed["gatherer", topic, 0] == 10)
        assert gathers.store == recorder.store
        await runtime.stop()

    run(main)


def test_no_more_is_gathered_than_is_enough(broker: Broker, topic: str) -> None:
    async def main() -> None:
        gathers, recorder = gatherer(topic), Recorder("recorder", [topic])
        runtime = Runtime(app_for(broker, topic, topics=broker.create(topic)), [gathers, recorder])
        await runtime.start()
        await sent_one_by_one(runtime, topic, recorder, 25)
        await runtime.wait_for(lambda: gathers.count() == 25, hasten=())
        assert gathers.polls == [(topic, 0, 0, 24)]
        await runtime.stop()

    run(main)


@pytest.mark.parametrize("failing", [False, True])
def test_what_is_gathered_is_handled_before_a_stop_and_after_a_failure_read_again(
    broker: Broker, topic: str, failing: bool
) -> None:
    topics = broker.create(topic)

    async def first(gathers: Recorder) -> None:
        recorder = Recorder("recorder", [topic])
        app = app_for(broker, topic, topics=topics)
        runtime = Runtime(app, [gathers, recorder])
        await runtime.start()
        await sent_one_by_one(runtime, topic, recorder, 3)
        await until(runtime, gathers, 3)
        await runtime.wait_for(lambda: runtime.completed["gatherer", topic, 0] == 3)
        await sent_one_by_one(runtime, topic, recorder, 3, start=3)
        if failing:
            runtime.on_crash(ValueError("it has failed"))
        await runtime.stop()
        assert gathers.store == {(topic, 0): 3 if failing else 6}
        if failing:
            assert cast("CoalescingConsumer", app.consumer).committable(TP(topic, 0)) in {3, None}

    async def second(gathers: Recorder) -> None:
        runtime = Runtime(app_for(broker, topic, topics=topics), [gathers])
        await runtime.start()
        await until(runtime, gathers, 6)
        await runtime.stop()

    gathers = gatherer(topic)
    run(lambda: first(gathers))
    run(lambda: second(gathers))
    assert gathers.values(topic) == [b"%d" % n for n in range(6)]


@pytest.mark.parametrize("times", [1, 2])
def test_what_was_gathered_when_partitions_are_assigned_anew_is_handled_once(
    broker: Broker, topic: str, times: int
) -> None:
    async def main() -> None:
        gathers, recorder = gatherer(topic), Recorder("recorder", [topic])
        app = app_for(broker, topic, topics=broker.create(topic))
        runtime = Runtime(app, [gathers, recorder])
        await runtime.start()
        await sent_one_by_one(runtime, topic, recorder, 4)
        await asyncio.gather(*(app.consumer.perform_seek() for _ in range(times)))
        app.consumer.resume_flow()
        app.flow_control.resume()
        await runtime.publish([Outgoing(topic, b"4", partition=0)])
        await runtime.wait_for(lambda: gathers.count() == recorder.count() == 5)
        assert gathers.values(topic) == recorder.values(topic) == [b"%d" % n for n in range(5)]
        await runtime.stop()

    run(main)


class Hurried(Recorder):
    """Commits each message by itself, and waits behind the first until it is told to hurry."""

    gather = Gather(max_wait_us=3_600_000_000, max_messages=3)

    def __init__(self, topic: str, store: Store | None = None) -> None:
        super().__init__("hurried", [topic], store)
        self.hurries = asyncio.Event()
        self.entered = asyncio.Event()

    async def handle(self, poll: Poll) -> AsyncIterator[Work]:
        for offset, value in zip(poll.offsets.tolist(), poll.values, strict=True):
            yield Work(commit=partial(self.one, poll.topic, offset, value), done=offset + 1)
            self.entered.set()
            await self.hurries.wait()

    def one(self, topic: str, offset: int, value: bytes | None) -> None:
        assert self.store.get((topic, 0), 0) == offset, "a message was passed over"
        self.store[topic, 0] = offset + 1
        self.rows[topic].append(Row(0, offset, 0, None, value, ()))

    def hurry(self) -> None:
        self.hurries.set()


def test_behind_a_poll_that_a_stop_has_left_undone_nothing_gathered_is_given(broker: Broker, topic: str) -> None:
    topics = broker.create(topic)

    async def first(stage: Hurried) -> None:
        recorder = Recorder("recorder", [topic])
        runtime = Runtime(app_for(broker, topic, topics=topics), [stage, recorder], grace_s=0.2)
        await runtime.start()
        await sent_one_by_one(runtime, topic, recorder, 3)
        await stage.entered.wait()
        await sent_one_by_one(runtime, topic, recorder, 4, start=3)
        await runtime.stop()
        assert runtime.failure is None
        assert stage.store[topic, 0] == 2

    async def second(stage: Hurried) -> None:
        stage.hurries.set()
        runtime = Runtime(app_for(broker, topic, topics=topics), [stage])
        await runtime.start()
        await until(runtime, stage, 5)
        await runtime.stop()
        assert runtime.failure is None

    stopped = Hurried(topic)
    run(lambda: first(stopped))
    again = Hurried(topic, stopped.store)
    run(lambda: second(again))
    assert stopped.values(topic) + again.values(topic) == [b"%d" % n for n in range(7)]
