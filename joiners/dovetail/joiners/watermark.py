"""Event-time progress of a log: of the labels and, where labels are attributed, of the requests.

A partition's *clock* is the newest event time, or announced watermark, that it has delivered, minus the allowed
lateness. The *watermark* is the smallest clock of all partitions. A sample is released when the label watermark has
passed the end of its window; the wall clock has no say.

A silent partition would hold all others back. It is not passed over but *spoken for* (others call it an idle source):
once it has been read to its end and is older than ``idle_timeout``, by message timestamps, than the partitions that go
on, an agent that waits for silent partitions alone writes a watermark announcement into it. The announcement stands in
the log. So a row that comes after it is late to the stream, to a replay and to the batch join alike.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dovetail.platform.rows.intake import (
    Received,
    announcement,
    spoken_ms,
    time_us,
)
from dovetail.platform.rows.positions import Progress, pack
from dovetail.platform.stage import Outgoing, Poll

__all__ = [
    "PartitionClock",
    "Partitions",
    "SilentPartitions",
    "clocks_before",
    "known_times_us",
    "log_times",
    "progress_after",
    "watermark",
]


@dataclass(frozen=True, slots=True)
class PartitionClock:
    """The stored progress of one partition, and a way to ask for the end of its log.

    The end is asked for only where it decides something, and after ``progress`` was read.
    """

    progress: Progress | None
    end_offset: Callable[[], int]

    def clock_us(self, allowed_lateness_us: int) -> int | None:
        """The partition's clock, None while it has delivered nothing."""
        if self.progress is None or self.progress.watermark_us is None:
            return None
        return self.progress.watermark_us - allowed_lateness_us

    @property
    def at_end(self) -> bool:
        """Whether everything in the log is included."""
        return (self.progress.next_offset if self.progress else 0) >= self.end_offset()

    def silent(self, newest_ms: int, idle_timeout_us: int) -> bool:
        """Whether it has been read to its end and its last message is older than the timeout."""
        stamp_ms = self.progress.timestamp_ms if self.progress else None
        return (stamp_ms is None or (newest_ms - stamp_ms) * 1_000 > idle_timeout_us) and self.at_end


#: Partitions by (topic, number).
Partitions = Mapping[tuple[str, int], PartitionClock]


def watermark(partitions: Partitions, *, allowed_lateness_us: int) -> int | None:
    """The smallest clock (µs); None while a partition has delivered nothing. Progress never makes it smaller."""
    clocks = [partition.clock_us(allowed_lateness_us) for partition in partitions.values()]
    known = [clock for clock in clocks if clock is not None]
    return min(known) if known and len(known) == len(clocks) else None


class SilentPartitions:
    """Makes the announcements for silent partitions, when an agent waits for them alone.

    ``partitions`` reads their clocks from the store. A partition that another process reads counts as not at its end:
    only that process can tell.
    """

    def __init__(self, partitions: Callable[[], Partitions], *, allowed_lateness_us: int, idle_timeout_us: int) -> None:
        self._partitions = partitions
        self._allowed_lateness_us = allowed_lateness_us
        self._idle_timeout_us = idle_timeout_us
        self._announced: dict[tuple[str, int], int] = {}

    def announcements(self, needed_us: int, newest_ms: int | None = None) -> list[Outgoing]:
        """The messages that let the watermark reach ``needed_us``; none while one that is not silent is behind it.

        ``newest_ms``: a message timestamp seen elsewhere, by which silence is judged, too.
        """
        partitions = self._partitions()
        stamps = [p.progress.timestamp_ms for p in partitions.values() if p.progress]
        known = [stamp for stamp in (*stamps, newest_ms) if stamp is not None]
        if not known:
            return []
        clocks = {key: partition.clock_us(self._allowed_lateness_us) for key, partition in partitions.items()}
        silent = {key for key, p in partitions.items() if p.silent(max(known), self._idle_timeout_us)}
        speaking = [clock for key, clock in clocks.items() if key not in silent]
        reached = [clock for clock in speaking if clock is not None and clock >= needed_us]
        if len(reached) < len(speaking):
            return []
        # As far as those who speak have come, so that it need not be said again for every row.
        says = min(reached, default=needed_us) + self._allowed_lateness_us
        behind = {key for key in silent if (clock := clocks[key]) is None or clock < needed_us}
        # What was said a moment ago may not have been read yet.
        fresh = sorted(key for key in behind if self._announced.get(key, says - 1) < says)
        self._announced |= dict.fromkeys(fresh, says)
        return [announcement(topic, number, says) for topic, number in fresh]


def log_times(received: Received, column: str) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """Rows and announced watermarks in log order: their times (int64 µs), and which of them are rows (bool)."""
    if (log_times, column) not in received.shared:
        received.shared[log_times, column] = _log_times(received, column)
    times, is_row = received.shared[log_times, column]
    return times, is_row


def _log_times(received: Received, column: str) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    rows = time_us(received.table, column)
    if not received.watermarks:  # rows are in log order
        return rows, np.ones(len(rows), dtype=np.bool_)
    order = pack(received.table.column("_offset").to_numpy(), received.table.column("_row").to_numpy())
    announced = np.array([time for _, time in received.watermarks], dtype=np.int64)
    announced_at = np.array([offset for offset, _ in received.watermarks], dtype=np.int64) * (1 << 20)
    by_log = np.argsort(np.concatenate((order, announced_at)), kind="stable")
    is_row = np.concatenate((np.ones(len(rows), dtype=np.bool_), np.zeros(len(announced), dtype=np.bool_)))
    return np.concatenate((rows, announced))[by_log], is_row[by_log]


def known_times_us(
    received: Received, column: str, before: Progress, allowed_lateness_us: int
) -> npt.NDArray[np.int64]:
    """The time at which the stream knew of each row, int64 [rows] µs.

    It is the row's own time, or its partition's clock where that is later.
    """
    times, is_row = log_times(received, column)
    newest_before = clocks_before(times, before.watermark_us)[is_row]
    no_clock = newest_before == np.iinfo(np.int64).min
    clock = np.where(no_clock, newest_before, newest_before - allowed_lateness_us)
    known: npt.NDArray[np.int64] = np.maximum(times[is_row], clock)
    return known


def progress_after(poll: Poll, received: Received, column: str, before: Progress) -> Progress:
    """The progress after ``poll``: its position, and the newest event time and message timestamp up to there."""
    times, _ = log_times(received, column)
    newest = [int(times.max())] if len(times) else []
    known = [time for time in (before.watermark_us, *newest) if time is not None]
    stamps = [stamp for stamp in (before.timestamp_ms, spoken_ms(poll, received.refused)) if stamp is not None]
    return Progress(poll.last + 1, watermark_us=max(known, default=None), timestamp_ms=max(stamps, default=None))


def clocks_before(times_us: npt.NDArray[np.int64], newest_before_us: int | None) -> npt.NDArray[np.int64]:
    """For rows in log order: the newest time delivered before each row, int64 min where there was none."""
    start = np.iinfo(np.int64).min if newest_before_us is None else newest_before_us
    return np.maximum.accumulate(np.concatenate(([np.int64(start)], times_us)))[:-1]
