"""How far stages are: where they go on after a rebalance, and what all of a topic's stages have done."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence

import numpy as np
import pytest

from dovetail.platform.errors import TransportError
from dovetail.platform.runtime.offsets import Offsets
from dovetail.platform.stage import Poll, Stage, Work

T0, T1 = ("t", 0), ("t", 1)


class Reader(Stage):
    """Reads ``t``; its offsets are kept by hand."""

    topics: Sequence[str] = ("t",)

    def __init__(self, name: str) -> None:
        self.name = name

    def resume(self, topic: str) -> Mapping[int, int]:
        raise AssertionError(topic)

    def handle(self, poll: Poll) -> AsyncIterator[Work]:
        raise AssertionError(poll)


def two(a: int, b: int) -> Offsets[tuple[str, int]]:
    """Stages a and b, which have stored these positions of partition 0."""
    offsets: Offsets[tuple[str, int]] = Offsets([Reader("a"), Reader("b")])
    assert offsets.resume(T0, stored(a, b)) == min(a, b)
    return offsets


def stored(a: int, b: int) -> dict[tuple[str, str], dict[int, int]]:
    return {("a", "t"): {0: a}, ("b", "t"): {0: b}}


def poll(first: int, after: int) -> Poll:
    at = np.arange(first, after, dtype=np.int64)
    nothing = [None] * len(at)
    return Poll("t", 0, at, at, nothing, nothing, [()] * len(at))


def test_a_stage_is_given_each_message_once_from_where_it_was() -> None:
    offsets = two(3, 5)
    assert offsets.give("a", poll(3, 6), T0).offsets.tolist() == [3, 4, 5]
    assert offsets.give("b", poll(3, 6), T0).offsets.tolist() == [5]
    assert len(offsets.give("b", poll(3, 6), T0)) == 0
    assert (offsets.given("a", T0), offsets.given("b", T0)) == (6, 6)
    assert (offsets.stored("a", T0), offsets.stored("b", T0)) == (3, 5)
    assert (offsets.given("a", T1), offsets.stored("a", T1)) == (0, 0)


def test_a_topic_is_as_far_as_the_last_of_its_stages() -> None:
    offsets = two(0, 0)
    for stage in ("a", "b"):
        offsets.give(stage, poll(0, 10), T0)
    assert offsets.handle("a", T0, 10) == 0
    assert offsets.handle("b", T0, 7) == 7
    assert offsets.handle("b", T0, 5) == 7  # nothing goes back
    assert offsets.complete("a", T0, 4) == 0
    assert offsets.complete("b", T0, 10) == 4
    assert offsets.complete("b", T0, 10) is None
    assert offsets.completed == {("a", "t", 0): 4, ("b", "t", 0): 10}
    assert offsets.handled == {("a", "t", 0): 10, ("b", "t", 0): 7}


def test_a_stage_cannot_be_done_with_what_it_was_not_given() -> None:
    offsets = two(0, 2)
    offsets.give("a", poll(0, 4), T0)
    with pytest.raises(TransportError, match="done up to offset 5 of t, partition 0, but was given offsets below 4"):
        offsets.complete("a", T0, 5)
    assert offsets.complete("b", T0, 2) is None  # that is where it was


def test_a_partition_kept_through_a_rebalance_goes_on_where_its_stages_are() -> None:
    offsets = two(3, 5)
    for stage in ("a", "b"):
        offsets.give(stage, poll(3, 9), T0)
    assert offsets.resume(T0, stored(3, 5)) == 9
    offsets.complete("a", T0, 6)
    assert offsets.moved(stored(6, 5)) == set()
    assert offsets.moved(stored(7, 5)) == {"t"}  # somebody else has had it
    assert offsets.moved(stored(0, 5)) == {"t"}  # the store has lost it


def test_a_partition_that_was_gone_goes_on_where_the_stores_are() -> None:
    offsets = two(3, 5)
    offsets.resume(T1, stored(0, 0))
    for stage in ("a", "b"):
        offsets.give(stage, poll(3, 9), T0)
    offsets.forget({T0})
    assert offsets.handled == offsets.completed == {("a", "t", 1): 0, ("b", "t", 1): 0}
    assert offsets.give("a", poll(3, 4), T1).offsets.tolist() == [3]
    assert offsets.resume(T0, stored(20, 12)) == 12
    offsets.forget({T0})
    offsets.give("a", poll(0, 1), T0)
    assert offsets.complete("a", T0, 1) is None  # a work of before, of a partition that is not here


def test_what_a_stage_gathers_lets_more_be_read_and_is_neither_handled_nor_kept_through_a_rebalance() -> None:
    offsets = two(0, 0)
    offsets.give("b", poll(0, 10), T0)
    assert offsets.release("a", T0, 10) == 0
    assert offsets.handle("b", T0, 10) == 10
    assert offsets.handled["a", "t", 0] == 0
    assert offsets.resume(T0, stored(0, 0)) == 0
    assert offsets.handle("b", T0, 12) == 0
