"""The label watermark: the slowest partition decides, unless it is truly idle."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from dovetail.joiners.watermark import PartitionClock, clocks_before, watermark
from dovetail.platform.stores.ledger import Progress

MINUTE_MS, MINUTE_US = 60_000, 60_000_000


def clock(next_offset: int, end: int, time_us: int | None, stamp_ms: int | None) -> PartitionClock:
    return PartitionClock(Progress(next_offset, time_us, stamp_ms), end)


def of(*clocks: PartitionClock, lateness: int = 0, idle: int = 5 * MINUTE_US) -> int | None:
    partitions = {("t", number): each for number, each in enumerate(clocks)}
    return watermark(partitions, allowed_lateness_us=lateness, idle_timeout_us=idle)


def test_it_is_the_slowest_partitions_clock_minus_the_lateness() -> None:
    assert of(clock(1, 1, 100, 0), clock(1, 1, 70, 0), lateness=20) == 50


def test_there_is_none_before_every_partition_has_delivered() -> None:
    assert of(clock(1, 1, 100, 0), PartitionClock(None, 3)) is None
    assert of(PartitionClock(None, 0), PartitionClock(None, 0)) is None


def test_a_silent_partition_read_to_its_end_does_not_hold_it_back() -> None:
    busy, silent = clock(9, 9, 100, 10 * MINUTE_MS), clock(3, 3, 10, 4 * MINUTE_MS)
    assert of(busy, silent) == 100
    assert of(busy, PartitionClock(None, 0)) == 100


def test_a_partition_that_is_only_behind_in_reading_holds_it_back() -> None:
    busy, behind = clock(9, 9, 100, 10 * MINUTE_MS), clock(3, 4, 10, 4 * MINUTE_MS)
    assert of(busy, behind) == 10


def test_a_partition_silent_for_less_than_the_timeout_holds_it_back() -> None:
    assert of(clock(9, 9, 100, 10 * MINUTE_MS), clock(3, 3, 10, 5 * MINUTE_MS)) == 10


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 100)), min_size=1, max_size=40),
    st.integers(0, 20),
)
def test_reading_on_never_moves_it_back_while_nobody_is_idle(rows: list[tuple[int, int]], lateness: int) -> None:
    ends = {p: sum(1 for q, _ in rows if q == p) for p in range(4)}
    progress: dict[int, Progress] = {}
    before = None
    for partition, time in rows:
        old = progress.get(partition, Progress())
        newest = time if old.watermark_us is None else max(time, old.watermark_us)
        progress[partition] = Progress(old.next_offset + 1, newest, 0)
        clocks = {("t", p): PartitionClock(progress.get(p), end) for p, end in ends.items() if end}
        now = watermark(clocks, allowed_lateness_us=lateness, idle_timeout_us=10**12)
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
