"""The watchdog: which standing still is stuck, and which is not. The clock is moved by hand."""

from __future__ import annotations

import re

import pytest

from dovetail.platform.errors import WorkerStuck
from dovetail.platform.process.watchdog import Moving, Watchdog
from dovetail.platform.testing import ManualClock

TIMEOUT_US = 60_000_000
KEY = ("features.clicks", "clicks", 3)


def watched() -> tuple[ManualClock, Watchdog]:
    clock = ManualClock(1)
    return clock, Watchdog(clock, TIMEOUT_US, "dovetail-test")


@pytest.mark.parametrize(
    "seen",
    [
        Moving("a", 10, 10),
        Moving("a", 10, None),
        Moving("a", 10, 20, held="labels up to event time 5 us"),
    ],
    ids=["nothing to do", "end not known", "rightly waits"],
)
def test_standing_still_for_a_reason_is_not_stuck(seen: Moving) -> None:
    clock, watchdog = watched()
    for _ in range(10):
        watchdog.look(settled=True, partitions={KEY: seen})
        clock.advance(TIMEOUT_US)


def test_a_partition_that_does_not_move_while_data_waits_is_stuck_and_named() -> None:
    clock, watchdog = watched()
    other = ("features.clicks", "clicks", 4)
    watchdog.look(settled=True, partitions={KEY: Moving(10, 10, 20), other: Moving(1, 1, 20)})
    clock.advance(TIMEOUT_US - 1)
    watchdog.look(settled=True, partitions={KEY: Moving(10, 10, 20), other: Moving(2, 2, 20)})
    clock.advance(1)
    message = "nothing has moved for 60 s although data waits: stage features.clicks, clicks, partition 3: at offset 10"
    with pytest.raises(WorkerStuck, match=re.escape(message)) as stuck:
        watchdog.look(settled=True, partitions={KEY: Moving(10, 10, 30), other: Moving(2, 2, 20)})
    assert "partition 4" not in str(stuck.value)


@pytest.mark.parametrize("between", [Moving(11, 11, 20), Moving(10, 10, 10), Moving(10, 10, 20, held="labels")])
def test_time_counts_from_the_last_movement_or_reason(between: Moving) -> None:
    clock, watchdog = watched()
    watchdog.look(settled=True, partitions={KEY: Moving(10, 10, 20)})
    clock.advance(TIMEOUT_US - 1)
    watchdog.look(settled=True, partitions={KEY: between})
    clock.advance(TIMEOUT_US - 1)
    watchdog.look(settled=True, partitions={KEY: Moving(12, 12, 20)})
    clock.advance(TIMEOUT_US - 1)
    watchdog.look(settled=True, partitions={KEY: Moving(12, 12, 20)})
    clock.advance(1)
    with pytest.raises(WorkerStuck):
        watchdog.look(settled=True, partitions={KEY: Moving(12, 12, 20)})


def test_an_assignment_that_does_not_come_is_stuck_and_starts_the_count_of_partitions_anew() -> None:
    clock, watchdog = watched()
    watchdog.look(settled=True, partitions={KEY: Moving(10, 10, 20)})
    clock.advance(TIMEOUT_US - 1)
    watchdog.look(settled=False, partitions={})
    clock.advance(TIMEOUT_US - 1)
    watchdog.look(settled=True, partitions={KEY: Moving(10, 10, 20)})
    watchdog.look(settled=False, partitions={})
    clock.advance(TIMEOUT_US)
    with pytest.raises(WorkerStuck, match="group dovetail-test: no partitions were assigned for 60 s"):
        watchdog.look(settled=False, partitions={})


def test_a_member_that_got_no_partition_is_not_stuck() -> None:
    clock, watchdog = watched()
    for _ in range(10):
        watchdog.look(settled=True, partitions={})
        clock.advance(TIMEOUT_US)
