"""What a rebalance does to the stages of one worker.

Driven through the embedded driver's own assignment, which runs the same callbacks as a group's coordinator: the mock
cluster does not carry a group of two aiokafka members through a rebalance.
"""

from __future__ import annotations

import asyncio
import logging
import random
import threading
from collections.abc import AsyncIterator, Collection, Mapping
from pathlib import Path
from typing import Any

import pytest
from faust.types import TP

from dovetail.platform.errors import StaleCommit
from dovetail.platform.logs import Event
from dovetail.platform.runtime.runner import Runtime, create_app
from dovetail.platform.stage import Outgoing, Poll, Stage, Work

PARTITIONS = 4


class Checked(Stage):
    """Refuses a position that is not the one it expects, as a store does."""

    name = "checked"
    topics = ("t",)

    def __init__(self) -> None:
        self.store: dict[int, int] = {}
        self.values: list[int] = []
        self.gates: dict[int, asyncio.Event] = {}
        self.entered = asyncio.Event()
        self.forgotten: list[int] = []
        self.committing: threading.Event | None = None
        self.go = threading.Event()

    def forget(self, topic: str, partitions: Collection[int]) -> None:
        self.forgotten += partitions

    def resume(self, topic: str) -> Mapping[int, int]:
        return dict(self.store)

    async def handle(self, poll: Poll) -> AsyncIterator[Work]:
        self.entered.set()
        if poll.partition in self.gates:
            await self.gates[poll.partition].wait()
        yield Work(commit=lambda: self.commit(poll), done=poll.last + 1)

    def commit(self, poll: Poll) -> None:
        if self.committing is not None:
            self.committing.set()
            self.go.wait()
        found = self.store.get(poll.partition, 0)
        if found != poll.first:
            raise StaleCommit(poll.topic, poll.partition, expected=poll.first, found=found)
        self.store[poll.partition] = poll.last + 1
        self.values.extend(int(value or b"") for value in poll.values)


def numbers(start: int, count: int) -> list[Outgoing]:
    return [Outgoing("t", b"%d" % n, partition=n % PARTITIONS) for n in range(start, start + count)]


async def assign(runtime: Runtime, *partitions: int) -> None:
    consumer: Any = runtime.app.consumer
    completed = runtime.app.tables.recovery.completed  # type: ignore[attr-defined]
    completed.clear()
    await consumer._assign({TP("t", number) for number in partitions})
    await completed.wait()


async def started(path: Path, stage: Stage) -> Runtime:
    runtime = Runtime(create_app("test", f"embedded://{path}", topics={"t": PARTITIONS}), [stage])
    await runtime.start()
    return runtime


def test_partitions_that_stay_go_on_and_those_that_come_back_resume_from_the_store(tmp_path: Path) -> None:
    async def main() -> None:
        stage = Checked()
        runtime = await started(tmp_path / "log.db", stage)
        for round_ in range(10):
            await runtime.publish(numbers(1000 * round_, 500))
            await assign(runtime, *(number for number in range(PARTITIONS) if number != round_ % PARTITIONS))
            assert ("checked", "t", round_ % PARTITIONS) not in runtime.completed
            await runtime.publish(numbers(1000 * round_ + 500, 500))
            await assign(runtime, *range(PARTITIONS))
        await runtime.wait_for(lambda: sum(stage.store.values()) == 10_000)
        await runtime.stop()
        assert sorted(stage.values) == list(range(10_000))

    asyncio.run(main())


def test_a_rebalance_and_its_assignment_are_a_line_each(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "dovetail")

    async def main() -> None:
        runtime = await started(tmp_path / "log.db", Checked())
        await assign(runtime, 0, 1)
        await assign(runtime, 0, 1, 3)
        await runtime.stop()

    asyncio.run(main())
    lines = [record.getMessage() for record in caplog.records if isinstance(record.msg, Event)]
    assert lines == [
        "partitions assigned: partitions=t[0-3] gone=none",
        "rebalance: partitions=t[0-3]",
        "partitions assigned: partitions=t[0-1] gone=t[2-3]",
        "rebalance: partitions=t[0-1]",
        "partitions assigned: partitions=t[0-1,3] gone=none",
    ]


def test_a_poll_in_hand_survives_a_rebalance_that_keeps_its_partition(tmp_path: Path) -> None:
    async def main() -> None:
        stage = Checked()
        stage.gates[0] = asyncio.Event()
        runtime = await started(tmp_path / "log.db", stage)
        await runtime.publish([Outgoing("t", b"0", partition=0)])
        await stage.entered.wait()
        await runtime.publish([Outgoing("t", b"1", partition=0)])  # waits behind it, and is dropped by the rebalance
        await assign(runtime, 0, 1)
        await runtime.publish([Outgoing("t", b"2", partition=0)])
        stage.gates[0].set()
        await runtime.wait_for(lambda: runtime.completed["checked", "t", 0] == 3)
        consumer: Any = runtime.app.consumer
        assert consumer.committable(TP("t", 0)) == 3
        await runtime.stop()
        assert stage.values == [0, 1, 2]

    asyncio.run(main())


