"""Datasets by the naming of OpenLineage: a namespace that says where something is, and a name in it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

import pyarrow as pa

from dovetail.app.jobs import ARCHIVE, BackfillRequest
from dovetail.app.openlineage.run_events import LineageDataset
from dovetail.features.stored.backfill import Backfill
from dovetail.platform.stores.offline import OfflineStore

__all__ = ["archived_datasets", "dataset_at", "of_backfill"]


def dataset_at(url: str, columns: pa.Schema | None = None, rows: int | None = None) -> LineageDataset:
    """The dataset at a path (namespace ``file``) or URL (its scheme and host, without a login)."""
    if "://" not in url:
        return LineageDataset("file", str(Path(url).absolute()), columns, rows)
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return LineageDataset(f"{parts.scheme}://{host}" if host else "file", parts.path or "/", columns, rows)


def archived_datasets(offline: OfflineStore, names: Sequence[str]) -> list[LineageDataset]:
    """Datasets of the project's archive."""
    return [dataset_at(offline.path(name)) for name in names]


def of_backfill(backfill: Backfill, asked: BackfillRequest, offline: OfflineStore) -> list[LineageDataset]:
    """The datasets that a backfill reads: requests, samples, the events of streams, offline tables."""
    project, found = backfill.project, []
    in_scene = project.config.in_scene
    for path, archived in ((asked.requests, in_scene(_archived_requests(asked))), (asked.samples, in_scene("samples"))):
        if path == ARCHIVE:
            found += archived_datasets(offline, [archived])
        elif path is not None:
            found.append(dataset_at(path))
    views = {reference for column in backfill.columns for reference, _ in column.references}
    streams = {name for view in project.stream_views.values() if view.name in views for name in view.stream_names}
    for name in sorted(streams):
        given, columns = (asked.events or {}).get(name), project.streams[name].schema.arrow
        found.append(dataset_at(given or offline.path(name), columns))
    tables = {table.path: table for view in project.batch_views.values() if view.name in views for table in view.tables}
    found += [dataset_at(str(project.config.path(path)), table.schema.arrow) for path, table in sorted(tables.items())]
    return found


def _archived_requests(asked: BackfillRequest) -> str:
    return "snapshots" if asked.visibility == "as_served" else "requests"
