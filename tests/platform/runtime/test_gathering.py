"""Polls that are gathered: in order, each once, none for longer than its stage allows."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dovetail.platform.runtime.waiting.gathering import Gathering
from dovetail.platform.stage import AT_ONCE, Gather, Poll
from tests.virtual_time import run_in_virtual_time

WAIT = Gather(max_wait_us=100_000, max_messages=10, max_bytes=100)


def poll(first: int, count: int = 1, *, partition: int = 0, size: int = 1) -> Poll:
    offsets = np.arange(first, first + count, dtype=np.int64)
    return Poll("t", partition, offsets, offsets * 10, [None] * count, [b"x" * size] * count, [()] * count)


def offsets_of(found: tuple[int, Poll, str] | None) -> list[int]:
    assert found is not None
    return list(found[1].offsets.tolist())


class Times:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_joined_polls_are_the_messages_of_all() -> None:
    one, two = poll(3, 2), poll(9)
    assert Poll.joined([one]) is one
    joined = Poll.joined([one, two])
    assert joined.offsets.tolist() == [3, 4, 9]
    assert joined.timestamps_ms.tolist() == [30, 40, 90]
    assert joined.offsets.dtype == joined.timestamps_ms.dtype == np.int64
    assert (joined.topic, joined.partition, len(joined.keys), len(joined.headers)) == ("t", 0, 3, 3)
    assert (joined.first, joined.last) == (3, 9)


def test_what_is_not_to_be_gathered_is_given_as_it_came() -> None:
    gathering: Gathering[int, str] = Gathering(AT_ONCE, Times())
    assert not gathering.add(0, poll(0), "a")
    assert not gathering.add(0, poll(1), "b")
    first = gathering.take()
    assert first is not None
    assert first[2] == "a"
    assert [offsets_of(first), offsets_of(gathering.take())] == [[0], [1]]
    assert gathering.take() is None


def test_what_comes_while_it_waits_is_given_with_it() -> None:
    now = Times()
    gathering: Gathering[int, str] = Gathering(WAIT, now)
    assert gathering.add(0, poll(0), "a")
    now.now = 0.09
    assert gathering.add(0, poll(1), "b")
    assert gathering.take() is None
    now.now = 0.1
    # The stage was busy: what comes now is given too, but no more is to be read.
    assert not gathering.add(0, poll(2), "c")
    found = gathering.take()
    assert offsets_of(found) == [0, 1, 2]
    assert found is not None
    assert found[2] == "a"


@pytest.mark.parametrize("polls", [[poll(0, 9), poll(9)], [poll(0, size=60), poll(1, size=60)], [poll(0, 12)]])
def test_enough_waits_for_no_more(polls: Sequence[Poll]) -> None:
    gathering: Gathering[int, str] = Gathering(WAIT, Times())
    assert [gathering.add(0, each, "") for each in polls] == [True] * (len(polls) - 1) + [False]
    assert offsets_of(gathering.take()) == [offset for each in polls for offset in each.offsets.tolist()]


def test_a_poll_grows_no_larger_than_one_beyond_enough() -> None:
    now = Times()
    gathering: Gathering[int, str] = Gathering(WAIT, now)
    for first in range(0, 24, 8):
        gathering.add(0, poll(first, 8), "")
    assert len(offsets_of(gathering.take())) == 16
    assert gathering.take() is None  # eight more are no longer enough, and not due
    now.now = 0.1
    assert len(offsets_of(gathering.take())) == 8


def test_partitions_are_given_in_the_order_they_are_due() -> None:
    now = Times()
    gathering: Gathering[int, str] = Gathering(WAIT, now)
    for partition, now.now in ((2, 0.0), (0, 0.01), (1, 0.02)):
        gathering.add(partition, poll(0, partition=partition), "")
    now.now = 1.0
    assert [found[0] for _ in range(3) if (found := gathering.take()) is not None] == [2, 0, 1]


def test_who_waits_for_the_stage_hastens_it() -> None:
    gathering: Gathering[int, str] = Gathering(WAIT, Times())
    assert not gathering.waits
    gathering.add(0, poll(0), "")
    assert gathering.waits
    with gathering.hastened():
        with gathering.hastened():
            pass
        assert offsets_of(gathering.take()) == [0]
        assert not gathering.add(0, poll(1), "")
        assert offsets_of(gathering.take()) == [1]
    assert gathering.add(0, poll(2), "")
    assert gathering.take() is None
    gathering.clear()
    with gathering.hastened():
        assert gathering.take() is None


@given(
    st.lists(st.tuples(st.floats(0, 0.2), st.integers(0, 1), st.integers(1, 6), st.integers(1, 40)), max_size=20),
    st.sampled_from([0.0, 0.03]),
)
def test_no_message_waits_for_longer_than_allowed(coming: list[tuple[float, int, int, int]], busy_s: float) -> None:
    """In a loop whose time stands still while there is something to do: what passes is waiting, to the last bit."""

    async def main() -> tuple[dict[int, list[int]], dict[int, int], list[float]]:
        loop = asyncio.get_running_loop()
        gathering: Gathering[int, float] = Gathering(WAIT)
        given: defaultdict[int, list[int]] = defaultdict(list)
        late: list[float] = []

        async def serve() -> None:
            idle_since = 0.0
            while True:
                partition, found, came = await gathering.next()
                given[partition] += found.offsets.tolist()
                late.append(loop.time() - max(came + 0.1, idle_since))
                await asyncio.sleep(busy_s)
                idle_since = loop.time()

        serving = asyncio.create_task(serve())
        ends: dict[int, int] = {}
        for pause, partition, count, size in coming:
            await asyncio.sleep(pause)
            first = ends.get(partition, 0)
            gathering.add(partition, poll(first, count, partition=partition, size=size), loop.time())
            ends[partition] = first + count
        await asyncio.sleep(1 + busy_s * len(coming))
        serving.cancel()
        return given, ends, late

    given, ends, late = run_in_virtual_time(main)
    assert given == {partition: list(range(end)) for partition, end in ends.items()}
    assert max(late, default=0) < 1e-6


def test_a_stage_that_is_hastened_while_it_waits_is_given_all_at_once() -> None:
    async def main() -> float:
        gathering: Gathering[int, str] = Gathering(WAIT)
        waiting = asyncio.create_task(gathering.next())
        await asyncio.sleep(0)
        gathering.add(0, poll(0), "")
        await asyncio.sleep(0.01)
        with gathering.hastened():
            assert offsets_of(await waiting) == [0]
        return asyncio.get_running_loop().time()

    assert run_in_virtual_time(main) == pytest.approx(0.01)
