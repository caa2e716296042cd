"""A poll is held back until what it waits for is there, its partition has gone or the worker stops: no move missed."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from dovetail.joiners.hold import Hold
from dovetail.joiners.sample_agent import SampleStage
from dovetail.platform.runtime.signal import Listener, Signal
from dovetail.platform.stage import Stage
from dovetail.platform.stores.registry.store import Registry
from dovetail.platform.stores.sql.labels import SqlLabelStore
from tests.joiners.asked_worlds import Agents, Asked, AskedWorld, Click
from tests.joiners.worlds import World, delayed, micros, sample_stage

#: So long that a test which needs it has missed a signal.
NEVER_S = 1e6


class Looks:
    """Finds what is in ``answers``, one look after the other; then nothing."""

    def __init__(self, *answers: int | None) -> None:
        self.answers = list(answers)
        self.looked = 0
        self._changed = asyncio.Event()

    async def __call__(self) -> int | None:
        self.looked += 1
        self._changed.set()
        return self.answers.pop(0) if self.answers else None

    async def times(self, number: int) -> None:
        """Return when it has been asked so often."""
        while self.looked < number:
            self._changed.clear()
            await self._changed.wait()


def waits(test: Callable[[], Awaitable[None]]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(20):
            await test()

    asyncio.run(limited())


def test_what_is_there_already_is_not_waited_for() -> None:
    async def test() -> None:
        hold = Hold(Signal(), NEVER_S)
        with hold.of(3):
            assert hold.partition == 3
            assert await hold.until(Looks(7)) == 7
            assert hold.wanted  # one poll may wait for several things, one after the other
            assert await hold.until(Looks(8)) == 8
        assert hold.partition is None

    waits(test)


def test_one_looks_again_after_each_signal_also_one_that_comes_during_a_look() -> None:
    async def test() -> None:
        moved = Signal()
        hold, looks = Hold(moved, NEVER_S), Looks(None, None, 7)
        with hold.of(0):
            waiting = asyncio.create_task(hold.until(looks))
            await looks.times(1)
            moved.send()
            await looks.times(2)
            moved.send()
            assert await waiting == 7
            assert looks.looked == 3

        async def moves_meanwhile() -> int | None:
            looks.looked += 1
            moved.send()
            return 8 if looks.looked == 5 else None

        with hold.of(0):
            assert await hold.until(moves_meanwhile) == 8

    waits(test)


def test_nobody_signals_from_another_process_so_one_looks_all_the_same() -> None:
    async def test() -> None:
        hold = Hold(Signal(), 0.0)
        with hold.of(0):
            assert await hold.until(Looks(None, None, None, 7)) == 7

    waits(test)


def test_what_is_found_may_be_empty() -> None:
    async def test() -> None:
        async def nothing_to_announce() -> list[int] | None:
            return []

        hold = Hold(Signal(), NEVER_S)
        with hold.of(0):
            assert await hold.until(nothing_to_announce) == []

    waits(test)


def test_a_partition_that_goes_ends_the_wait_and_another_ones_does_not() -> None:
    async def test() -> None:
        hold, looks = Hold(Signal(), NEVER_S), Looks()
        with hold.of(1):
            waiting = asyncio.create_task(hold.until(looks))
            await looks.times(1)
            hold.forget({0, 2})
            assert hold.wanted
            hold.forget([1, 2])
            assert await waiting is None
            assert not hold.wanted
            assert hold.partition is None
            assert await hold.until(looks) is None  # nor does it begin again
            assert looks.looked == 1
        with hold.of(1):  # it came back
            assert await hold.until(Looks(7)) == 7

    waits(test)


def test_what_is_not_held_back_need_not_be_forgotten() -> None:
    async def test() -> None:
        hold = Hold(Signal(), NEVER_S)
        hold.forget({0})
        with hold.of(0):
            assert hold.wanted

    waits(test)


def test_a_stop_ends_the_wait_and_all_that_would_come_after() -> None:
    async def test() -> None:
        hold, looks = Hold(Signal(), NEVER_S), Looks()
        with hold.of(1):
            waiting = asyncio.create_task(hold.until(looks))
            await looks.times(1)
            hold.hurry()
            assert await waiting is None
            assert not hold.wanted
            assert hold.partition == 1  # still held back: it is this worker's until it has stopped
        with hold.of(2):
            assert await hold.until(looks) is None
        assert looks.looked == 1

    waits(test)


def test_what_was_found_counts_although_it_went_during_the_look() -> None:
    """Whether it may still take effect is the runtime's to say; a stop lets it go on to here."""

    async def test() -> None:
        hold = Hold(Signal(), NEVER_S)

        async def goes() -> int | None:
            hold.forget({0})
            return 7

        with hold.of(0):
            assert await hold.until(goes) == 7
            assert not hold.wanted

    waits(test)


