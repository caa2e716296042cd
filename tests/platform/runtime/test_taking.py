"""Polls of several partitions computed at once: each takes effect by itself, whatever becomes of the others."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from functools import partial
from pathlib import Path

import pytest

from dovetail.platform.errors import StaleCommit, StoreError
from dovetail.platform.rows.refusals import Refusals
from dovetail.platform.runtime.offsets import Offsets
from dovetail.platform.runtime.steps import Steps
from dovetail.platform.runtime.taking import Arrival, Taking
from dovetail.platform.runtime.tenure import Tenure
from dovetail.platform.runtime.turns import Turns
from dovetail.platform.stage import Outgoing, Poll, Stage, Work
from dovetail.platform.stores.registry.store import Registry
from tests.platform.polls import poll_of

BAD = b"bad"
Place = tuple[str, int]


class Summing(Stage):
    """Keeps what it reads by partition, in a store that refuses a position which is not the expected one."""

    name = "summing"
    topics = ("in",)
    together = True

    def __init__(self, choke: Callable[[Sequence[Poll]], None] = lambda _: None) -> None:
        self.choke = choke
        self.store: dict[int, int] = {}
        self.kept: dict[int, list[bytes]] = {}
        #: The partitions of each computation.
        self.computed: list[list[int]] = []

    def resume(self, topic: str) -> Mapping[int, int]:
        return dict(self.store)

    def works_of(self, polls: Sequence[Poll]) -> list[list[Work]]:
        self.computed.append([poll.partition for poll in polls])
        self.choke(polls)
        return [[self.work(poll)] for poll in polls]

    async def handle(self, poll: Poll) -> AsyncIterator[Work]:
        [[work]] = self.works_of([poll])
        yield work

    def probe(self, poll: Poll) -> None:
        self.choke([poll])

    def work(self, poll: Poll) -> Work:
        good = poll.values
        if self.refusals is not None:
            refused = self.refusals.within(poll.topic, poll.partition, poll.first, poll.last)
            good = [v for at, v in zip(poll.offsets.tolist(), poll.values, strict=True) if at not in refused]
        return Work(commit=partial(self.commit, poll, good), done=poll.last + 1)

    def commit(self, poll: Poll, good: Sequence[bytes | None]) -> None:
        found = self.store.get(poll.partition, 0)
        if found != poll.first:
            raise StaleCommit(self.name, poll.partition, expected=poll.first, found=found)
        self.store[poll.partition] = poll.last + 1
        self.kept.setdefault(poll.partition, []).extend(value or b"" for value in good)


class Bench:
    """The parts of a runtime that take polls, for one stage."""

    def __init__(self, stage: Summing, dies_after: tuple[str, int] | None = None) -> None:
        """``dies_after``: a step, and how often it has been taken then."""
        self.stage = stage
        self.dies_after = dies_after
        self.tenure: Tenure[Place] = Tenure()
        self.offsets: Offsets[Place] = Offsets([stage])
        self.turns: Turns[Place] = Turns()
        self.halted = False
        self.handled: dict[int, int] = {}
        self.steps: Counter[str] = Counter()
        steps = Steps(self.tenure, self.publish, self.complete, on_step=self.step, observer=None)
        self.taking = Taking(
            self.tenure, self.offsets, self.turns, steps, trial=None, observer=None, halted=lambda: self.halted,
            complete=self.complete, handled=lambda place, offset: self.handled.__setitem__(place[1], offset),
        )  # fmt: skip

    def step(self, _stage: Stage, step: str) -> None:
        self.steps[step] += 1
        if self.dies_after is not None and self.steps[step] == self.dies_after[1] and step == self.dies_after[0]:
            raise ZeroDivisionError

    async def publish(self, outgoing: Sequence[Outgoing]) -> None:
        assert not outgoing

    def complete(self, stage: Stage, place: Place, done: int) -> None:
        self.offsets.complete(stage.name, place, done)

    async def assign(self, partitions: Collection[int]) -> None:
        """A rebalance, as the runtime goes through it."""
        closing = await self.tenure.close()
        gone = await self.tenure.change({("in", number) for number in partitions})
        await self.turns.wait_for(lambda at: all(self.tenure.number(place) == number for place, number in at))
        self.offsets.forget(gone)
        for number in partitions:
            self.offsets.resume(("in", number), {(self.stage.name, "in"): self.stage.resume("in")})
        await self.tenure.open(closing)

    async def take(self, *polls: Poll) -> None:
        await self.taking.take(self.stage, [Arrival(("in", p.partition), p, lambda: True) for p in polls])


def poll(partition: int, *values: bytes, first: int = 0) -> Poll:
    return poll_of(list(values), topic="in", partition=partition, first=first)


def run(main: Callable[[], object]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(20):
            await main()  # type: ignore[misc]

    asyncio.run(limited())


def test_what_waits_of_several_partitions_is_computed_at_once_and_each_in_its_order() -> None:
    async def main() -> None:
        bench = Bench(stage := Summing())
        await bench.assign(range(3))
        await bench.take(poll(0, b"a"), poll(2, b"x"), poll(0, b"b", first=1), poll(1, b"m"), poll(0, b"c", first=2))
        assert stage.computed == [[0, 2, 1], [0], [0]]
        assert stage.kept == {0: [b"a", b"b", b"c"], 1: [b"m"], 2: [b"x"]}
        assert bench.handled == {0: 3, 1: 1, 2: 1}
        assert bench.offsets.completed == {("summing", "in", 0): 3, ("summing", "in", 1): 1, ("summing", "in", 2): 1}
        assert bench.turns.partition("summing") is None
        await bench.take(poll(0, b"a", b"b", first=0), poll(1, b"m", b"n"))  # of the first, nothing is new
        assert (stage.computed[-1], stage.kept[1]) == ([1], [b"m", b"n"])
        bench.halted = True
        await bench.take(poll(2, b"y", first=1))
        assert stage.store == {0: 3, 1: 2, 2: 1}

    run(main)


@pytest.mark.parametrize("closed", [False, True])
def test_a_partition_that_goes_while_it_is_computed_takes_no_other_with_it(closed: bool) -> None:
    """Also while the others wait for the end of the rebalance, which waits for the one that has gone."""
    entered, go = threading.Event(), threading.Event()

    def choke(_polls: Sequence[Poll]) -> None:
        entered.set()
        go.wait(10)

    async def main() -> None:
        bench = Bench(stage := Summing(choke))
        await bench.assign(range(3))
        taking = asyncio.create_task(bench.take(*(poll(number, b"v") for number in range(3))))
        await asyncio.to_thread(entered.wait)
        assigning = asyncio.create_task(bench.assign([0, 2]))
        if closed:  # the positions are not known before the stage lets the partition go
            while bench.tenure.number(("in", 1)) is not None:  # noqa: ASYNC110 - each turn of the loop brings it nearer
                await asyncio.sleep(0)
            assert not bench.tenure.settled
        go.set()
        await taking
        await assigning
        assert stage.kept == {0: [b"v"], 2: [b"v"]}
        assert bench.handled == {0: 1, 2: 1}
        await bench.assign(range(3))
        await bench.take(*(poll(number, b"v", b"w") for number in range(3)))
        assert stage.kept == {number: [b"v", b"w"] for number in range(3)}

    run(main)


def test_a_commit_that_is_refused_fails_by_itself() -> None:
    async def main() -> None:
        bench = Bench(stage := Summing())
        await bench.assign(range(3))
        stage.store[1] = 7  # somebody else has it
        with pytest.raises(StaleCommit):
            await bench.take(*(poll(number, b"v") for number in range(3)))
        assert 1 not in stage.kept
        assert all(stage.kept[number] == [b"v"] and stage.store[number] == 1 for number in stage.kept)
        assert bench.turns.partition("summing") is None

    run(main)


def test_after_what_ends_a_worker_between_two_commits_each_partition_goes_on_where_it_was() -> None:
    polls = [poll(number, b"%d" % number) for number in range(4)]
    for step in ("computed", "published", "committed", "acknowledged"):
        for nth in range(1, 5):
            stage = Summing()

            async def main(stage: Summing = stage, step: str = step, nth: int = nth) -> None:
                first = Bench(stage, (step, nth))
                await first.assign(range(4))
                with pytest.raises(ZeroDivisionError):
                    await first.take(*polls)
                second = Bench(stage)
                await second.assign(range(4))
                await second.take(*polls)

            run(main)
            assert stage.kept == {number: [b"%d" % number] for number in range(4)}, (step, nth)


def _bad(polls: Sequence[Poll]) -> None:
    if any(BAD in poll.values for poll in polls):
        raise ValueError("cannot be computed")


def test_a_message_that_cannot_be_computed_is_refused_and_the_other_partitions_go_on(tmp_path: Path) -> None:
    registry = Registry(f"sqlite:///{tmp_path}/registry.db")
    stage = Summing()
    stage.refusals = Refusals(registry.refused, registry.refuse)

    def choke(polls: Sequence[Poll]) -> None:
        assert stage.refusals is not None
        for one in polls:
            refused = stage.refusals.within(one.topic, one.partition, one.first, one.last)
            if any(v == BAD and at not in refused for at, v in zip(one.offsets.tolist(), one.values, strict=True)):
                raise ValueError("cannot be computed")

    stage.choke = choke

    async def main() -> None:
        bench = Bench(stage)
        await bench.assign(range(3))
        await bench.take(poll(0, b"a"), poll(1, b"b", BAD, b"c"), poll(2, b"d"))

    run(main)
    assert stage.kept == {0: [b"a"], 1: [b"b", b"c"], 2: [b"d"]}
    assert dict(registry.refused("in", 1)) == {1: "ValueError: cannot be computed"}
    assert stage.computed == [[0, 1, 2], [0], [1], [1], [2]]
    registry.close()


@pytest.mark.parametrize("outside", [False, True])
def test_what_is_no_message_s_fault_ends_the_worker(outside: bool, tmp_path: Path) -> None:
    registry = Registry(f"sqlite:///{tmp_path}/registry.db")
    error = StoreError("gone") if outside else ValueError("from inside")

    def choke(_polls: Sequence[Poll]) -> None:
        raise error

    stage = Summing(choke)
    stage.refusals = Refusals(registry.refused, registry.refuse) if outside else None

    async def main() -> None:
        bench = Bench(stage)
        await bench.assign(range(2))
        with pytest.raises(type(error)):
            await bench.take(poll(0, b"a"), poll(1, b"b"))

    run(main)
    assert (stage.kept, stage.computed) == ({}, [[0, 1]])
    registry.close()
