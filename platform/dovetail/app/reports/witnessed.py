"""Served values against the independent witness, for a sample of what was served."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np
import pyarrow as pa

from dovetail.app.jobs import archived_events, served_rows
from dovetail.app.reports.archived import events_until
from dovetail.app.reports.rekeyed_rows import RekeyedRows, rekeyed_from_views
from dovetail.app.storage import Stores
from dovetail.features import Project
from dovetail.features.batch.pieces import Limits
from dovetail.features.batch.witness import Witness, Witnessed
from dovetail.joiners.snapshots.shape import SET_COLUMN
from dovetail.platform.archive.dayfiles import DayFiles
from dovetail.platform.rows.positions import seen_column

__all__ = ["witness_of"]


def witness_of(project: Project, stores: Stores, requests: int) -> Witnessed:
    """The verdict on ``requests`` served rows, spread evenly over the archived snapshots.

    Each is computed by the text of its definitions in plain DuckDB (:mod:`dovetail.features.batch.witness`), which
    reads the archived events of its keys. Only features that snapshots hold are; of views over a UNION ALL and of
    features of batch views the witness says nothing. As many rows of each re-keyed stream that is enriched from
    streaming views are computed in the same way.
    """
    snapshots = DayFiles.archived(stores.registry, stores.offline, project.config.in_scene("snapshots"), "request_time")
    verdict, witnesses = Witnessed(), dict[str, Witness]()
    events_of = partial(events_until, archived_events(project, stores))
    for row in _sample(snapshots, requests):
        made_by = row.column(SET_COLUMN)[0].as_py() if SET_COLUMN in row.column_names else project.feature_set.name
        features = project.feature_sets.get(made_by)
        if features is None:
            continue  # the comparison of the engines says that it is gone
        if made_by not in witnesses:
            witnesses[made_by] = Witness(features, project.stream_views, project.batch_views, events_of)
        asked = served_rows(features, row)
        seen = {
            join.view: asked.column(seen_column(join.view))[0].as_py() or []
            for join in features.joins
            if seen_column(join.view) in asked.column_names
        }
        found = witnesses[made_by].values(asked.select([n for n in asked.column_names if not n.startswith("_")]), seen)
        names = [column.name for column in features.columns_of("request", "streaming")]
        served = {name: row.column(name)[0].as_py() for name in names if name in row.column_names}
        verdict.add(str(row.column("request_id")[0].as_py()), served, found)
    for stream in rekeyed_from_views(project):
        RekeyedRows(project, stores, stream, Limits()).witness(requests, verdict)
    return verdict


def _sample(snapshots: DayFiles, count: int) -> Iterator[pa.Table]:
    """``count`` rows of the archive, one by one, evenly spread over it; the same every time."""
    days = snapshots.days()
    total = sum(days.values())
    count = min(count, total)
    wanted = sorted({number * total // count for number in range(count)})
    start = 0
    for part in snapshots.read(None, None, np.iinfo(np.int64).max):
        yield from (part.slice(at - start, 1) for at in wanted if start <= at < start + part.num_rows)
        start += part.num_rows
