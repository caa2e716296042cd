"""Batch jobs over a project's stores, put together: what the commands beside the worker run."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from dovetail.app.storage import Stores, load_table
from dovetail.features import Project
from dovetail.features.batch.pieces import Limits
from dovetail.features.batch.streaming import Visibility
from dovetail.features.language.source import nearest
from dovetail.features.plan.definitions import FeatureSet
from dovetail.features.serving.versions import BatchVersions
from dovetail.features.stored.backfill import Backfill, chosen_columns, needed_fields
from dovetail.features.stored.day_engine import DayEngine, LocalDays
from dovetail.features.stored.past_requests import RequestLog
from dovetail.features.stored.read_columns import struct_members
from dovetail.features.stored.registration import register
from dovetail.joiners.snapshots.shape import REQUEST_COLUMNS, request_rows
from dovetail.platform.archive.dayfiles import DayFiles
from dovetail.platform.archive.joined_days import joined_name, settle_joins
from dovetail.platform.config.features import BatchConfig
from dovetail.platform.errors import ConfigError
from dovetail.platform.rows.evolution import conformed
from dovetail.platform.rows.positions import seen_column
from dovetail.platform.stores.offline import OfflineStore

if TYPE_CHECKING:
    from dovetail.spark.cluster import Cluster

__all__ = [
    "ARCHIVE",
    "BackfillRequest",
    "archived_events",
    "batch_versions",
    "cluster_of",
    "day_engine",
    "open_backfill",
    "read_of",
    "scratch_folder",
    "served_rows",
]

#: Said instead of a path: what the archive agent has written.
ARCHIVE = "archive"


@dataclass(frozen=True, slots=True)
class BackfillRequest:
    """A request for ``dovetail backfill``. ``events`` replace a stream's archive by Parquet files of its schema."""

    features: str
    out: str
    requests: str = ARCHIVE
    samples: str | None = None
    columns: Sequence[str] = ()
    visibility: Visibility = "event_time"
    events: Mapping[str, str] | None = None
    limits: Limits = field(default_factory=Limits)


def open_backfill(project: Project, stores: Stores, asked: BackfillRequest) -> Backfill:
    """The backfill that is asked for, not yet begun. Its definitions are registered.

    Raises:
        ConfigError: a feature set, column, stream or path that does not exist.
        DefinitionError: a definition that has data means something else now.
    """
    register(project, stores.registry, stores.online)
    if asked.features not in project.answering:
        hint = nearest(asked.features, list(project.answering))
        over = project.feature_sets.get(asked.features)
        what = f"there is no feature set {asked.features!r}"
        if over is not None:
            what = f"feature set {asked.features!r} is over {over.over}, and requests of this scene are not (--scene)"
        raise ConfigError(f"FEATURES: {what}; {hint}")
    features = project.answering[asked.features]
    columns = chosen_columns(features, asked.columns)
    out = asked.out if "://" in asked.out else str(Path(asked.out).absolute())
    given = dict(asked.events or {})
    unknown = sorted(set(given) - set(project.streams))
    if unknown:
        raise ConfigError(f"--events: there is no stream {unknown[0]!r}; {nearest(unknown[0], list(project.streams))}")
    events = archived_events(project, stores)
    events |= {name: DayFiles.at(path, project.streams[name].event_time) for name, path in given.items()}
    return Backfill(
        project=project,
        features=features,
        columns=columns,
        requests=_requests(project, stores, features, asked, needed_fields(project, features, columns)),
        events=events,
        versions=batch_versions(project, stores),
        registry=stores.registry,
        out=OfflineStore(out),
        name=out,
        # By folder, so that two backfills at once do not meet.
        scratch=scratch_folder(project, f"backfill-{hashlib.sha256(out.encode()).hexdigest()[:8]}"),
        visibility=asked.visibility,
        limits=asked.limits,
    )


