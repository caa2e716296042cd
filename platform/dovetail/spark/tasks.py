"""The three stages of a span: rows go to the tasks of their keys, tasks evaluate, days take their values in order.

A request row has one number in a span: its day, its split of the day, its row in the split. Values are put back by it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from dovetail.features.batch.one_view import (
    ROW,
    earliest_read,
    evaluate_piece,
    event_schema,
    probe_rows,
    probe_schema,
    times_of,
    view_parts,
)
from dovetail.features.batch.pieces import KEY_FILTER
from dovetail.features.duck.scratch import KeyHash
from dovetail.features.plan.definitions import StreamView
from dovetail.features.stored.day_engine import Consumer, VersionTables
from dovetail.platform.errors import StateError
from dovetail.spark.frames import (
    ERROR,
    EVENTS,
    MARK,
    PROBES,
    RESULT,
    VALUES,
    Frame,
    Held,
    Outbox,
    opened,
    rows_of,
    sealed,
)
from dovetail.spark.routing import Route
from dovetail.spark.sent import EventPart, RequestPart, SentWork, items_of, task_folder, told

__all__ = ["Evaluate", "Finish", "Ship"]

_DAY, _SPLIT, _CHUNK = 48, 32, 20


@dataclass(frozen=True, slots=True)
class Ship:
    """Reads requests and events and sends each row to the task of its key."""

    work: SentWork
    items: Sequence[RequestPart | EventPart]
    routes: Mapping[str, Route]
    #: By view, bool ``[2^24]`` packed: the low bits of the hashes of keys that some probe has.
    keys: Mapping[str, bytes]

    def __call__(self, given: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        yield from told(1, self._frames(given))

    def _frames(self, given: Iterator[pa.RecordBatch]) -> Iterator[Frame]:
        hashes = {name: KeyHash(view.entity_types, 1) for name, view in self.work.stream.items()}
        known = {
            name: np.unpackbits(np.frombuffer(packed, dtype=np.uint8)).astype(np.bool_)
            for name, packed in self.keys.items()
        }
        with task_folder() as folder, self.work.within(folder):
            for place, item in items_of(given, self.items):
                if isinstance(item, RequestPart):
                    yield Frame(0, MARK, item.number, 0, b"")
                    yield from self._requests(item, place, hashes)
                else:
                    yield from self._events(item, place, hashes[item.view], known[item.view])

    def _requests(self, item: RequestPart, place: int, hashes: Mapping[str, KeyHash]) -> Iterator[Frame]:
        out = {name: Outbox(PROBES, place) for name in self.work.stream}
        start = (item.number << _DAY) + (item.split << _SPLIT)
        for table in self.work.requests.split(item.day, item.split):
            times = times_of(table, "request_time")
            rows = np.arange(start, start + table.num_rows, dtype=np.int64)
            start += table.num_rows
            for name, view in self.work.stream.items():
                keys = hashes[name].of([table.column(column) for column in view.entity])
                probes = probe_rows(view, table, rows, self.work.visibility)
                yield from out[name].put(probes, self.routes[name].probes(keys, times))
        for box in out.values():
            yield from box.rest()

    def _events(self, item: EventPart, place: int, hashes: KeyHash, known: npt.NDArray[np.bool_]) -> Iterator[Frame]:
        view, out = self.work.stream[item.view], Outbox(EVENTS, place)
        reach = earliest_read(view, self.work.low_us)
        for part in view_parts(view, item.branch, item.files, reach, self.work.high_us, self.work.visibility):
            keys = hashes.of([part.column(column) for column in view.entity])
            wanted = known[keys & KEY_FILTER]
            part, keys = part.filter(pa.array(wanted)), keys[wanted]
            rows, to = self.routes[item.view].events(keys, times_of(part, view.stream.event_time))
            yield from out.put(
                part if len(rows) == part.num_rows and not _copied(rows) else part.take(pa.array(rows)), to
            )
        yield from out.rest()


def _copied(rows: npt.NDArray[np.int64]) -> bool:
    return bool(len(rows)) and (rows[0] != 0 or rows[-1] != len(rows) - 1 or bool((np.diff(rows) != 1).any()))


@dataclass(frozen=True, slots=True)
class Evaluate:
    """Evaluates a view over the probes and events of a task, and sends the values to their days."""

    work: SentWork
    routes: Mapping[str, Route]

    def __call__(self, given: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        yield from told(2, self._frames(opened(given)))

    def _frames(self, frames: Iterator[Frame]) -> Iterator[Frame]:
        held: dict[int, Held] = {}
        days: set[int] = set()
        with task_folder() as folder, self.work.within(folder):
            for frame in frames:
                if frame.kind == ERROR:  # rows are missing: no day is right
                    yield from (frame._replace(to=day) for day in range(len(self.work.days)))
                elif frame.kind == MARK:
                    days.add(frame.a)
                else:
                    if frame.to not in held:
                        held[frame.to] = Held(folder)
                    held[frame.to].put(frame)
            for day in sorted(days):
                yield Frame(day, MARK, -1, 0, b"")
            for task, rows in sorted(held.items()):
                yield from self._values(task, rows)
                rows.close()

    def _values(self, task: int, held: Held) -> Iterator[Frame]:
        view = next(self.work.stream[name] for name, r in self.routes.items() if r.first <= task < r.first + r.tasks)
        visibility = self.work.visibility
        probes = held.rows(PROBES, _probes_of(self.work, view))
        if not probes.num_rows:
            return
        events = held.rows(EVENTS, event_schema(view, visibility))
        needed = self.work.needed[view.name]
        values, _ = evaluate_piece(view, events, probes, needed, visibility, self.work.limits.piece)
        numbers = values.column(ROW).to_numpy()
        if (np.diff(numbers) < 0).any():
            values = values.take(pa.array(np.argsort(numbers, kind="stable")))
            numbers = values.column(ROW).to_numpy()
        chunks, starts = np.unique(numbers >> _CHUNK, return_index=True)
        for chunk, start, end in zip(chunks.tolist(), starts, [*starts[1:], len(numbers)], strict=True):
            for part, payload in enumerate(sealed(values.slice(int(start), int(end - start)))):
                yield Frame(chunk >> (_DAY - _CHUNK), VALUES, chunk, (task << 16) + part, payload)


def _probes_of(work: SentWork, view: StreamView) -> pa.Schema:
    return probe_schema(view, work.requests.needed, work.visibility)


@dataclass(frozen=True, slots=True)
class Finish:
    """Puts a day's rows together with their values and hands them to the consumer."""

    work: SentWork
    routes: Mapping[str, Route]
    versions: VersionTables
    consume: Consumer

    def __call__(self, given: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        yield from told(3, self._frames(opened(given)))

    def _frames(self, frames: Iterator[Frame]) -> Iterator[Frame]:
        with task_folder() as folder:
            for to, mine in groupby(frames, key=lambda frame: frame.to):
                reader = _DayReader(self.work, self.routes, self.versions, to, mine, folder)
                if errors := reader.errors():
                    yield from errors
                    continue
                yield Frame.of(to, RESULT, self.consume(self.work.days[to], reader.parts()))


class _DayReader:
    """Reads a day's requests and, in step with them, the frames of their values."""

    def __init__(
        self,
        work: SentWork,
        routes: Mapping[str, Route],
        versions: VersionTables,
        number: int,
        frames: Iterator[Frame],
        folder: Path,
    ) -> None:
        self._work, self._frames, self._number, self._folder = work, frames, number, folder
        self._schemas = {name: _values_of(work, view) for name, view in work.stream.items()}
        self._rest = {name: schema.empty_table() for name, schema in self._schemas.items()}
        self._firsts = sorted((route.first, name) for name, route in routes.items())
        self._assembly = work.assembly(versions.table)
        self._next: Frame | None = None

    def errors(self) -> list[Frame]:
        """The errors of earlier stages, which come before all values."""
        found = []
        for frame in self._frames:
            if frame.kind == ERROR:
                found.append(frame)
            elif frame.kind != MARK:
                self._next = frame
                break
        return found

    def parts(self) -> Iterator[tuple[pa.Table, pa.Table]]:
        """The day's request rows and their columns, as ``RequestLog.rows`` cuts them."""
        day = self._work.days[self._number]
        for split in range(self._work.requests.splits(day)):
            start = (self._number << _DAY) + (split << _SPLIT)
            for table in self._work.requests.split(day, split):
                end = start + table.num_rows
                with self._work.within(self._folder):
                    values = self._assembly.assemble(table, self._below(start, end))
                yield table, values
                start = end
        if self._next is not None or any(rest.num_rows for rest in self._rest.values()):
            raise StateError(f"{day}: more values came back than there are requests; nothing of the day is kept")

    def _below(self, start: int, end: int) -> Mapping[str, pa.Table]:
        """Each view's values of the rows ``start … end - 1``."""
        loaded: dict[str, list[pa.Table]] = {name: [] for name in self._schemas}
        while self._next is not None and self._next.a <= (end - 1) >> _CHUNK:
            name = max(entry for entry in self._firsts if entry[0] <= self._next.b >> 16)[1]
            loaded[name].append(rows_of(self._next, self._schemas[name]))
            self._next = next(self._frames, None)
        found = {}
        for name, parts in loaded.items():
            rows = pa.concat_tables([self._rest[name], *parts])
            numbers = rows.column(ROW).to_numpy()
            if parts:
                order = np.argsort(numbers, kind="stable")
                rows, numbers = rows.take(pa.array(order)), numbers[order]
            cut = int(np.searchsorted(numbers, end))
            if not np.array_equal(numbers[:cut], np.arange(start, end)):
                raise StateError(
                    f"{self._work.days[self._number]}: of {end - start} requests, values of {name} came back for "
                    f"{cut}; nothing of the day is kept. Requests or their files changed meanwhile: run it again"
                )
            found[name], self._rest[name] = rows.slice(0, cut), rows.slice(cut)
        return found


def _values_of(work: SentWork, view: StreamView) -> pa.Schema:
    fields = [view.output_schema.field(name) for name in work.needed[view.name]]
    return pa.schema([*fields, pa.field(ROW, pa.int64())])
