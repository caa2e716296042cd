"""``Project.evaluate``: a feature set for Arrow tables of requests and events, by either engine."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from dovetail.features.at_events.recomputed import recomputed_values
from dovetail.features.at_events.streamed import values_by_replay
from dovetail.features.batch.point_in_time import evaluate_feature_set
from dovetail.features.batch.streaming import Visibility
from dovetail.features.batch.views import lookup_as_of, run_batch_view
from dovetail.features.expressions.feature_rows import FeatureSetEvaluator
from dovetail.features.language.source import nearest
from dovetail.features.plan.definitions import BatchView, Definitions, FeatureSet, Stream, Table
from dovetail.features.plan.request import CANDIDATES, flatten_requests
from dovetail.features.serving.enriched import ValuesOf, enriched
from dovetail.features.stream.rerun import replay_view, with_positions
from dovetail.platform.errors import ConfigError
from dovetail.platform.rows.positions import OWN_COLUMNS, seen_column

__all__ = ["Engine", "evaluate"]

Engine = Literal["batch", "stream"]


def evaluate(
    definitions: Definitions,
    name: str,
    requests: pa.Table,
    events: Mapping[str, pa.Table],
    *,
    engine: Engine = "batch",
    visibility: Visibility = "event_time",
    tables: Mapping[str, pa.Table] | None = None,
) -> pa.Table:
    """See :meth:`~dovetail.features.project.Project.evaluate`; ``name`` is the feature set's."""
    known = definitions.answering
    if name not in known:
        raise ConfigError(f"there is no feature set {name!r}; {nearest(name, list(known))}")
    if engine not in ("batch", "stream"):
        raise ConfigError(f"engine is {engine!r}; use 'batch' or 'stream'")
    features = known[name]
    flat = flatten_requests(requests) if CANDIDATES in requests.column_names else requests
    arrived = {stream: with_positions(rows) for stream, rows in events.items()}

    def load_table(table: Table) -> pa.Table:
        if tables is None or table.schema.name not in tables:
            raise ConfigError(f"feature set {name} reads table {table.schema.name}; give it in tables=")
        return tables[table.schema.name]

    at_events = recomputed_values if engine == "batch" else values_by_replay

    def arrive(stream: str) -> bool:
        """Make a re-keyed stream of the one that it is declared from; False where neither is given."""
        declared = definitions.streams[stream]
        source = declared.rekeyed_from
        if stream in arrived or (source is not None and not arrive(source)):
            return stream in arrived
        if source is not None:
            # Rows that were made here have no places in a topic: they come as the table has them.
            given = arrived[source] if source in events else _renumbered(arrived[source])
            arrived[stream] = _rekeyed(declared, given, load_table, at_events)
        return stream in arrived

    views = [definitions.stream_views[join.view] for join in features.joins if join.kind == "streaming"]
    for stream in dict.fromkeys(name for view in views for name in view.stream_names):
        if not arrive(stream):
            raise ConfigError(f"feature set {name} reads stream {stream}; give events = {{{stream!r}: table}}")

    if engine == "batch":
        return evaluate_feature_set(definitions, known[name], flat, arrived, load_table, visibility=visibility)
    return _streamed(definitions, known[name], flat, arrived, load_table, visibility)


def _renumbered(rows: pa.Table) -> pa.Table:
    """``rows`` as one partition, in the order of the table."""
    return with_positions(rows.drop_columns([name for name in OWN_COLUMNS if name in rows.column_names]))


def _rekeyed(stream: Stream, rows: pa.Table, load_table: Callable[[Table], pa.Table], at_events: ValuesOf) -> pa.Table:
    """The rows of a re-keyed stream, of those that it is made of, in their order of arrival."""

    def lookup(view: BatchView, rows: pa.Table, time_column: str) -> pa.Table:
        return lookup_as_of(view, rows, partial(run_batch_view, view, load_table=load_table), time_column)

    return enriched(stream, rows, lookup, at_events)


def _streamed(
    definitions: Definitions,
    features: FeatureSet,
    requests: pa.Table,
    events: Mapping[str, pa.Table],
    load_table: Callable[[Table], pa.Table],
    visibility: Visibility,
) -> pa.Table:
    rows, answerable = requests, np.ones(requests.num_rows, dtype=np.bool_)
    for join in features.joins:
        if join.kind == "streaming":
            view = definitions.stream_views[join.view]
            seen = seen_column(view.name) if visibility == "as_served" else None
            replayed = replay_view(view, events, requests, seen)
            values = replayed.values
            answerable &= replayed.answerable
        else:
            batch = definitions.batch_views[join.view]
            values = lookup_as_of(batch, requests, partial(run_batch_view, batch, load_table=load_table))
        for column in values.column_names:
            rows = rows.append_column(f"{join.view}.{column}", values.column(column))
    return _answered(features, FeatureSetEvaluator(features).evaluate(rows), answerable)


def _answered(features: FeatureSet, values: pa.Table, answerable: npt.NDArray[np.bool_]) -> pa.Table:
    """``values`` with NULL in every column but the keys where a request is too old to be answered.

    A request is answered with everything or nothing: what an expression like ``coalesce`` makes of NULLs is no answer.
    """
    if answerable.all():
        return values
    kept = pa.array(np.arange(len(answerable)), mask=~answerable)
    columns = [
        values.column(c.name) if c.origin == "key" else values.column(c.name).take(kept) for c in features.columns
    ]
    return pa.Table.from_arrays(columns, schema=values.schema)
