"""Prepared inputs read in the order of arrival, a slice at a time, with an account of what came late."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from dovetail.app.doors.door import Door
from dovetail.app.replay.prepared import ARRIVAL_US
from dovetail.platform.rows.conversion import conform

__all__ = ["Arrived", "Lateness", "Source"]

Int64 = npt.NDArray[np.int64]
_ROWS_AT_ONCE = 16_384


@dataclass(slots=True)
class Lateness:
    """Rows of an input: those that came after one with a later event time, by how much at most, and those beyond
    ``allowed`` (µs)."""

    allowed: int
    rows: int = 0
    out_of_order: int = 0
    beyond: int = 0
    most_us: int = 0
    newest_us: int | None = None

    def add(self, times: Int64) -> None:
        """Count rows, in the order of arrival, by their event times (µs)."""
        if len(times) == 0:
            return
        first = times[0] if self.newest_us is None else self.newest_us
        newest = np.maximum.accumulate(np.concatenate(([first], times)))
        late = newest[:-1] - times
        self.rows += len(times)
        self.out_of_order += int((late > 0).sum())
        self.beyond += int((late > self.allowed).sum())
        self.most_us = max(self.most_us, int(late.max()))
        self.newest_us = int(newest[-1])


@dataclass(frozen=True, slots=True)
class Arrived:
    """Rows that arrived one after the other: as declared, with when they arrived and their event times (int64 µs)."""

    rows: pa.Table
    arrival: Int64
    times: Int64


class Source:
    """A prepared file. Holds as many rows as a slice may have, and the event times of all of them."""

    def __init__(self, file: Path, door: Door, allowed_lateness_us: int) -> None:
        self.door = door
        self.lateness = Lateness(allowed_lateness_us)
        self._file = pq.ParquetFile(file)
        self._batches = self._file.iter_batches(_ROWS_AT_ONCE)
        self._rows = door.intake.schema.arrow.empty_table()
        self.arrival: Int64 = np.zeros(0, dtype=np.int64)
        self.times: Int64 = np.zeros(0, dtype=np.int64)
        column = self._file.read(columns=[door.time_column]).column(0)
        every = np.asarray(column.cast(pa.timestamp("us")).cast(pa.int64()).to_numpy(), dtype=np.int64)
        # The oldest event time at or after each row, in the order of arrival.
        self._oldest = np.minimum.accumulate(every[::-1])[::-1]
        self._taken = 0

    @property
    def next_arrival(self) -> int | None:
        """When the next row arrives; None when there is none."""
        self._fill(0)
        return int(self.arrival[0]) if len(self.arrival) else None

    @property
    def oldest_ahead(self) -> int | None:
        """The oldest event time of all rows that have not been taken; None when there is none."""
        return int(self._oldest[self._taken]) if self._taken < len(self._oldest) else None

    def look(self, end: int, most: int) -> int:
        """Have every row at hand that arrives before ``end``; the end that allows no more than ``most`` of them.

        Rows of one instant are never parted, so there may be more.
        """
        while self._fill(len(self.arrival)) and self.arrival[-1] < end and len(self.arrival) <= most:
            pass
        if int(np.searchsorted(self.arrival, end)) <= most:
            return end
        cut = int(self.arrival[most])
        if cut > self.arrival[0]:
            return cut
        # All of one instant: to its end.
        while self._fill(len(self.arrival)) and self.arrival[-1] == cut:
            pass
        after = int(np.searchsorted(self.arrival, cut, side="right"))
        return int(self.arrival[after]) if after < len(self.arrival) else cut + 1

    def take(self, end: int) -> Arrived:
        """The rows at hand that arrive before ``end``, which are no longer at hand."""
        stop = int(np.searchsorted(self.arrival, end))
        taken = Arrived(self._rows.slice(0, stop), self.arrival[:stop], self.times[:stop])
        self._rows, self.arrival, self.times = self._rows.slice(stop), self.arrival[stop:], self.times[stop:]
        self._taken += stop
        self.lateness.add(taken.times)
        return taken

    def close(self) -> None:
        """Release the file."""
        self._file.close()

    def _fill(self, have: int) -> bool:
        """Read on while there are no more than ``have`` rows at hand; whether there are more then."""
        while len(self.arrival) <= have:
            batch = next(self._batches, None)
            if batch is None:
                return False
            table = pa.table(batch)
            rows = conform(table, self.door.intake.schema)
            times = pc.cast(rows.column(self.door.time_column).cast(pa.timestamp("us")), pa.int64()).to_numpy()
            self._rows = pa.concat_tables([self._rows, rows])
            self.arrival = np.concatenate((self.arrival, table.column(ARRIVAL_US).to_numpy()))
            self.times = np.concatenate((self.times, times))
        return True