def test_what_is_in_hand_of_a_partition_that_has_gone_has_no_effect(tmp_path: Path) -> None:
    async def main() -> None:
        stage = Checked()
        stage.gates[0] = asyncio.Event()
        runtime = await started(tmp_path / "log.db", stage)
        await runtime.publish([Outgoing("t", b"0", partition=0)])
        await stage.entered.wait()
        assigning = asyncio.create_task(assign(runtime, 1))
        while runtime.tenure.number(TP("t", 0)) is not None:  # noqa: ASYNC110 - the loop's turns bring it nearer
            await asyncio.sleep(0)
        assert not assigning.done()  # a stage that computes is not asked to resume meanwhile
        stage.gates[0].set()
        await assigning
        await runtime.publish([Outgoing("t", b"1", partition=1)])
        await runtime.wait_for(lambda: runtime.completed.get(("checked", "t", 1)) == 1)
        consumer: Any = runtime.app.consumer
        assert consumer.committable(TP("t", 0)) is None
        assert set(stage.forgotten) == {0, 2, 3}
        await assign(runtime, 0, 1)
        await runtime.wait_for(lambda: runtime.completed.get(("checked", "t", 0)) == 1)
        await runtime.stop()
        assert stage.store == {0: 1, 1: 1}
        assert stage.values == [1, 0]

    asyncio.run(main())


class Waiting(Checked):
    """Computes, and then waits for what other partitions bring; what it had seen of a poll it keeps."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: set[int] = set()
        self._holding: tuple[int, asyncio.Event] | None = None

    def forget(self, topic: str, partitions: Collection[int]) -> None:
        super().forget(topic, partitions)
        self.kept -= set(partitions)
        if self._holding is not None and self._holding[0] in partitions:
            self._holding[1].set()

    async def handle(self, poll: Poll) -> AsyncIterator[Work]:
        async for work in super().handle(poll):
            self.kept.add(poll.partition)
            if poll.partition in self.gates:
                self._holding = poll.partition, asyncio.Event()
                await self._holding[1].wait()
                self.kept.add(poll.partition)
                return
            yield work


def test_a_stage_that_had_not_come_to_where_it_waits_when_its_partition_went_does_not_wait(tmp_path: Path) -> None:
    """It would hold up the rebalance, and nothing else would end it: what it waits for comes to another worker."""

    async def main() -> None:
        stage = Waiting()
        stage.gates[0] = asyncio.Event()
        runtime = await started(tmp_path / "log.db", stage)
        await runtime.publish([Outgoing("t", b"0", partition=0)])
        await stage.entered.wait()
        assigning = asyncio.create_task(assign(runtime, 1))
        while not stage.forgotten:  # noqa: ASYNC110 - the loop's turns bring it nearer
            await asyncio.sleep(0)
        stage.gates[0].set()
        async with asyncio.timeout(20):
            await assigning
        assert stage.kept == set()
        await runtime.stop()

    asyncio.run(main())


def test_what_somebody_else_has_had_meanwhile_is_read_from_the_store_although_it_seems_to_have_stayed(
    tmp_path: Path,
) -> None:
    """A worker that was paused: it is told of one assignment, the one after the other worker's."""

    async def main() -> None:
        stage = Checked()
        runtime = await started(tmp_path / "log.db", stage)
        await runtime.publish(numbers(0, 2 * PARTITIONS))
        await runtime.wait_for(lambda: sum(stage.store.values()) == 2 * PARTITIONS)
        stage.gates[0], stage.entered = asyncio.Event(), asyncio.Event()
        await runtime.publish(numbers(8, 2))
        await stage.entered.wait()
        stage.store[0] = 3  # somebody else has read the poll that is in hand here
        assigning = asyncio.create_task(assign(runtime, *range(PARTITIONS)))
        while not stage.forgotten:  # noqa: ASYNC110 - the loop's turns bring it nearer
            await asyncio.sleep(0)
        stage.gates[0].set()
        await assigning
        assert set(stage.forgotten) == set(range(PARTITIONS))
        await runtime.publish([Outgoing("t", b"12", partition=0)])
        await runtime.wait_for(lambda: sum(stage.store.values()) == 2 * PARTITIONS + 3)
        await runtime.stop()
        assert sorted(stage.values) == [*range(8), 9, 12]

    asyncio.run(main())


def test_what_the_store_has_lost_is_read_again_although_the_partition_has_stayed(tmp_path: Path) -> None:
    """To go on from memory would leave a gap: the store would take the next poll for the first one."""

    async def main() -> None:
        stage = Checked()
        runtime = await started(tmp_path / "log.db", stage)
        await runtime.publish(numbers(0, 2 * PARTITIONS))
        await runtime.wait_for(lambda: sum(stage.store.values()) == 2 * PARTITIONS)
        del stage.store[0]  # flushed, or back at its last save
        await assign(runtime, *range(PARTITIONS))
        await runtime.publish(numbers(2 * PARTITIONS, PARTITIONS))
        await runtime.wait_for(lambda: sum(stage.store.values()) == 3 * PARTITIONS)
        await runtime.stop()
        assert sorted(stage.values) == sorted([*range(3 * PARTITIONS), 0, PARTITIONS])

    asyncio.run(main())