def _requests(
    project: Project, stores: Stores, features: FeatureSet, asked: BackfillRequest, needed: pa.Schema
) -> RequestLog:
    samples, in_scene = None, project.config.in_scene
    if asked.samples is not None:
        if asked.samples != ARCHIVE:
            settle_joins(stores.registry, joined_name(asked.samples))
        samples = _files(stores, asked.samples, in_scene("samples"))
    if asked.requests == ARCHIVE and asked.visibility == "as_served":
        snapshots = DayFiles.archived(stores.registry, stores.offline, in_scene("snapshots"), "request_time")
        shape, reads = partial(served_rows, features), read_of(features)
        return RequestLog(snapshots, needed, shape=shape, reads=reads, samples=samples)
    return RequestLog(
        _files(stores, asked.requests, in_scene("requests"), project.request.arrow), needed, samples=samples
    )


def _files(stores: Stores, where: str, dataset: str, declared: pa.Schema | None = None) -> DayFiles:
    if where == ARCHIVE:
        return DayFiles.archived(stores.registry, stores.offline, dataset, "request_time", declared)
    return DayFiles.at(where, "request_time")


def served_rows(features: FeatureSet, snapshots: pa.Table) -> pa.Table:
    """The flat requests that ``snapshots`` answered, with the positions that the views of ``features`` had seen.

    Views that the snapshots did not read have no positions; request columns that were not declared yet are NULL.
    """
    views = tuple(f"{join.view}." for join in features.joins)
    declared = pa.schema([field for field in features.inputs if not field.name.startswith(views)])
    rows = conformed(request_rows(snapshots), declared, called="the snapshots", strict=False)
    for seen in (seen_column(join.view) for join in features.joins):
        if seen in snapshots.column_names:
            rows = rows.append_column(seen, snapshots.column(seen))
    return rows


def read_of(features: FeatureSet) -> list[str]:
    """The columns of snapshots that :func:`served_rows` reads where they are there."""
    return [*REQUEST_COLUMNS, *(seen_column(join.view) for join in features.joins)]


def archived_events(project: Project, stores: Stores) -> dict[str, DayFiles]:
    """The archived log of every stream."""
    return {
        name: DayFiles.archived(
            stores.registry,
            stores.offline,
            name,
            stream.event_time,
            stream.schema.arrow,
            struct_members=struct_members(project.stream_views.values(), stream),
        )
        for name, stream in project.streams.items()
    }


def batch_versions(project: Project, stores: Stores) -> BatchVersions:
    """The batch views' versions, as the worker reads them. Tables are found from any folder, on whichever machine."""
    config = project.config.model_copy(update={"root": project.config.root.absolute()})
    return BatchVersions(project.batch_views, stores.registry, stores.offline, partial(load_table, config))


def scratch_folder(project: Project, what: str) -> Path:
    """Where a job may write what it throws away."""
    return project.config.path(project.config.storage.state) / "scratch" / what


@contextmanager
def cluster_of(config: BatchConfig, engine: str | None = None, master: str | None = None) -> Iterator[Cluster | None]:
    """The cluster of ``[batch]``, or of ``engine`` and ``master`` instead; None where this process is to compute.

    What it starts is stopped when the block ends.

    Raises:
        ConfigError: Spark is not installed, or does not start.
    """
    if (engine or config.engine) == "local":
        yield None
        return
    from dovetail.spark.session import open_cluster  # a command that computes here need not know it

    cluster = open_cluster(master or config.master, config.spark)
    try:
        yield cluster
    finally:
        cluster.stop()


@contextmanager
def day_engine(config: BatchConfig, engine: str | None = None, master: str | None = None) -> Iterator[DayEngine]:
    """The engine of days on :func:`cluster_of`, or in this process."""
    with cluster_of(config, engine, master) as cluster:
        if cluster is None:
            yield LocalDays()
            return
        from dovetail.spark import SparkDays

        yield SparkDays(cluster, config.span_rows)
