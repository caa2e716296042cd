"""A streaming view's share of a batch evaluation: the rows it reads, its probes, and its values in a piece of both.

A piece is any set of probes with all events that their keys' windows reach back to; who cuts pieces, and on which
machine one is evaluated, changes no value.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from dovetail.features.batch.relation import cleaned_rows
from dovetail.features.batch.streaming import Visibility, evaluate_rows, positions_read
from dovetail.features.language.named_columns import columns_read
from dovetail.features.plan.definitions import Branch, StreamView
from dovetail.platform.errors import WireError
from dovetail.platform.rows.positions import own_position_columns, seen_column

__all__ = [
    "ROW",
    "EventLog",
    "earliest_read",
    "evaluate_piece",
    "event_schema",
    "probe_rows",
    "probe_schema",
    "times_of",
    "view_parts",
]

#: The column by which a probe, and then its values, is known.
ROW = "_row"
_SEEN = "_seen"


class EventLog(Protocol):
    """The events of a stream, by their time."""

    def rows(self, low_us: int | None, high_us: int) -> int:
        """At least as many rows as have their time in ``[low, high]``."""
        ...

    def read(self, columns: Sequence[str] | None, low_us: int | None, high_us: int) -> Iterator[pa.Table]:
        """Rows with ``low <= time <= high`` in bounded parts; all columns, or those named."""
        ...


def earliest_read(view: StreamView, time_us: int) -> int | None:
    """The earliest event time that a value of ``view`` at ``time_us`` depends on; None when there is no bound."""
    if not all(window.bounded_us for window in view.windows):
        return None
    return min((window.lower_bound(time_us) for window in view.windows), default=time_us)


def view_parts(
    view: StreamView, number: int, log: EventLog, low_us: int | None, high_us: int, visibility: Visibility
) -> Iterator[pa.Table]:
    """The rows that ``view`` cleans out of the events of branch ``number``, in bounded parts of :func:`event_schema`.

    Raises:
        WireError: an expression has no value on some event.
    """
    branch, schema = view.reads[number], event_schema(view, visibility)
    given = _given_schema(view, branch, columns_read(view, branch), visibility)
    for part in log.read(given.names, low_us, high_us):
        part = part.select(given.names).cast(given)
        rows = cleaned_rows(view, number, _with_all_columns(branch.stream.schema.arrow, part))
        yield rows.select(schema.names).cast(schema)


def probe_schema(view: StreamView, requests: pa.Schema, visibility: Visibility) -> pa.Schema:
    """The columns of :func:`probe_rows` of ``requests`` with these columns."""
    fields = [requests.field(name).remove_metadata().with_nullable(True) for name in view.entity]
    seen = [pa.field(_SEEN, pa.list_(pa.int64()))] if visibility == "as_served" else []
    return pa.schema([*fields, pa.field("request_time", pa.timestamp("us")), *seen, pa.field(ROW, pa.int64())])


def probe_rows(
    view: StreamView, requests: pa.Table, numbers: npt.NDArray[np.int64], visibility: Visibility
) -> pa.Table:
    """The probes that request rows are for ``view``, known by their ``numbers``; of :func:`probe_schema`.

    Raises:
        WireError: the requests do not say what they had seen, and ``visibility`` asks for it.
    """
    columns = [requests.column(name) for name in (*view.entity, "request_time")]
    if visibility == "as_served":
        seen = seen_column(view.name)
        if seen not in requests.column_names:
            raise WireError(
                f"as_served: the requests do not say what {view.name} had seen (no column {seen!r}); "
                "take them from snapshots that read this view, or use event_time"
            )
        columns.append(requests.column(seen))
    schema = probe_schema(view, requests.schema, visibility)
    given = [column.cast(field.type) for column, field in zip(columns, schema, strict=False)]
    return pa.table([*given, pa.array(numbers)], schema=schema)


def evaluate_piece(
    view: StreamView,
    events: pa.Table,
    probes: pa.Table,
    needed: Sequence[str],
    visibility: Visibility,
    largest: int,
) -> tuple[pa.Table, pa.Table]:
    """The ``needed`` columns of ``view`` and ``ROW`` in the order of ``probes``; and by event time where ``late``.

    A piece of more than twice ``largest`` rows is cut in two by time, where that makes it smaller.
    """
    halves = _halves(view, events, probes, largest)
    if halves is not None:
        found = [evaluate_piece(view, *half, needed, visibility, largest) for half in halves]
        values, happened = (_in_order(pa.concat_tables(parts)) for parts in zip(*found, strict=True))
        return values, happened
    rows = _with_all_columns(view.stream.schema.arrow, events)
    evaluated = evaluate_rows(view, rows, probes, seen_column=_SEEN, visibility=visibility)
    numbers = probes.column(ROW)
    values = evaluated.values.select(list(needed)).append_column(ROW, numbers)
    late = numbers.filter(pa.array(evaluated.late))
    return values, evaluated.happened.select(list(needed)).append_column(ROW, late)


def _in_order(values: pa.Table) -> pa.Table:
    return values.take(pa.array(np.argsort(values.column(ROW).to_numpy(), kind="stable")))


def _halves(
    view: StreamView, events: pa.Table, probes: pa.Table, largest: int
) -> list[tuple[pa.Table, pa.Table]] | None:
    """The piece cut in two at the median request time; None when it fits, or a cut would not make it smaller."""
    size = events.num_rows + probes.num_rows
    if size <= 2 * largest:
        return None
    asked, happened = times_of(probes, "request_time"), times_of(events, view.stream.event_time)
    early = asked < np.median(asked)
    halves = []
    for mine in (early, ~early):
        if not mine.any():
            return None
        low, high = earliest_read(view, int(asked[mine].min())), int(asked[mine].max())
        inside = happened <= high if low is None else (happened >= low) & (happened <= high)
        halves.append((events.filter(pa.array(inside)), probes.filter(pa.array(mine))))
    size_after = max(half[0].num_rows + half[1].num_rows for half in halves)
    return halves if size_after < 0.8 * size else None


def _given_schema(view: StreamView, branch: Branch, columns: Sequence[str], visibility: Visibility) -> pa.Schema:
    """The columns read of the events of a branch."""
    fields = [branch.stream.schema.arrow.field(name) for name in columns]
    return _nullable([*fields, *_positions(view, visibility)])


def event_schema(view: StreamView, visibility: Visibility) -> pa.Schema:
    """The columns kept of the view's rows; positions, too, where visibility or ties are decided by them."""
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


def times_of(table: pa.Table, column: str) -> npt.NDArray[np.int64]:
    """int64 ``[n]``: a timestamp column in microseconds."""
    values = table.column(column).cast(pa.timestamp("us")).cast(pa.int64())
    return np.asarray(values.to_numpy(), dtype=np.int64)
