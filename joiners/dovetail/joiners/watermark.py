"""How far the labels have come, in event time.

A partition's *clock* is the newest event time (or announced watermark) it has delivered, minus the allowed lateness.
The *label watermark* is the smallest clock over all partitions of all label topics. A sample is released when the
watermark has passed the end of its window, never because the wall clock has.

A partition that has been read to its end and lies silent while the others have moved on by ``idle_timeout`` (by message
timestamps) does not hold the watermark back. Both conditions matter: a partition that is merely read later than the
others, as in the replay of a backlog, still has labels to deliver.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dovetail.platform.stores.ledger import Progress

__all__ = ["PartitionClock", "clocks_before", "silent", "watermark"]


@dataclass(frozen=True, slots=True)
class PartitionClock:
    """One partition of a label topic: what the label store includes of it, and where its log ends."""

    progress: Progress | None
    end_offset: int

    def clock_us(self, allowed_lateness_us: int) -> int | None:
        """The partition's clock, None while it has delivered nothing."""
        if self.progress is None or self.progress.watermark_us is None:
            return None
        return self.progress.watermark_us - allowed_lateness_us

    @property
    def at_end(self) -> bool:
        """Whether everything in the log is included."""
        return (self.progress.next_offset if self.progress else 0) >= self.end_offset


def watermark(
    partitions: Mapping[tuple[str, int], PartitionClock], *, allowed_lateness_us: int, idle_timeout_us: int
) -> int | None:
    """The label watermark over ``partitions``; None while a partition that is not idle has delivered nothing.

    Adding progress to any partition never makes it smaller, except that an idle partition which speaks again rejoins
    at its own clock; the reader keeps the largest value it has seen.
    """
    quiet = silent({name: partition.progress for name, partition in partitions.items()}, idle_timeout_us)
    clocks = []
    for name, partition in partitions.items():
        if partition.at_end and name in quiet:
            continue
        clock = partition.clock_us(allowed_lateness_us)
        if clock is None:
            return None
        clocks.append(clock)
    return min(clocks) if clocks else None


def silent(progress: Mapping[tuple[str, int], Progress | None], idle_timeout_us: int) -> set[tuple[str, int]]:
    """The partitions whose newest message is older than the newest of all by more than ``idle_timeout_us``.

    None of them while no partition has delivered anything; else those that have delivered nothing are silent too.
    """
    stamps = {name: reached.timestamp_ms if reached else None for name, reached in progress.items()}
    newest_ms = max((stamp for stamp in stamps.values() if stamp is not None), default=None)
    if newest_ms is None:
        return set()
    return {name for name, stamp in stamps.items() if stamp is None or (newest_ms - stamp) * 1_000 > idle_timeout_us}


def clocks_before(times_us: npt.NDArray[np.int64], newest_before_us: int | None) -> npt.NDArray[np.int64]:
    """For rows in log order: the newest time delivered before each row, int64 min where there was none."""
    start = np.iinfo(np.int64).min if newest_before_us is None else newest_before_us
    return np.maximum.accumulate(np.concatenate(([np.int64(start)], times_us)))[:-1]
