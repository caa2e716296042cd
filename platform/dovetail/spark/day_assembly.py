"""The last stage of a span: a day takes its values in order, puts them beside its requests, and hands them on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from dovetail.features.batch.one_view import ROW
from dovetail.features.plan.definitions import StreamView
from dovetail.features.stored.day_engine import Consumer, Part, VersionTables
from dovetail.platform.errors import StateError
from dovetail.spark.frames import ERROR, HAPPENED, MARK, RESULT, VALUES, Frame, opened, rows_of
from dovetail.spark.routing import Route
from dovetail.spark.row_numbers import CHUNK, first_of
from dovetail.spark.sent import SentWork, task_folder, told
from dovetail.spark.tasks import LATE

__all__ = ["Finish"]


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
        self._schemas = {
            (kind, name): _values_of(work, view, kind)
            for name, view in work.stream.items()
            for kind in (VALUES, HAPPENED)
        }
        self._rest = {which: schema.empty_table() for which, schema in self._schemas.items()}
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

    def parts(self) -> Iterator[Part]:
        """The day's request rows and their columns, as ``RequestLog.rows`` cuts them."""
        day = self._work.days[self._number]
        for split in range(self._work.requests.splits(day)):
            start = first_of(self._number, split)
            for table in self._work.requests.split(day, split):
                end = start + table.num_rows
                with self._work.within(self._folder):
                    self._take_below(end)
                    found = self._values(start, end)
                    inputs = self._assembly.inputs(table, found)
                    values = self._assembly.evaluate(inputs)
                    happened = self._assembly.evaluate_again(inputs, values, self._late(start, end, found))
                yield Part(table, values, happened)
                start = end
        if self._next is not None or any(rest.num_rows for rest in self._rest.values()):
            raise StateError(f"{day}: more values came back than there are requests; nothing of the day is kept")

    def _take_below(self, end: int) -> None:
        """Open the frames that may have values of rows before ``end``."""
        loaded: dict[tuple[int, str], list[pa.Table]] = {which: [] for which in self._schemas}
        while self._next is not None and self._next.a <= (end - 1) >> CHUNK:
            name = max(entry for entry in self._firsts if entry[0] <= self._next.b >> 16)[1]
            which = (self._next.kind, name)
            loaded[which].append(rows_of(self._next, self._schemas[which]))
            self._next = next(self._frames, None)
        for which, parts in loaded.items():
            if parts:
                rows = pa.concat_tables([self._rest[which], *parts])
                self._rest[which] = rows.take(pa.array(np.argsort(rows.column(ROW).to_numpy(), kind="stable")))

    def _values(self, start: int, end: int) -> Mapping[str, pa.Table]:
        """Each view's values of the rows ``start … end - 1``."""
        found = {}
        for name in self._work.stream:
            found[name] = self._cut(VALUES, name, end)
            if not np.array_equal(found[name].column(ROW).to_numpy(), np.arange(start, end)):
                raise StateError(
                    f"{self._work.days[self._number]}: of {end - start} requests, values of {name} came back for "
                    f"{found[name].num_rows}; nothing of the day is kept. Requests or their files changed meanwhile: "
                    "run it again"
                )
        return found

    def _late(
        self, start: int, end: int, values: Mapping[str, pa.Table]
    ) -> dict[str, tuple[pa.Table, npt.NDArray[np.int64]]]:
        """Each view's values by event time of rows whose value says that there are some, and which rows of them."""
        found = {}
        for name in self._work.stream if self._work.both else ():
            happened = self._cut(HAPPENED, name, end)
            wanted = values[name].filter(values[name].column(LATE)).column(ROW).to_numpy()
            if not np.array_equal(happened.column(ROW).to_numpy(), wanted):
                raise StateError(
                    f"{self._work.days[self._number]}: of {len(wanted)} values of {name} by event time, "
                    f"{happened.num_rows} came back; nothing of the day is kept. Run it again"
                )
            if len(wanted):
                found[name] = (happened, wanted - start)
        return found

    def _cut(self, kind: int, name: str, end: int) -> pa.Table:
        """The rows before ``end`` of what is there, which goes on behind them."""
        rest = self._rest[kind, name]
        cut = int(np.searchsorted(rest.column(ROW).to_numpy(), end))
        self._rest[kind, name] = rest.slice(cut)
        return rest.slice(0, cut)


def _values_of(work: SentWork, view: StreamView, kind: int) -> pa.Schema:
    fields = [view.output_schema.field(name) for name in work.needed[view.name]]
    flag = [pa.field(LATE, pa.bool_())] if work.both and kind == VALUES else []
    return pa.schema([*fields, pa.field(ROW, pa.int64()), *flag])
