"""Re-keyed rows against what they were enriched with: every value of a streaming view, and a sample by the witness."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from dovetail.app.jobs import archived_events, scratch_folder
from dovetail.app.reports.archived import events_until
from dovetail.app.storage import Stores
from dovetail.features import Project
from dovetail.features.at_events.kept_views import began_at
from dovetail.features.at_events.rows_as_requests import Newest, Since, as_feature_set, as_requests, views_at_events
from dovetail.features.batch.pieces import Limits, PieceEvaluator, Span
from dovetail.features.batch.reproduce import reproduce
from dovetail.features.batch.witness import Witness, Witnessed
from dovetail.features.plan.definitions import FeatureColumn, Stream
from dovetail.features.stored.consistency import Consistency, FeatureConsistency, compare
from dovetail.platform.archive.dayfiles import DAY_US, NEVER_US, day_of, day_start_us
from dovetail.platform.rows.positions import SOURCE_COLUMNS, pack, seen_column

__all__ = ["RekeyedRows", "rekeyed_from_views"]


def rekeyed_from_views(project: Project) -> list[Stream]:
    """The re-keyed streams that are enriched from streaming views."""
    return [stream for stream in project.streams.values() if views_at_events(stream)]


class RekeyedRows:
    """The archived rows of one re-keyed stream, against the archive of the stream that it is made of."""

    def __init__(self, project: Project, stores: Stores, stream: Stream, limits: Limits) -> None:
        self._project, self._stores, self._stream, self._limits = project, stores, stream, limits
        self._source = stream.rekeyed_from or ""
        logs = archived_events(project, stores)
        self._rows, self._log = logs[stream.name], logs[self._source]
        self._features, self._views = as_feature_set(stream), views_at_events(stream)
        first = next(iter(self._views))
        self._begins = began_at(stores.online, stream.name, first)
        self._events = {self._source: Since(self._log, self._begins)}
        archived = stores.registry.progress(f"archive.{self._source}")
        self._ends = {partition: progress.next_offset for partition, progress in archived.items()}

    def days(self) -> list[str]:
        """The days that have rows."""
        return list(self._rows.days())

    def day(self, day: str) -> Iterator[Consistency]:
        """The verdict on each part of a day's rows. Rows of messages that are not archived yet are left out."""
        low = day_start_us(day)
        span = Span(self._rows.days()[day], low, low + DAY_US - 1)
        newest = self._newest(span)
        columns = {column.name: column for column in self._features.columns}

        def rows() -> Iterator[pa.Table]:
            for part in self._rows.read(None, span.low_us, span.high_us):
                if (mine := part.filter(pa.array(self._archived(part)))).num_rows:
                    yield mine

        def requests() -> Iterator[pa.Table]:
            return (as_requests(self._stream, part) for part in rows())

        evaluator = PieceEvaluator(
            self._features,
            list(columns.values()),
            self._views,
            {},
            self._events,
            _no_table,
            visibility="as_served",
            limits=self._limits,
            scratch=scratch_folder(self._project, f"rekeyed-{os.getpid()}"),
        )
        for part, (asked, values) in zip(rows(), evaluator.evaluate(requests, span), strict=True):
            kept = pa.array(np.arange(part.num_rows), mask=self._old(part, newest))
            given = part.select(list(columns)).cast(values.schema)
            for name in ("request_id", "item_id", "request_time"):
                given = given.append_column(f"_{name}", asked.column(name).cast(pa.string()))
            keys = ("_request_id", "_item_id", "_request_time")
            found = compare(given, values.take(kept), None, list(columns), asked, keys=keys)
            yield Consistency(tuple(map(self._of_rows, found.features)))

    def writers(self) -> dict[str, Callable[[pa.Table], str]]:
        """By feature, what makes the SQL by which the value of a row, given as its request, is computed by hand."""
        return {
            f"{self._stream.name}.{column.name}": partial(self._written, column) for column in self._features.columns
        }

    def _written(self, column: FeatureColumn, request: pa.Table) -> str:
        lateness_s = self._project.streams[self._source].allowed_lateness_us / 1_000_000
        head = f"-- as of the row itself; one that came more than {lateness_s:g} s late has NULL\n"
        log = {self._source: self._log}
        return head + reproduce(self._project, column, request, log, begins=self._begins)

    def _of_rows(self, found: FeatureConsistency) -> FeatureConsistency:
        """What was found of a column, named as one of the stream, its examples as rows."""
        examples = [replace(example, row_of=self._source) for example in found.examples]
        return replace(found, feature=f"{self._stream.name}.{found.feature}", examples=examples)

    def witness(self, count: int, verdict: Witnessed) -> None:
        """Add what the witness says of ``count`` rows, spread evenly over the archive."""
        total = sum(self._rows.days().values())
        wanted = sorted({number * total // min(count, total) for number in range(min(count, total))})
        witness = Witness(self._features, self._views, {}, self._events_until, errors_are_null=True)
        newest: dict[str, Newest] = {}
        start = 0
        for part in self._rows.read(None, None, NEVER_US):
            for at in (at - start for at in wanted if start <= at < start + part.num_rows):
                row = part.slice(at, 1)
                if not self._archived(row)[0]:
                    continue
                day = day_of(int(row.column(self._stream.event_time)[0].cast(pa.timestamp("us")).value))
                if day not in newest:
                    newest = {day: self._newest(Span(0, day_start_us(day), day_start_us(day) + DAY_US - 1))}
                asked = as_requests(self._stream, row)
                seen = {name: asked.column(seen_column(name))[0].as_py() for name in self._views}
                names = [name for name in asked.column_names if not name.startswith("_")]
                old = bool(self._old(row, newest[day])[0])
                found = (
                    dict.fromkeys(c.name for c in self._features.columns)
                    if old
                    else witness.values(asked.select(names), seen)
                )
                served = {column.name: row.column(column.name)[0].as_py() for column in self._features.columns}
                verdict.add(f"{self._stream.name} {asked.column('request_id')[0].as_py()}", served, found)
            start += part.num_rows

    def _events_until(self, stream: str, until_us: int, keys: Mapping[str, pa.Scalar]) -> pa.Table:
        return self._events[stream].known(events_until({stream: self._log}, stream, until_us, keys))

    def _archived(self, rows: pa.Table) -> npt.NDArray[np.bool_]:
        partitions, offsets = (np.asarray(rows.column(name).to_numpy(), dtype=np.int64) for name in SOURCE_COLUMNS[:2])
        ends = np.array([self._ends.get(p, 0) for p in range(int(partitions.max(initial=0)) + 1)])
        return np.asarray(offsets < ends[partitions])

    def _newest(self, span: Span) -> Newest:
        """How far each partition's clock had come, as far as it matters to rows of ``span``."""
        time = self._stream.event_time
        until = span.high_us + self._project.streams[self._source].allowed_lateness_us
        end = until // DAY_US * DAY_US + DAY_US - 1
        events, later = self._events[self._source], dict[int, int]()
        for file in self._stores.registry.files(self._source):
            begin = events.begins.get(file.partition, 0)
            if day_start_us(file.day) <= end or file.last_offset < begin:
                continue
            first = _place(file.first_offset)
            if file.first_offset < begin:
                low = day_start_us(file.day)
                parts = events.read([time, "_partition", "_offset"], low, low + DAY_US - 1)
                mine = [part.filter(pc.equal(part.column("_partition"), file.partition)) for part in parts]
                found = [pc.min(part.column("_offset")).as_py() for part in mine if part.num_rows]
                first = min(found, default=NEVER_US)
            later[file.partition] = min(later.get(file.partition, first), first)
        return Newest(events.read([time, "_partition", "_offset"], span.low_us, end), time, later)

    def _old(self, rows: pa.Table, newest: Newest) -> npt.NDArray[np.bool_]:
        partitions, offsets, numbers = (np.asarray(rows.column(c).to_numpy(), dtype=np.int64) for c in SOURCE_COLUMNS)
        places = pack(offsets, numbers.astype(np.int32))
        times = rows.column(self._stream.event_time).cast(pa.timestamp("us")).cast(pa.int64())
        lateness = self._project.streams[self._source].allowed_lateness_us
        return newest.too_old(partitions, places, np.asarray(times.to_numpy(), dtype=np.int64), lateness)


def _place(offset: int) -> int:
    """The place of the first row of a message."""
    return int(pack(np.array([offset], dtype=np.int64), np.zeros(1, dtype=np.int32))[0])


def _no_table(view: str, version_us: int) -> pa.Table:
    raise AssertionError(f"{view} at {version_us}: only streaming views are asked")