def test_what_a_look_raises_is_raised_and_nothing_is_held_or_listened_for_after_it() -> None:
    async def test() -> None:
        class Listened(Signal):
            @property
            def listeners(self) -> int:
                return len(self._waiting)

        async def breaks() -> int | None:
            assert moved.listeners == 1
            raise LookupError("the store is gone")

        moved = Listened()
        hold = Hold(moved, NEVER_S)
        with pytest.raises(LookupError, match="the store is gone"), hold.of(0):
            await hold.until(breaks)
        assert hold.partition is None
        assert moved.listeners == 0

    waits(test)


#: What ends a wait, of a stage that holds back partition 0 of a topic.
ENDS: dict[str, Callable[[Stage, str], None]] = {
    "a stop": lambda stage, _topic: stage.hurry(),
    "a rebalance": lambda stage, topic: stage.forget(topic, [0, 1]),
}


@pytest.mark.parametrize("end", sorted(ENDS))
def test_snapshots_that_wait_for_labels_are_given_back(end: str, tmp_path: Path) -> None:
    world = World((0,), 1, (), delayed(5), lateness=0)
    store, log = SqlLabelStore(f"sqlite:///{tmp_path / 'labels.sqlite'}"), world.log()
    waited: list[str | None] = []

    def blocked() -> None:
        assert isinstance(stage, SampleStage)
        assert stage.blocked_until_us == micros(5)
        waited.append(stage.waiting)
        ENDS[end](stage, "snapshots")

    stage = sample_stage(world, store, Signal(), log, on_blocked=blocked)
    poll = log.poll("snapshots", 0, 0)
    assert poll is not None

    async def test() -> None:
        stage.resume("snapshots")
        assert [work async for work in stage.handle(poll)] == []

    waits(test)
    assert waited == [f"labels up to event time {micros(5)} us"]
    assert stage.waiting is None
    store.close()


@pytest.mark.parametrize("end", sorted(ENDS))
def test_labels_that_wait_for_requests_are_given_back(end: str, tmp_path: Path) -> None:
    world = AskedWorld((Asked("u", 0, (0,), 0),), (Click("u", 0, 5, 0),), 10, 60, 0, 0)
    registry = Registry(f"sqlite:///{tmp_path / 'registry.sqlite'}")
    store, log = SqlLabelStore(f"sqlite:///{tmp_path / 'labels.sqlite'}"), world.log()
    waited: list[str | None] = []

    class Ending(Listener):
        async def wait(self, timeout_s: float) -> None:
            waited.append(clicks.waiting)
            ENDS[end](clicks, "click")
            await super().wait(timeout_s)

    class Ends(Signal):
        def listen(self) -> Listener:
            return Ending(self._waiting)

    _, _, clicks, *_ = Agents(world, log, registry, store, signal=Ends).stages()
    poll = log.poll("click", 0, 0)
    assert poll is not None

    async def test() -> None:
        clicks.resume("click")
        assert [work async for work in clicks.handle(poll)] == []

    waits(test)
    assert waited == ["requests that click labels of partition 0 belong to"]
    assert clicks.waiting is None
    registry.close()
    store.close()
