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
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from dovetail.features.batch.one_view import (
    ROW,
    EventLog,
    earliest_read,
    evaluate_piece,
    event_schema,
    probe_rows,
    view_parts,
)
from dovetail.features.batch.point_in_time import RowAssembly
from dovetail.features.batch.streaming import Visibility
from dovetail.features.duck.scratch import Buckets, Cursor, KeyHash
from dovetail.features.plan.definitions import BatchView, FeatureColumn, FeatureSet, StreamView
from dovetail.platform.duck.hermetic import Grant, Resources

__all__ = ["KEY_FILTER", "Limits", "OnStep", "PieceEvaluator", "Rows", "Span"]

#: Request rows, in parts, as often as asked, always the same.
Rows = Callable[[], Iterator[pa.Table]]

#: Called with (what, done, of); ``of`` 0 when it is not known.
OnStep = Callable[[str, int, int], None]

_VALUES_AT_ONCE = 8_192
#: Low bits of a key's hash by which events of keys that no probe has are left out.
KEY_FILTER = np.uint64((1 << 24) - 1)


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


class Span(NamedTuple):
    """A number of request rows, and the times between which they lie (µs, inclusive)."""

    rows: int
    low_us: int
    high_us: int


class _Asked(NamedTuple):
    """What a view is asked: the hash of its keys, its probes in buckets, and which low bits some probe's key has."""

    cut: KeyHash
    probes: Buckets
    keys: npt.NDArray[np.bool_]