def test_a_rebalance_waits_for_a_commit_and_no_work_takes_effect_during_it(tmp_path: Path) -> None:
    async def main() -> None:
        stage = Checked()
        stage.committing, stage.go = threading.Event(), threading.Event()
        runtime = await started(tmp_path / "log.db", stage)
        await runtime.publish([Outgoing("t", b"0", partition=0)])
        await asyncio.to_thread(stage.committing.wait)
        revoking = asyncio.create_task(runtime.on_revoked())
        await asyncio.sleep(0)
        assert not revoking.done()
        stage.go.set()
        await revoking
        assert stage.store == {0: 1}
        assert not runtime.tenure.settled
        await runtime.publish([Outgoing("t", b"1", partition=1)])
        while not runtime.steps["checked", "t", 1]:  # noqa: ASYNC110
            await asyncio.sleep(0)
        assert stage.store == {0: 1}
        await assign(runtime, 0, 1)
        await runtime.wait_for(lambda: runtime.completed.get(("checked", "t", 1)) == 1)
        await runtime.stop()
        assert stage.values == [0, 1]

    asyncio.run(main())


class Owing(Checked):
    """Commits only when it is asked to settle."""

    def __init__(self) -> None:
        super().__init__()
        self.owed: dict[int, Poll] = {}
        self.settling = asyncio.Event()

    async def handle(self, poll: Poll) -> AsyncIterator[Work]:
        self.owed[poll.partition] = poll
        nothing: tuple[Work, ...] = ()
        for work in nothing:
            yield work

    async def settle(self, topic: str, partition: int, *, stopping: bool = False) -> AsyncIterator[Work]:
        self.settling.set()
        poll = self.owed.pop(partition, None)
        if poll is not None and stopping:
            yield Work(commit=lambda: self.commit(poll), done=poll.last + 1)


def test_a_stop_in_the_middle_of_a_rebalance_settles_what_stays_and_gives_up_what_has_gone(tmp_path: Path) -> None:
    """Faust asks no positions of an app that stops; the stop must not wait for them in vain."""

    async def main() -> None:
        stage = Owing()
        app = create_app("test", f"embedded://{tmp_path / 'log.db'}", topics={"t": PARTITIONS})
        runtime = Runtime(app, [stage], tick_s=0, grace_s=3600)
        await runtime.start()
        await runtime.publish(numbers(0, PARTITIONS))
        await runtime.wait_for(lambda: len(stage.owed) == PARTITIONS)
        consumer: Any = app.consumer
        await consumer.on_partitions_revoked({TP("t", number) for number in range(PARTITIONS)})
        stopping = asyncio.create_task(runtime.stop())
        await stage.settling.wait()
        assert stage.store == {}  # nothing takes effect while nobody knows whose the partitions are
        await consumer.on_partitions_assigned({TP("t", 1), TP("t", 2)}, 1)
        await stopping
        assert stage.store == {1: 1, 2: 1}
        assert stage.forgotten[:2] == [0, 3]
        assert runtime.failure is None

    asyncio.run(main())


@pytest.mark.parametrize("seed", range(20))
def test_rebalances_that_overtake_each_other_lose_nothing_and_stop_nothing(tmp_path: Path, seed: int) -> None:
    """A paused worker joins again, and is told of assignment after assignment before it has taken up the first."""
    chance = random.Random(seed)

    async def somewhat() -> None:
        for _ in range(chance.choice([0, 0, 1, 3, 10, 40])):
            await asyncio.sleep(0)
        await asyncio.sleep(chance.choice([0, 0, 0.002]))

    async def main() -> None:
        stage = Checked()
        runtime = await started(tmp_path / "log.db", stage)
        consumer: Any = runtime.app.consumer
        sent = 0
        for _ in range(12):
            await runtime.publish(numbers(sent, 3 * PARTITIONS))
            sent += 3 * PARTITIONS
            held = chance.randrange(PARTITIONS)
            stage.gates[held] = asyncio.Event()
            for _ in range(chance.randrange(1, 4)):
                await somewhat()
                assigned = chance.sample(range(PARTITIONS), chance.randrange(1, PARTITIONS + 1))
                await consumer._assign({TP("t", number) for number in assigned})
                # Somebody else reads on in what is not here.
                for number in {*range(PARTITIONS)} - {tp.partition for tp in runtime.tenure.partitions}:
                    if chance.random() < 0.5 and (n := stage.store.get(number, 0)) < sent // PARTITIONS:
                        stage.store[number] = n + 1
                        stage.values.append(n * PARTITIONS + number)
            await somewhat()
            stage.gates.pop(held).set()
        await assign(runtime, *range(PARTITIONS))
        async with asyncio.timeout(30):
            await runtime.wait_for(lambda: sum(stage.store.values()) == sent)
        await runtime.stop()
        assert sorted(stage.values) == list(range(sent))

    asyncio.run(main())
