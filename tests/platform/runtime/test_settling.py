"""Stages settle between polls, by the steps of every work, and before their partitions are taken away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection
from pathlib import Path

import pytest
from faust.types import TP

from dovetail.platform.errors import TransportError
from dovetail.platform.stage import Outgoing, Poll, Work
from tests.platform.runtime.copying import STEPS, Copier, contents, run, runtime_of

pytestmark = pytest.mark.usefixtures("quiet")


class Gatherer(Copier):
    """Keeps what it reads until it is asked to settle."""

    def __init__(self, name: str = "gatherer") -> None:
        super().__init__(name)
        self.held: list[bytes] = []
        self.after = 0
        self.entered, self.go = asyncio.Event(), asyncio.Event()

    async def handle(self, poll: Poll) -> AsyncIterator[Work]:
        self.entered.set()
        await self.go.wait()
        self.held += [value for value in poll.values if value is not None]
        self.after = poll.last + 1
        nothing: tuple[Work, ...] = ()
        for work in nothing:
            yield work

    async def settle(self, topic: str, partition: int, *, stopping: bool = False) -> AsyncIterator[Work]:
        self.happened.append(f"settle {topic} {partition}" + stopping * ", stopping")
        if self.held:
            value, self.held = b"".join(self.held), []
            yield self.copy(partition, self.after, value)


def test_a_stage_settles_between_two_polls_by_the_same_steps(path: Path) -> None:
    async def main() -> None:
        gatherer = Gatherer()
        runtime = runtime_of(path, gatherer, on_step=lambda _, step: gatherer.happened.append(step), tick_s=0)
        await runtime.tick()  # nothing is assigned before the start
        await runtime.start()
        await runtime.publish([Outgoing("in", b"a"), Outgoing("in", b"b")])
        await gatherer.entered.wait()
        ticking = asyncio.create_task(runtime.tick())
        await asyncio.sleep(0)
        assert gatherer.happened == ["start"]  # not while it handles a poll
        gatherer.go.set()
        await ticking
        assert gatherer.happened == ["start", "settle in 0", "computed", "published", "commit 2", *STEPS[2:]]
        assert runtime.completed["gatherer", "in", 0] == 2
        assert runtime.app.consumer.committable(TP("in", 0)) == 2  # type: ignore[attr-defined]
        await runtime.stop()
        await runtime.tick()  # no more

    run(main)
    assert contents(path, "out") == [b"ab"]


def test_a_stage_that_waits_does_not_keep_the_others_from_settling(path: Path) -> None:
    """A snapshot may wait for its labels for days; the archive stores after max_delay all the same."""

    async def main() -> None:
        waiting, gatherer = Gatherer("waiting"), Gatherer()
        gatherer.go.set()
        runtime = runtime_of(path, waiting, gatherer, tick_s=0.001)
        await runtime.start()
        await runtime.publish([Outgoing("in", b"a")])
        await waiting.entered.wait()
        await runtime.wait_for(lambda: runtime.completed.get(("gatherer", "in", 0)) == 1)
        assert runtime.at_work("waiting") == TP("in", 0)
        waiting.go.set()
        await runtime.wait_for(lambda: runtime.completed.get(("waiting", "in", 0)) == 1)
        await runtime.stop()

    run(main)


def test_a_stop_lets_stages_settle_while_their_partitions_are_theirs_and_then_forget(path: Path) -> None:
    class Leaving(Gatherer):
        def forget(self, topic: str, partitions: Collection[int]) -> None:
            self.happened.append(f"forget {topic} {sorted(partitions)}")

    async def main() -> None:
        gatherer = Leaving()
        gatherer.go.set()
        runtime = runtime_of(path, gatherer, tick_s=0)
        await runtime.start()
        await runtime.publish([Outgoing("in", b"a")])
        await runtime.wait_for(lambda: runtime.handled["gatherer", "in", 0] == 1)
        await runtime.stop()
        assert gatherer.happened == ["start", "settle in 0, stopping", "commit 1", "forget in [0]", "stop"]
        assert runtime.completed["gatherer", "in", 0] == 1

    run(main)
    assert contents(path, "out") == [b"a"]


def test_a_stage_that_cannot_settle_when_it_stops_fails_the_worker_and_the_others_stop(path: Path) -> None:
    class Broken(Gatherer):
        async def settle(self, topic: str, partition: int, *, stopping: bool = False) -> AsyncIterator[Work]:
            raise ValueError("no space")
            yield Work()

    async def main() -> None:
        copier = Copier()
        runtime = runtime_of(path, copier, Broken(), tick_s=0)
        await runtime.start()
        await runtime.stop()
        assert copier.happened[-1] == "stop"
        with pytest.raises(ValueError, match="no space"):
            await runtime.wait_for(lambda: False)

    run(main)


def test_a_stage_that_cannot_settle_ends_the_worker(path: Path) -> None:
    class Broken(Gatherer):
        async def settle(self, topic: str, partition: int, *, stopping: bool = False) -> AsyncIterator[Work]:
            yield Work(done=1)  # it was given nothing

    async def main() -> None:
        runtime = runtime_of(path, Broken(), tick_s=0.001)

        async def work() -> None:
            await runtime.start()  # it may be noticed before everything has started
            await runtime.wait_for(lambda: False)

        with pytest.raises(TransportError, match=r"done up to offset 1 of in, partition 0, but was given .* below 0"):
            await work()
        await runtime.stop()

    run(main)
