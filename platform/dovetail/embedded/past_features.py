"""Features of past requests, point in time, from the events that are known: archived, or still in their topics."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from typing import Any

import numpy as np
import pyarrow as pa

from dovetail.app.broker import broker_app
from dovetail.app.jobs import batch_versions, scratch_folder
from dovetail.app.known_events import KnownEvents, known_events
from dovetail.app.storage import Stores, open_stores
from dovetail.embedded.given_rows import as_table, given_rows, has_column, refuse
from dovetail.features import Project
from dovetail.features.batch.pieces import PieceEvaluator, Span
from dovetail.features.language.source import nearest
from dovetail.features.plan.definitions import FeatureColumn, FeatureSet, Stream
from dovetail.features.plan.request import CANDIDATES, flatten_requests
from dovetail.features.stored.backfill import chosen_columns, needed_fields
from dovetail.features.stored.registration import register
from dovetail.platform.errors import ConfigError, WireError
from dovetail.platform.process.loop_thread import LoopThread
from dovetail.platform.rows.intake import time_us, unfit_items
from dovetail.platform.rows.positions import with_own_positions
from dovetail.platform.rows.schema import TableSchema
from dovetail.platform.transports.viewing import view_topics

__all__ = ["past_features"]

_ROWS_AT_ONCE = 131_072


def past_features(
    project: Project, requests: Any, feature_set: str | None, columns: Sequence[str], events: Mapping[str, Any]
) -> pa.Table:
    """See :meth:`~dovetail.embedded.project_client.ProjectClient.features`."""
    name = feature_set or project.config.request.feature_set
    if name not in project.answering:
        what = (
            f"feature set {name!r} is of another scene"
            if name in project.feature_sets
            else f"there is no feature set {name!r}"
        )
        raise ConfigError(f"{what}; {nearest(name, list(project.answering))}")
    unknown = sorted(set(events) - set(project.streams))
    if unknown:
        raise ConfigError(f"events: there is no stream {unknown[0]!r}; {nearest(unknown[0], list(project.streams))}")
    features = project.answering[name]
    if isinstance(columns, str):
        raise ConfigError(f"columns = {columns!r}: give a list of names")
    chosen = chosen_columns(features, columns, "columns")
    flat = _flat(project, features, chosen, requests)
    if not flat.num_rows:
        return pa.schema([pa.field(column.name, column.type) for column in chosen]).empty_table()
    given = {stream: _given(project.streams[stream], rows) for stream, rows in events.items()}
    with closing(open_stores(project.config)) as stores:
        register(project, stores.registry, stores.online)
        logs = given | _logged(project, stores, [s for s in _streams(project, features, chosen) if s not in given])
        evaluator = PieceEvaluator(
            features,
            chosen,
            project.stream_views,
            project.batch_views,
            logs,
            batch_versions(project, stores).table,
            scratch=scratch_folder(project, f"features-{uuid.uuid4().hex[:8]}"),
        )
        times = time_us(flat, "request_time")
        span = Span(flat.num_rows, int(times.min()), int(times.max()))
        parts = [values for _, values in evaluator.evaluate(lambda: _parts(flat), span)]
    return pa.concat_tables(parts).combine_chunks()


def _streams(project: Project, features: FeatureSet, chosen: Sequence[FeatureColumn]) -> list[str]:
    """The streams that the ``chosen`` columns are made of."""
    relations = {relation for column in chosen for relation, _ in column.references}
    views = [project.stream_views[j.view] for j in features.joins if j.view in relations & set(project.stream_views)]
    return list(dict.fromkeys(name for view in views for name in view.stream_names))


def _flat(project: Project, features: FeatureSet, chosen: Sequence[FeatureColumn], requests: Any) -> pa.Table:
    """One row per candidate, with the columns that are read."""
    declared, needed = project.request, needed_fields(project, features, chosen)
    given = given_rows(requests)
    if isinstance(given, list) and not given:
        return needed.empty_table()
    if has_column(given, CANDIDATES):
        nested = as_table(given, declared, "requests")
        refuse(dict(sorted(unfit_items(nested).items())), "requests")
        return flatten_requests(nested).select(needed.names)
    missing = [name for name in needed.names if not has_column(given, name)]
    if missing:
        raise WireError(
            f"requests: there is no column {missing[0]!r}, which the features read; give one row per candidate"
        )
    schema = pa.schema([project.request_schema.field(name) for name in needed.names])
    return as_table(given, TableSchema(declared.name, declared.file, declared.line, schema), "requests")


def _given(stream: Stream, rows: Any) -> KnownEvents:
    table = as_table(rows, stream.schema, stream.name)
    numbers = np.arange(table.num_rows, dtype=np.int64)
    return KnownEvents(None, with_own_positions(table, 0, numbers, numbers.astype(np.int32) * 0), stream.event_time)


def _logged(project: Project, stores: Stores, streams: Sequence[str]) -> dict[str, KnownEvents]:
    async def look() -> dict[str, KnownEvents]:
        app = broker_app(project.config, f"dovetail-{project.config.name}.features")
        async with view_topics(app) as view:
            return await known_events(project, stores, view, streams)

    if not streams:
        return {}
    loop = LoopThread("dovetail-features")
    try:
        return loop.run(look())
    finally:
        loop.close()


def _parts(flat: pa.Table) -> Iterator[pa.Table]:
    for start in range(0, flat.num_rows, _ROWS_AT_ONCE):
        yield flat.slice(start, _ROWS_AT_ONCE)
