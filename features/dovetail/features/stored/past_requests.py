"""Past requests to evaluate features for: where they are, and how they become rows.

Requests come nested, as they travel (``candidates`` a list), or flat, one row per candidate; a file of the one or the
other is told by its columns. Samples get their requests' columns by ``(request_id, item_id)``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import pyarrow as pa

from dovetail.features.plan.request import CANDIDATES, flatten_requests
from dovetail.features.stored.keyed import match_rows
from dovetail.platform.archive.dayfiles import DAY_US, DayFiles, day_start_us
from dovetail.platform.errors import WireError
from dovetail.platform.rows.positions import seen_columns

__all__ = ["CARRIED", "RequestLog", "carried"]

#: Prefix of the columns that samples bring along, in what :meth:`RequestLog.rows` gives.
CARRIED = "_sample."
_KEYS = ("request_id", "item_id")


def carried(table: pa.Table) -> pa.Table:
    """The samples' own columns of rows that :meth:`RequestLog.rows` gave."""
    names = [name for name in table.column_names if name.startswith(CARRIED)]
    return table.select(names).rename_columns([name.removeprefix(CARRIED) for name in names])


class RequestLog:
    """Request rows by day, one per candidate, with the columns that are ``needed``.

    Args:
        files: requests (or snapshots, with ``shape``) by ``request_time``.
        needed: the flat request's fields that features read, which every row has. Others need not be there.
        shape: from rows of the files to flat request rows, at most one of each; by default nested requests are
            flattened.
        reads: with ``shape``, the columns that it reads of files that have them. Default: all.
        samples: when given, the rows are those of the samples, in their order.
    """

    def __init__(
        self,
        files: DayFiles,
        needed: pa.Schema,
        *,
        shape: Callable[[pa.Table], pa.Table] | None = None,
        reads: Sequence[str] | None = None,
        samples: DayFiles | None = None,
    ) -> None:
        self.files = files
        self.samples = samples
        self.needed = needed
        self._shape = shape
        self._reads = reads

    def days(self) -> list[str]:
        """The days that have rows."""
        return list((self.samples or self.files).days())

    def identity(self, day: str) -> str:
        """Equal as long as the day's rows are the same."""
        low, high = _bounds(day)
        own = self.files.identity(low, high)
        return own if self.samples is None else f"{own}+{self.samples.identity(low, high)}"

    def rows(self, days: Sequence[str]) -> Iterator[pa.Table]:
        """The rows of these days, day by day; no table has rows of two.

        Raises:
            WireError: a needed column is missing, or a sample has no request.
        """
        for day in days:
            yield from self._requests(day, self.files) if self.samples is None else self._sampled(day, self.samples)

    def at_most(self, days: Sequence[str]) -> int:
        """At least as many rows as :meth:`rows` gives. Requests that may be nested are read for it."""
        if self.samples is None and self._shape is None:
            return sum(table.num_rows for table in self.rows(days))
        known = (self.samples or self.files).days()
        return sum(known.get(day, 0) for day in days)

    def portable(self) -> RequestLog:
        """The same rows, as a value that other processes can be sent."""
        samples = None if self.samples is None else self.samples.portable()
        return RequestLog(self.files.portable(), self.needed, shape=self._shape, reads=self._reads, samples=samples)

    def splits(self, day: str) -> int:
        """In how many parts :meth:`split` gives the day; samples are matched with all requests of their day."""
        return len(self.files.touching(*_bounds(day))) if self.samples is None else 1

    def split(self, day: str, number: int) -> Iterator[pa.Table]:
        """The tables of one of the day's splits: one split after the other, they are those of :meth:`rows`."""
        if self.samples is not None:
            return self._sampled(day, self.samples)
        return self._requests(day, self.files.alone(self.files.touching(*_bounds(day))[number]))

    def _requests(self, day: str, files: DayFiles) -> Iterator[pa.Table]:
        for table in files.read(None if self._reads is None else (), *_bounds(day), optional=self._reads or ()):
            rows = _flat(table) if self._shape is None else self._shape(table)
            missing = [field.name for field in self.needed if field.name not in rows.column_names]
            if missing:
                raise WireError(
                    f"the requests of {day} have no column {missing[0]!r}, which the features read; "
                    f"they have {', '.join(rows.column_names)}"
                )
            if rows.num_rows:
                wanted = [rows.column(field.name).cast(field.type) for field in self.needed]
                kept = pa.table(wanted, names=self.needed.names)
                for name in seen_columns(rows.column_names):
                    kept = kept.append_column(name, rows.column(name))
                yield kept

    def _sampled(self, day: str, samples: DayFiles) -> Iterator[pa.Table]:
        parts = list(self._requests(day, self.files))
        requests = pa.concat_tables(parts).combine_chunks() if parts else self.needed.empty_table()
        for table in samples.read(None, *_bounds(day)):
            found = match_rows(table, requests, _KEYS)
            lost = int((found < 0).sum())
            if lost:
                at = int((found < 0).argmax())
                where = ", ".join(f"{name} {table.column(name)[at].as_py()!r}" for name in _KEYS)
                raise WireError(f"{lost} samples of {day} have no request, the first is {where}; give their requests")
            rows = requests.take(pa.array(found))
            for name in table.column_names:
                rows = rows.append_column(f"{CARRIED}{name}", table.column(name))
            yield rows


def _flat(table: pa.Table) -> pa.Table:
    return flatten_requests(table) if CANDIDATES in table.column_names else table


def _bounds(day: str) -> tuple[int, int]:
    start = day_start_us(day)
    return start, start + DAY_US - 1
