"""A feature set for more requests and events than fit in memory: the same values, in pieces.

A streaming view's value depends on its key's events alone. So events and requests are cut by hash of the view's entity
into pieces that fit, each is evaluated whole by :func:`~.streaming.evaluate_view`, and the values are put back in the
order of the requests. A piece that is still too large, because of a hot key, is cut by time as well: requests of a
stretch of time, and the events their windows reach back to. No value depends on where the cuts are.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from dovetail.features.batch.point_in_time import ColumnEvaluator
from dovetail.features.batch.relation import cleaned_rows
from dovetail.features.batch.streaming import Visibility, evaluate_rows, positions_read
from dovetail.features.batch.views import lookup_as_of
from dovetail.features.duck.scratch import Buckets, Cursor, KeyHash
from dovetail.features.language.named_columns import columns_read
from dovetail.features.plan.definitions import (
    BatchView,
    Branch,
    FeatureColumn,
    FeatureSet,
    StreamView,
)
from dovetail.platform.duck.hermetic import Resources, resources
from dovetail.platform.errors import WireError
from dovetail.platform.rows.positions import own_position_columns, seen_column

__all__ = ["EventLog", "Limits", "OnStep", "PieceEvaluator", "Rows", "Span", "earliest_read"]

#: Request rows, in parts, as often as asked, always the same.
Rows = Callable[[], Iterator[pa.Table]]

#: Called with (what, done, of); ``of`` 0 when it is not known.
OnStep = Callable[[str, int, int], None]

_ROW = "_row"
_SEEN = "_seen"
_VALUES_AT_ONCE = 8_192
#: Low bits of a key's hash by which events of keys that no probe has are left out.
_FILTER = np.uint64((1 << 24) - 1)


@dataclass(frozen=True, slots=True)
class Limits:
    """The memory and threads of an evaluation. No value depends on them.

    ``memory_bytes`` is what DuckDB may hold; ``rows_per_piece`` how many events and requests are in memory at once
    (default: as many as memory allows at 1 KiB each, which is what a dozen aggregates take).
    """

    memory_bytes: int = 1 << 30
    threads: int | None = None
    rows_per_piece: int | None = None

    @property
    def piece(self) -> int:
        """Rows of a piece."""
        return self.rows_per_piece if self.rows_per_piece is not None else max(1, self.memory_bytes >> 10)


def earliest_read(view: StreamView, time_us: int) -> int | None:
    """The earliest event time that a value of ``view`` at ``time_us`` depends on; None when there is no bound."""
    if not all(window.bounded_us for window in view.windows):
        return None
    return min((window.lower_bound(time_us) for window in view.windows), default=time_us)


class Span(NamedTuple):
    """A number of request rows, and the times between which they lie (µs, inclusive)."""

    rows: int
    low_us: int
    high_us: int


class EventLog(Protocol):
    """The events of a stream, by their time."""

    def rows(self, low_us: int | None, high_us: int) -> int:
        """At least as many rows as have their time in ``[low, high]``."""
        ...

    def read(self, columns: Sequence[str] | None, low_us: int | None, high_us: int) -> Iterator[pa.Table]:
        """Rows with ``low <= time <= high`` in bounded parts; all columns, or those named."""
        ...


class PieceEvaluator:
    """Evaluates ``columns`` of a feature set for request rows, in parts.

    Args:
        events: by stream, with position columns for ``as_served`` and for views that order events.
        table_of: gives a batch view's result as of a version (µs).
        scratch: a folder for files that are needed meanwhile; it is emptied.
        on_step: told how the work proceeds.
    """

    def __init__(
        self,
        features: FeatureSet,
        columns: Sequence[FeatureColumn],
        stream_views: Mapping[str, StreamView],
        batch_views: Mapping[str, BatchView],
        events: Mapping[str, EventLog],
        table_of: Callable[[str, int], pa.Table],
        *,
        visibility: Visibility = "event_time",
        limits: Limits | None = None,
        scratch: Path,
        on_step: OnStep | None = None,
    ) -> None:
        self._features, self._columns, self._events, self._table_of = features, columns, events, table_of
        self._visibility, self._limits, self._scratch = visibility, limits or Limits(), scratch
        self._on_step = on_step or _silent
        needed: dict[str, list[str]] = {}
        for column in columns:
            for relation, name in column.references:
                needed.setdefault(relation, []).append(name)
        joined = [join.view for join in features.joins if join.view in needed]
        self._stream = {v: stream_views[v] for v in joined if v in stream_views}
        self._batch = {v: batch_views[v] for v in joined if v in batch_views}
        self._needed = {view: list(dict.fromkeys(needed[view])) for view in joined}

    def evaluate(self, rows: Rows, span: Span) -> Iterator[tuple[pa.Table, pa.Table]]:
        """Each table that ``rows()`` gives, and its ``columns``; ``span`` says how many rows there are, and of when.

        Raises:
            WireError, StateError, DefinitionError: as the views' evaluation.
        """
        shutil.rmtree(self._scratch, ignore_errors=True)
        self._scratch.mkdir(parents=True)
        granted = Resources(self._limits.threads, self._limits.memory_bytes, self._scratch / "duckdb")
        try:
            with resources(granted):
                cursors = {name: self._view(view, rows, span) for name, view in self._stream.items()}
                lane = ColumnEvaluator(self._features, self._columns)
            start = 0
            for table in rows():
                end = start + table.num_rows
                # A generator must not hold the grant while its caller runs.
                with resources(granted):
                    values = self._assembled(table, end, cursors, lane)
                yield table, values
                start = end
            for opened in cursors.values():
                for cursor in opened:
                    cursor.close()
        finally:
            shutil.rmtree(self._scratch, ignore_errors=True)

    def _assembled(
        self, table: pa.Table, end: int, cursors: Mapping[str, list[Cursor]], lane: ColumnEvaluator
    ) -> pa.Table:
        joined = table
        if not table.num_rows:
            return pa.schema([pa.field(c.name, c.type) for c in self._columns]).empty_table()
        for view, opened in cursors.items():
            parts = pa.concat_tables([cursor.below(end) for cursor in opened])
            values = parts.take(pa.array(np.argsort(parts.column(_ROW).to_numpy(), kind="stable")))
            for name in self._needed[view]:
                joined = joined.append_column(f"{view}.{name}", values.column(name))
        for name, batch_view in self._batch.items():
            found = lookup_as_of(batch_view, table, lambda version, name=name: self._table_of(name, version))  # type: ignore[misc]
            for column in self._needed[name]:
                joined = joined.append_column(f"{name}.{column}", found.column(column))
        return lane.evaluate(joined)

    # --- one view ------------------------------------------------------------------------------------------------

    def _view(self, view: StreamView, rows: Rows, span: Span) -> list[Cursor]:
        """Every probe's values of ``view``, in files, by probe."""
        reach = earliest_read(view, span.low_us)
        logs = [self._events[branch.stream.name] for branch in view.reads]
        total = span.rows + sum(log.rows(reach, span.high_us) for log in logs)
        cut = KeyHash(view.entity_types, max(1, -(-total // self._limits.piece)))
        probes, keys = self._cut_probes(view, rows, cut)
        schema = _event_schema(view, self._visibility)
        files = Buckets(self._scratch / view.name / "events", cut.buckets)
        for number, part in enumerate(self._parts(view, reach, span.high_us)):
            hashes = cut.of([part.column(column) for column in view.entity])
            wanted = keys[hashes & _FILTER]  # a few others pass, too: they are nobody's events
            part = part.select(schema.names).cast(schema)
            files.write(part.filter(pa.array(wanted)), cut.bucket(hashes[wanted]))
            self._on_step(f"{view.name}: events", number + 1, 0)
        files.close()
        cursors = []
        for bucket in range(cut.buckets):
            asked = probes.read(bucket, pa.schema([]))
            if asked.num_rows:
                values = self._piece(view, files.read(bucket, schema), asked)
                path = self._scratch / view.name / f"values-{bucket:05d}.arrow"
                with pa.ipc.new_file(str(path), values.schema) as sink:
                    sink.write_table(values, max_chunksize=_VALUES_AT_ONCE)
                cursors.append(Cursor(path, _ROW))
            files.drop(bucket)
            probes.drop(bucket)
            self._on_step(f"{view.name}: values", bucket + 1, cut.buckets)
        return cursors

    def _parts(self, view: StreamView, low_us: int | None, high_us: int) -> Iterator[pa.Table]:
        """The view's rows of that time, in bounded parts."""
        for number, branch in enumerate(view.reads):
            columns = columns_read(view, branch)
            given = _given_schema(view, branch, columns, self._visibility)
            for part in self._events[branch.stream.name].read(given.names, low_us, high_us):
                part = part.select(given.names).cast(given)
                yield cleaned_rows(view, number, _with_all_columns(branch.stream.schema.arrow, part))

    def _cut_probes(self, view: StreamView, rows: Rows, cut: KeyHash) -> tuple[Buckets, npt.NDArray[np.bool_]]:
        """The probes in buckets, numbered in their order, and which low bits of a hash some probe's key has."""
        files = Buckets(self._scratch / view.name / "probes", cut.buckets)
        keys = np.zeros(int(_FILTER) + 1, dtype=np.bool_)
        start = 0
        for table in rows():
            probes = table.select([*view.entity, "request_time"])
            if self._visibility == "as_served":
                seen = seen_column(view.name)
                if seen not in table.column_names:
                    raise WireError(
                        f"as_served: the requests do not say what {view.name} had seen (no column {seen!r}); "
                        "take them from snapshots that read this view, or use event_time"
                    )
                probes = probes.append_column(_SEEN, table.column(seen))
            numbers = np.arange(start, start + table.num_rows, dtype=np.int64)
            hashes = cut.of([table.column(column) for column in view.entity])
            files.write(probes.append_column(_ROW, pa.array(numbers)), cut.bucket(hashes))
            keys[hashes & _FILTER] = True
            start += table.num_rows
        files.close()
        return files, keys

    def _piece(self, view: StreamView, events: pa.Table, probes: pa.Table) -> pa.Table:
        """The needed columns of ``view`` and ``_row``, in the order of ``probes``."""
        halves = self._halves(view, events, probes)
        if halves is not None:
            both = pa.concat_tables([self._piece(view, *half) for half in halves])
            return both.take(pa.array(np.argsort(both.column(_ROW).to_numpy(), kind="stable")))
        rows = _with_all_columns(view.stream.schema.arrow, events)
        found = evaluate_rows(view, rows, probes, seen_column=_SEEN, visibility=self._visibility)
        return found.values.select(self._needed[view.name]).append_column(_ROW, probes.column(_ROW))

    def _halves(self, view: StreamView, events: pa.Table, probes: pa.Table) -> list[tuple[pa.Table, pa.Table]] | None:
        """The piece cut in two at the median request time; None when it fits, or a cut would not make it smaller."""
        size = events.num_rows + probes.num_rows
        if size <= 2 * self._limits.piece:
            return None
        asked, happened = _times(probes, "request_time"), _times(events, view.stream.event_time)
        early = asked < np.median(asked)
        halves = []
        for mine in (early, ~early):
            if not mine.any():
                return None
            low, high = earliest_read(view, int(asked[mine].min())), int(asked[mine].max())
            inside = happened <= high if low is None else (happened >= low) & (happened <= high)
            halves.append((events.filter(pa.array(inside)), probes.filter(pa.array(mine))))
        largest = max(half[0].num_rows + half[1].num_rows for half in halves)
        return halves if largest < 0.8 * size else None


def _silent(what: str, done: int, of: int) -> None:
    """Nobody wants to know."""


def _given_schema(view: StreamView, branch: Branch, columns: Sequence[str], visibility: Visibility) -> pa.Schema:
    """The columns read of the events of a branch."""
    fields = [branch.stream.schema.arrow.field(name) for name in columns]
    return _nullable([*fields, *_positions(view, visibility)])


def _event_schema(view: StreamView, visibility: Visibility) -> pa.Schema:
    """The columns kept of the view's rows: positions, too, where visibility or ties are decided by them."""
    names = view.stream.schema.arrow.names if view.branches else columns_read(view)
    fields = [view.stream.schema.arrow.field(name) for name in names]
    return _nullable([*fields, *_positions(view, visibility)])


def _positions(view: StreamView, visibility: Visibility) -> list[pa.Field]:
    return own_position_columns()[: len(positions_read(view, visibility))]


def _nullable(fields: Sequence[pa.Field]) -> pa.Schema:
    return pa.schema([field.with_nullable(True) for field in fields])


def _with_all_columns(schema: pa.Schema, events: pa.Table) -> pa.Table:
    """``events`` with the columns that were not read, all NULL: no expression looks at them."""
    for field in schema:
        if field.name not in events.column_names:
            events = events.append_column(field.name, pa.nulls(events.num_rows, field.type))
    return events


def _times(table: pa.Table, column: str) -> npt.NDArray[np.int64]:
    values = table.column(column).cast(pa.timestamp("us")).cast(pa.int64())
    return np.asarray(values.to_numpy(), dtype=np.int64)