class _Cursors(NamedTuple):
    """A view's values in files: as visible, of every row; by event time, of the rows that had not seen an event."""

    values: list[Cursor]
    happened: list[Cursor]


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
        # A connection of DuckDB is of one evaluation, which grants it memory and threads.
        self._assembly = partial(RowAssembly, features, columns, stream_views, batch_views, table_of)
        reads = self._assembly()
        self._stream, self._needed, self._events = reads.stream, reads.needed, events
        self._visibility, self._limits, self._scratch = visibility, limits or Limits(), scratch
        self._on_step = on_step or _silent

    def evaluate(self, rows: Rows, span: Span) -> Iterator[tuple[pa.Table, pa.Table]]:
        """Each table that ``rows()`` gives, and its ``columns``; ``span`` says how many rows there are, and of when.

        Raises:
            WireError, StateError, DefinitionError: as the views' evaluation.
        """
        for table, values, _ in self._evaluated(rows, span, both=False):
            yield table, values

    def evaluate_both(self, rows: Rows, span: Span) -> Iterator[tuple[pa.Table, pa.Table, pa.Table]]:
        """Each table that ``rows()`` gives, and its ``columns`` twice: as served, and by event time.

        Needs the visibility ``as_served``. Evaluated are the rows once, and those again, by event time, that had not
        seen an event. Where there are none, both are one table.

        Raises:
            WireError, StateError, DefinitionError: as the views' evaluation.
        """
        if self._visibility != "as_served":
            raise ValueError(f"visibility {self._visibility!r} is not as_served")
        return self._evaluated(rows, span, both=True)

    def _evaluated(self, rows: Rows, span: Span, *, both: bool) -> Iterator[tuple[pa.Table, pa.Table, pa.Table]]:
        shutil.rmtree(self._scratch, ignore_errors=True)
        self._scratch.mkdir(parents=True)
        grant = Grant(Resources(self._limits.threads, self._limits.memory_bytes, self._scratch / "duckdb"))
        try:
            with grant.given():
                asked = self._cut_probes(rows, span)
                cursors = {name: self._view(view, span, asked.pop(name)) for name, view in self._stream.items()}
            assembly, start = self._assembly(), 0
            for table in rows():
                end = start + table.num_rows
                # A generator must not hold the grant while its caller runs.
                with grant.given():
                    inputs = assembly.inputs(table, _values_below(end, cursors) if table.num_rows else {})
                    values = assembly.evaluate(inputs)
                    late = _late_below(start, end, cursors) if both else {}
                    happened = assembly.evaluate_again(inputs, values, late)
                yield table, values, happened
                start = end
            for opened in cursors.values():
                for cursor in [*opened.values, *opened.happened]:
                    cursor.close()
        finally:
            grant.close()
            shutil.rmtree(self._scratch, ignore_errors=True)

    # --- one view ------------------------------------------------------------------------------------------------

    def _view(self, view: StreamView, span: Span, asked: _Asked) -> _Cursors:
        """Every probe's values of ``view``, in files, by probe; by event time of those that had not seen an event."""
        reach = earliest_read(view, span.low_us)
        cut, probes, keys = asked
        schema = event_schema(view, self._visibility)
        files = Buckets(self._scratch / view.name / "events", cut.buckets)
        for number, part in enumerate(self._parts(view, reach, span.high_us)):
            hashes = cut.of([part.column(column) for column in view.entity])
            wanted = keys[hashes & KEY_FILTER]  # a few others pass, too: they are nobody's events
            files.write(part.filter(pa.array(wanted)), cut.bucket(hashes[wanted]))
            self._on_step(f"{view.name}: events", number + 1, 0)
        files.close()
        cursors = _Cursors([], [])
        for bucket in range(cut.buckets):
            mine = probes.read(bucket, pa.schema([]))
            if mine.num_rows:
                values, happened = evaluate_piece(
                    view,
                    files.read(bucket, schema),
                    mine,
                    self._needed[view.name],
                    self._visibility,
                    self._limits.piece,
                )
                folder = self._scratch / view.name
                cursors.values.append(_written(folder / f"values-{bucket:05d}.arrow", values))
                if happened.num_rows:
                    cursors.happened.append(_written(folder / f"happened-{bucket:05d}.arrow", happened))
            files.drop(bucket)
            probes.drop(bucket)
            self._on_step(f"{view.name}: values", bucket + 1, cut.buckets)
        return cursors

    def _parts(self, view: StreamView, low_us: int | None, high_us: int) -> Iterator[pa.Table]:
        """The view's rows of that time, in bounded parts."""
        for number, branch in enumerate(view.reads):
            yield from view_parts(view, number, self._events[branch.stream.name], low_us, high_us, self._visibility)

    def _cut_probes(self, rows: Rows, span: Span) -> dict[str, _Asked]:
        """What each view is asked, of one reading of the rows, which the probes are numbered by."""
        asked = {}
        for name, view in self._stream.items():
            logs = [self._events[branch.stream.name] for branch in view.reads]
            reach = earliest_read(view, span.low_us)
            total = span.rows + sum(log.rows(reach, span.high_us) for log in logs)
            cut = KeyHash(view.entity_types, max(1, -(-total // self._limits.piece)))
            files = Buckets(self._scratch / name / "probes", cut.buckets)
            asked[name] = _Asked(cut, files, np.zeros(int(KEY_FILTER) + 1, dtype=np.bool_))
        start = 0
        for table in rows() if asked else ():
            numbers = np.arange(start, start + table.num_rows, dtype=np.int64)
            for name, (cut, files, keys) in asked.items():
                hashes = cut.of([table.column(column) for column in self._stream[name].entity])
                files.write(probe_rows(self._stream[name], table, numbers, self._visibility), cut.bucket(hashes))
                keys[hashes & KEY_FILTER] = True
            start += table.num_rows
        for _, files, _ in asked.values():
            files.close()
        return asked


def _written(path: Path, values: pa.Table) -> Cursor:
    """``values`` in a file, to be read by row."""
    with pa.ipc.new_file(str(path), values.schema) as sink:
        sink.write_table(values, max_chunksize=_VALUES_AT_ONCE)
    return Cursor(path, ROW)


def _values_below(end: int, cursors: Mapping[str, _Cursors]) -> dict[str, pa.Table]:
    """Each view's values up to row ``end``, from where they were read last, in the order of the rows."""
    return {
        view: _in_order(pa.concat_tables([cursor.below(end) for cursor in opened.values]))
        for view, opened in cursors.items()
    }


def _late_below(
    start: int, end: int, cursors: Mapping[str, _Cursors]
) -> dict[str, tuple[pa.Table, npt.NDArray[np.int64]]]:
    """Each view's values by event time up to row ``end``, and how far behind row ``start`` each belongs."""
    found = {}
    for view, opened in cursors.items():
        if parts := [cursor.below(end) for cursor in opened.happened]:
            values = _in_order(pa.concat_tables(parts))
            found[view] = (values, values.column(ROW).to_numpy() - start)
    return found


def _in_order(values: pa.Table) -> pa.Table:
    return values.take(pa.array(np.argsort(values.column(ROW).to_numpy(), kind="stable")))


def _silent(what: str, done: int, of: int) -> None:
    """Nobody wants to know."""
