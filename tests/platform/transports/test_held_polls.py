"""A stage may hold its poll for as long as it likes: conformance of both transports."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

from faust.types import TP

from dovetail.platform.runtime.runner import (
    Runtime,
)
from dovetail.platform.stage import Outgoing, Poll, Work
from tests.platform.transports.recording import (
    Broker,
    Recorder,
    app_for,
    numbered,
    run,
    until,
)


class Hoarder(Recorder):
    """Completes nothing until told to, then everything it was given, from a later poll."""

    complete = False

    async def handle(self, poll: Poll) -> AsyncIterator[Work]:
        self.note(poll)
        yield Work(done=poll.last + 1 if self.complete else None)


def test_what_a_later_poll_completes_is_acknowledged_then(broker: Broker, topic: str) -> None:
    async def main() -> None:
        hoarder, recorder = Hoarder("hoarder", [topic]), Recorder("recorder", [topic])
        app = app_for(broker, topic, topics=broker.create(topic))
        runtime = Runtime(app, [hoarder, recorder])
        await runtime.start()
        for n in range(10):  # more polls than may be handed out unhandled
            await runtime.publish([Outgoing(topic, b"%d" % n, partition=0)])
            await until(runtime, hoarder, n + 1)
        await runtime.wait_for(lambda: runtime.completed["recorder", topic, 0] == 10)
        assert runtime.handled["hoarder", topic, 0] == 10
        assert runtime.completed["hoarder", topic, 0] == 0
        assert app.consumer.committable(TP(topic, 0)) is None  # type: ignore[attr-defined]
        hoarder.complete = True
        await runtime.publish([Outgoing(topic, b"last", partition=0)])
        await runtime.wait_for(lambda: min(runtime.completed[name, topic, 0] for name in ("hoarder", "recorder")) == 11)
        assert app.consumer.committable(TP(topic, 0)) == 11  # type: ignore[attr-defined]
        await runtime.stop()

    run(main)


class Gate(Recorder):
    """Keeps its generator open until the gate opens."""

    def __init__(self, topics: Sequence[str]) -> None:
        super().__init__("gate", topics)
        self.opened = asyncio.Event()
        self.entered = asyncio.Event()

    async def handle(self, poll: Poll) -> AsyncIterator[Work]:
        self.note(poll)
        self.entered.set()
        await self.opened.wait()
        yield Work(commit=lambda: self.commit(poll), done=poll.last + 1)


def test_a_stage_that_holds_its_poll_holds_up_nobody_else(broker: Broker, topic: str) -> None:
    held, free = f"{topic}-held", f"{topic}-free"

    async def main() -> None:
        gate, recorder = Gate([held]), Recorder("recorder", [free])
        app = app_for(broker, topic, topics=broker.create(held, free))
        runtime = Runtime(app, [gate, recorder])
        await runtime.start()
        for start in range(0, 5000, 100):
            await runtime.publish(numbered(held, 100, start=start, partition=0))
            await runtime.publish(numbered(free, 100, start=start))
            await until(runtime, recorder, start + 100)
            assert app.consumer._partitions[TP(held, 0)].acks.outstanding <= 2  # type: ignore[attr-defined]
        assert len(gate.polls) == 1
        assert gate.count() < 5000
        gate.opened.set()
        await runtime.wait_for(lambda: runtime.completed["gate", held, 0] == 5000)
        await runtime.stop()
        assert gate.values(held) == [b"%d" % n for n in range(5000)]

    run(main)


def test_what_comes_while_a_stage_is_at_work_is_one_poll(broker: Broker, topic: str) -> None:
    held, free = f"{topic}-held", f"{topic}-free"

    async def main() -> None:
        gate, recorder = Gate([held]), Recorder("recorder", [free])
        runtime = Runtime(app_for(broker, topic, topics=broker.create(held, free)), [gate, recorder])
        await runtime.start()
        for n in range(10):
            await runtime.publish([Outgoing(held, b"%d" % n, partition=0)])
            await runtime.publish([Outgoing(free, b"%d" % n)])
            await until(runtime, recorder, n + 1)  # a fetch that brought this has brought the other, too
        gate.opened.set()
        await until(runtime, gate, 10)
        assert gate.polls == [(held, 0, 0, 0), (held, 0, 1, 1), (held, 0, 2, 9)]
        await runtime.stop()

    run(main)


def test_a_stage_that_never_finishes_can_be_stopped(broker: Broker, topic: str) -> None:
    async def main() -> None:
        gate = Gate([topic])
        runtime = Runtime(app_for(broker, topic, topics=broker.create(topic)), [gate], grace_s=0.01)
        await runtime.start()
        await runtime.publish(numbered(topic, 10, partition=0))
        await gate.entered.wait()
        await runtime.stop()
        assert runtime.failure is None
        assert gate.store == {}

    run(main)
