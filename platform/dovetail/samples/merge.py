"""Merges the partitions of a sample log into one order that does not depend on where its rows are kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from dovetail.platform.errors import StateError
from dovetail.platform.rows.positions import SourceFilter
from dovetail.samples.sample_log import SampleLog

__all__ = ["Cursor", "Merge"]

_NO_DAY = -(1 << 31)
_ALL = 1 << 62


@dataclass(frozen=True, slots=True)
class Cursor:
    """How far a partition has been taken: ``offset`` is the next message, ``day`` the highest day before it."""

    offset: int = 0
    day: int = _NO_DAY
    #: By source partition, the last source position taken.
    sources: Mapping[int, int] = field(default_factory=dict)


@dataclass(slots=True)
class _Partition:
    """What has been read of a partition and not been taken yet. ``days``: of each row, the place of its message."""

    rows: pa.Table
    days: npt.NDArray[np.int64]
    #: Where reading goes on, after what day, and what has been read.
    read_to: int
    read_day: int
    read: SourceFilter
    #: How far it has been taken.
    offset: int
    day: int
    taken: SourceFilter

    @classmethod
    def at(cls, cursor: Cursor) -> _Partition:
        read, taken = SourceFilter(cursor.sources), SourceFilter(cursor.sources)
        nothing = np.empty(0, np.int64)
        return cls(pa.table({}), nothing, cursor.offset, cursor.day, read, cursor.offset, cursor.day, taken)

    def offsets(self) -> npt.NDArray[np.int64]:
        offsets: npt.NDArray[np.int64] = self.rows.column("_offset").to_numpy()
        return offsets

    def take(self, count: int) -> pa.Table:
        taken, last = self.rows.slice(0, count), count - 1
        self.offset, self.day = int(self.offsets()[last]) + 1, int(self.days[last])
        self.taken.admit(taken)
        self.rows, self.days = self.rows.slice(count), self.days[count:]
        return taken


class Merge:
    """Takes rows partition by partition, day by day of their requests, a message at a time.

    The order is by (highest day of the partition up to the message, partition, offset), so it is the same whether rows
    come from the archive or from the topic, in chunks of any size. What was published twice is taken once. ``mine``
    masks the rows of a chunk that are wanted; ``wanted_days`` are the first and the last day (days since 1970) of the
    requests that count at all.
    """

    def __init__(
        self,
        log: SampleLog,
        mine: Callable[[pa.Table], npt.NDArray[np.bool_]],
        wanted_days: tuple[int, int] | None,
    ) -> None:
        self._log, self._mine, self._wanted_days = log, mine, wanted_days
        self._partitions = {number: _Partition.at(Cursor()) for number in log.partitions}

    def go_to(self, cursors: Mapping[int, Cursor]) -> None:
        """Forget what was read ahead: what is taken next begins at ``cursors``, by partition."""
        self._partitions = {number: _Partition.at(cursor) for number, cursor in cursors.items()}

    @property
    def cursors(self) -> dict[int, Cursor]:
        """How far each partition has been taken."""
        return {
            number: Cursor(partition.offset, partition.day, partition.taken.state)
            for number, partition in self._partitions.items()
        }

    def take(self, rows: int) -> list[pa.Table]:
        """The next rows: at least so many, up to the end of a message; fewer only if there are no more now.

        Raises:
            StateError: samples that were still to be taken are gone.
        """
        return self._take(rows, {})

    def take_to(self, cursors: Mapping[int, int]) -> list[pa.Table]:
        """All rows before an offset of each partition, in the order in which :meth:`take` gave them.

        Raises:
            StateError: some of them are gone.
        """
        return self._take(_ALL, cursors)

    def _take(self, rows: int, ends: Mapping[int, int]) -> list[pa.Table]:
        parts: list[pa.Table] = []
        waiting = set(ends or self._partitions)
        while rows > 0:
            waiting -= {number for number in waiting if not self._filled(number, ends.get(number))}
            if not waiting:
                break
            day, number = min((int(self._partitions[each].days[0]), each) for each in waiting)
            partition = self._partitions[number]
            offsets, count = partition.offsets(), int(partition.days.searchsorted(day, side="right"))
            if count > rows:
                count = int(offsets.searchsorted(offsets[rows - 1], side="right"))
            if number in ends:
                count = min(count, int(offsets.searchsorted(ends[number])))
            parts.append(partition.take(count))
            rows -= count
        return parts

    def _filled(self, number: int, end: int | None) -> bool:
        """Reads on until there is something to take of a partition before ``end``. False if there is nothing now."""
        partition = self._partitions[number]
        while partition.rows.num_rows == 0:
            if end is not None and partition.read_to >= end:
                return False
            chunk = self._log.next(number, partition.read_to)
            if chunk is None:
                if end is None:
                    return False
                raise StateError(
                    f"samples of partition {number}, offsets {partition.read_to} to {end}, are gone: start the reader "
                    "anew"
                )
            partition.read_to = chunk.end
            self._read(partition, chunk.rows)
        return end is None or int(partition.offsets()[0]) < end

    def _read(self, partition: _Partition, rows: pa.Table) -> None:
        if rows.num_rows == 0:
            return
        days = _days(rows)
        if self._wanted_days is not None:  # the archive does not even read the others
            first, last = self._wanted_days
            wanted = (days >= first) & (days <= last)
            if not wanted.any():
                return
            rows, days = rows.filter(pa.array(wanted)), days[wanted]
        days = np.maximum.accumulate(np.maximum(days, partition.read_day))
        partition.read_day = int(days[-1])
        # A message has one place in the order: that of its last row.
        offsets = rows.column("_offset").to_numpy()
        days = days[offsets.searchsorted(offsets, side="right") - 1]
        kept = self._mine(rows)
        rows, days = rows.filter(pa.array(kept)), days[kept]
        if rows.num_rows:
            new = partition.read.admit(rows)
            partition.rows, partition.days = rows.filter(pa.array(new)), days[new]


def _days(rows: pa.Table) -> npt.NDArray[np.int64]:
    """The day of each row's request, in days since 1970."""
    days: npt.NDArray[np.int64] = rows.column("request_time").cast(pa.date32()).cast(pa.int32()).to_numpy()
    return days.astype(np.int64)
