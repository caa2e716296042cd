"""One served value traced to what it was made of: columns of the request, events of streams, rows of batch versions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import pyarrow as pa

from dovetail.app.jobs import archived_events, served_rows
from dovetail.app.storage import Stores
from dovetail.features import Project
from dovetail.features.batch.seen_events import SeenEvents, seen_events
from dovetail.features.plan.definitions import REQUEST, Aggregate, FeatureColumn, FeatureSet, StreamView
from dovetail.features.stored.widths import columns_named
from dovetail.joiners.snapshots.shape import SET_COLUMN
from dovetail.platform.archive.dayfiles import DayFiles
from dovetail.platform.archive.finding import Found, find_rows
from dovetail.platform.errors import ConfigError
from dovetail.platform.rows.intake import time_us
from dovetail.platform.rows.positions import seen_column

__all__ = ["Part", "TracedValue", "aggregates_of", "feature_set_of", "trace_value"]

#: Events of a key that are read to find those that a value counts.
_MOST_EVENTS = 200_000


class Part(NamedTuple):
    """A column that the value's expression reads, of ``request`` or of a view.

    ``value`` is the request's own; None of a view's column, which no snapshot keeps. Of a streaming view, ``key`` is
    its entity, ``events`` are those that were counted, and ``counts`` says by name what each aggregate counts;
    ``complete`` is False where the key has more events than were looked through.
    """

    relation: str
    column: str
    value: Any = None
    key: dict[str, Any] | None = None
    counts: Sequence[tuple[str, str]] = ()
    events: SeenEvents | None = None
    complete: bool = True


class TracedValue(NamedTuple):
    """A feature of one candidate: its column, the value that was served (of a batch feature: looked up), its parts."""

    column: FeatureColumn
    value: Any
    parts: Sequence[Part]


def aggregates_of(view: StreamView, output: str) -> list[Aggregate]:
    """The aggregates that an output of ``view`` is computed from."""
    derived = next((d for d in view.derived if d.output == output), None)
    names = {a.output for a in view.aggregates}
    wanted = {output} if derived is None else columns_named(derived.sql, sorted(names))
    return [a for a in view.aggregates if a.output in wanted]


def feature_set_of(project: Project, snapshot: pa.Table) -> FeatureSet:
    """The feature set that made a snapshot row.

    Raises:
        ConfigError: it is not there any more.
    """
    made_by = snapshot.column(SET_COLUMN)[0].as_py() if SET_COLUMN in snapshot.column_names else None
    name = made_by or project.feature_set.name
    if name not in project.feature_sets:
        raise ConfigError(f"this request was answered by feature set {name!r}, which is gone; put {name}.sql back")
    return project.feature_sets[name]


def trace_value(project: Project, stores: Stores, snapshot: pa.Table, row: pa.Table, feature: str) -> TracedValue:
    """The value of ``feature`` in ``row``, the features of the candidate whose snapshot row is ``snapshot``.

    Raises:
        ConfigError: there is no such feature, or its feature set is gone.
        StoreError: a registered file is gone.
        WireError: an expression of the definition has no value on some event.
    """
    features = feature_set_of(project, snapshot)
    column = next((c for c in features.columns if c.name == feature), None)
    if column is None:
        raise ConfigError(f"feature set {features.name} has no column {feature!r}")
    asked = served_rows(features, snapshot)
    value = row.column(feature)[0].as_py() if feature in row.column_names else None
    parts = []
    for relation, name in column.references:
        if relation == REQUEST:
            parts.append(Part(relation, name, asked.column(name)[0].as_py() if name in asked.column_names else None))
        elif relation in project.stream_views:
            parts.append(_of_stream(project, stores, project.stream_views[relation], name, asked))
        else:
            view = project.batch_views[relation]
            parts.append(Part(relation, name, key=_key(view.entity, asked)))
    return TracedValue(column, value, parts)


def _of_stream(project: Project, stores: Stores, view: StreamView, output: str, asked: pa.Table) -> Part:
    key = _key(view.entity, asked)
    aggregates = aggregates_of(view, output)
    counts = [(a.output, _said(view, a)) for a in aggregates]
    moment = int(time_us(asked, "request_time")[0])
    name = seen_column(view.name)
    seen = asked.column(name)[0].as_py() if name in asked.column_names else None
    if seen is None or any(value is None for value in key.values()):
        return Part(view.name, output, key=key, counts=counts)
    windows = [view.windows[a.window] for a in aggregates]
    bounded = bool(windows) and all(window.bounded_us for window in windows)
    low = min(window.lower_bound(moment) for window in windows) if bounded else None
    logs, events, complete = archived_events(project, stores), {}, True
    for branch in view.reads:
        log, column = logs[branch.stream.name], view.entity[0]
        if branch.cleanings:  # they may make the key: then all events of the window are read
            found = _in_time(log, low, moment)
        else:
            found = find_rows(log, column, [key[column]], low_us=low, high_us=moment, most=_MOST_EVENTS)
        complete = complete and found.complete
        events[branch.stream.name] = found.rows
    counted = seen_events(view, aggregates, events, key, time_us=moment, seen=seen)
    return Part(view.name, output, key=key, counts=counts, events=counted, complete=complete)


def _in_time(log: DayFiles, low_us: int | None, high_us: int) -> Found:
    parts, rows = [], 0
    for part in log.read(None, low_us, high_us):
        parts.append(part)
        rows += part.num_rows
        if rows > _MOST_EVENTS:
            return Found(pa.concat_tables(parts, promote_options="permissive"), complete=False)
    if not parts:
        return Found((log.declared or pa.schema([])).empty_table(), complete=True)
    return Found(pa.concat_tables(parts, promote_options="permissive"), complete=True)


def _key(entity: Sequence[str], asked: pa.Table) -> dict[str, Any]:
    return {column: asked.column(column)[0].as_py() for column in entity}


def _said(view: StreamView, aggregate: Aggregate) -> str:
    """What an aggregate counts, over which window, in words of its SQL."""
    read, window = view.inputs[aggregate.input], view.windows[aggregate.window]
    filtered = f" FILTER (WHERE {read.filter.strip()})" if read.filter is not None else ""
    return f"{aggregate.function}({(read.argument or '*').strip()}){filtered} OVER {window.name}"
