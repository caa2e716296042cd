"""The first two stages of a span: rows go to the tasks of their keys, which evaluate and send values to their days."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

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
from dovetail.spark.frames import (
    ERROR,
    EVENTS,
    HAPPENED,
    MARK,
    PROBES,
    VALUES,
    Frame,
    Held,
    Outbox,
    opened,
    sealed,
)
from dovetail.spark.routing import Route
from dovetail.spark.row_numbers import CHUNK, day_of_chunk, first_of
from dovetail.spark.sent import EventPart, RequestPart, SentWork, items_of, task_folder, told

__all__ = ["LATE", "Evaluate", "Ship"]

#: The column of values that says whether there are others by event time.
LATE = "_late"


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
        start = first_of(item.number, item.split)
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
        values, happened = evaluate_piece(view, events, probes, needed, visibility, self.work.limits.piece)
        if self.work.both:
            late = np.isin(values.column(ROW).to_numpy(), happened.column(ROW).to_numpy())
            yield from _to_days(VALUES, task, values.append_column(LATE, pa.array(late)))
            if happened.num_rows:
                yield from _to_days(HAPPENED, task, happened)
        else:
            yield from _to_days(VALUES, task, values)


def _to_days(kind: int, task: int, values: pa.Table) -> Iterator[Frame]:
    """The frames of values, of one at least, by the day of their probe."""
    numbers = values.column(ROW).to_numpy()
    if (np.diff(numbers) < 0).any():
        values = values.take(pa.array(np.argsort(numbers, kind="stable")))
        numbers = values.column(ROW).to_numpy()
    chunks, starts = np.unique(numbers >> CHUNK, return_index=True)
    for chunk, start, end in zip(chunks.tolist(), starts, [*starts[1:], len(numbers)], strict=True):
        for part, payload in enumerate(sealed(values.slice(int(start), int(end - start)))):
            yield Frame(day_of_chunk(chunk), kind, chunk, (task << 16) + part, payload)


def _probes_of(work: SentWork, view: StreamView) -> pa.Schema:
    return probe_schema(view, work.requests.needed, work.visibility)
