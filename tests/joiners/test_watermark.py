"""The label watermark: the slowest partition decides, unless it is truly idle."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from dovetail.joiners.watermark import PartitionClock, SilentPartitions, clocks_before, watermark
from dovetail.platform.rows.intake import (
    IDLE_HEADER,
    WATERMARK_HEADER,
    announcement,
    spoken_ms,
)
from dovetail.platform.rows.positions import Progress
from tests.platform.polls import poll_of

MINUTE_MS, MINUTE_US = 60_000, 60_000_000


def clock(next_offset: int, end: int, time_us: int | None, stamp_ms: int | None) -> PartitionClock:
    return PartitionClock(Progress(next_offset, time_us, stamp_ms), lambda: end)


def at_end(progress: Progress | None, end: int) -> PartitionClock:
    return PartitionClock(progress, lambda: end)


def of(*clocks: PartitionClock, lateness: int = 0) -> int | None:
    partitions = {("t", number): each for number, each in enumerate(clocks)}
    return watermark(partitions, allowed_lateness_us=lateness)


def said(needed_us: int, *clocks: PartitionClock, lateness: int = 0, newest_ms: int | None = None) -> dict[int, int]:
    """What is announced, by partition, with an idle timeout of five minutes."""
    partitions = {("t", number): each for number, each in enumerate(clocks)}
    silent = SilentPartitions(lambda: partitions, allowed_lateness_us=lateness, idle_timeout_us=5 * MINUTE_US)
    announced = {}
    for message in silent.announcements(needed_us, newest_ms):
        assert message.topic == "t"
        assert message.partition is not None
        headers = dict(message.headers)
        assert IDLE_HEADER in headers
        announced[message.partition] = int(headers[WATERMARK_HEADER])
    assert silent.announcements(needed_us, newest_ms) == []  # it is not said twice
    return announced


def test_it_is_the_slowest_partitions_clock_minus_the_lateness() -> None:
    assert of(clock(1, 1, 100, 0), clock(1, 1, 70, 0), lateness=20) == 50


def test_there_is_none_before_every_partition_has_delivered() -> None:
    assert of(clock(1, 1, 100, 0), PartitionClock(None, lambda: 3)) is None
    assert of(PartitionClock(None, lambda: 0), PartitionClock(None, lambda: 0)) is None


def test_a_silent_partition_is_spoken_for_as_far_as_the_others_have_come() -> None:
    busy, silent = clock(9, 9, 100, 10 * MINUTE_MS), clock(3, 3, 10, 4 * MINUTE_MS)
    assert said(50, busy, silent, PartitionClock(None, lambda: 0), lateness=20) == {1: 100, 2: 100}
    assert said(50, busy, clock(3, 3, 70, 4 * MINUTE_MS), lateness=20) == {}  # it has come that far


def test_nobody_is_spoken_for_while_one_that_speaks_is_behind() -> None:
    silent = clock(3, 3, 10, 4 * MINUTE_MS)
    assert said(50, clock(9, 9, 49, 10 * MINUTE_MS), silent) == {}
    assert said(50, clock(9, 9, None, 10 * MINUTE_MS), silent) == {}


def test_a_partition_that_is_only_behind_in_reading_is_not_silent() -> None:
    assert said(50, clock(9, 9, 100, 10 * MINUTE_MS), clock(3, 4, 10, 4 * MINUTE_MS)) == {}


def test_a_partition_silent_for_less_than_the_timeout_is_waited_for() -> None:
    assert said(50, clock(9, 9, 100, 10 * MINUTE_MS), clock(3, 3, 10, 5 * MINUTE_MS)) == {}


def test_all_are_spoken_for_when_time_is_seen_to_go_on_elsewhere() -> None:
    assert said(50, clock(3, 3, 10, 4 * MINUTE_MS), newest_ms=10 * MINUTE_MS, lateness=20) == {0: 70}
    assert said(50, PartitionClock(None, lambda: 0)) == {}  # nothing has been seen anywhere


def test_what_is_said_for_a_partition_does_not_end_its_silence() -> None:
    ours = announcement("t", 0, 70).headers
    theirs = ((WATERMARK_HEADER, b"70"),)
    assert spoken_ms(poll_of([b"", b"", b"{}"], timestamps_ms=[9, 8, 7], headers=[ours, theirs, ()])) == 8
    assert spoken_ms(poll_of([b""], timestamps_ms=[9], headers=[ours])) is None


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 100)), min_size=1, max_size=40),
    st.integers(0, 20),
)
def test_reading_on_never_moves_it_back(rows: list[tuple[int, int]], lateness: int) -> None:
    ends = {p: sum(1 for q, _ in rows if q == p) for p in range(4)}
    progress: dict[int, Progress] = {}
    before = None
    for partition, time in rows:
        old = progress.get(partition, Progress())
        newest = time if old.watermark_us is None else max(time, old.watermark_us)
        progress[partition] = Progress(old.next_offset + 1, newest, 0)
        clocks = {("t", p): at_end(progress.get(p), end) for p, end in ends.items() if end}
        now = watermark(clocks, allowed_lateness_us=lateness)
        if before is not None:
            assert now is not None
            assert now >= before
        before = now


def test_clocks_before_each_row() -> None:
    times = np.array([5, 3, 9, 7], dtype=np.int64)
    lowest = np.iinfo(np.int64).min
    assert clocks_before(times, None).tolist() == [lowest, 5, 5, 9]
    assert clocks_before(times, 6).tolist() == [6, 6, 6, 9]
    assert clocks_before(times[:0], 6).tolist() == []
