"""The batch join on a cluster, over everything archived: the samples of ``rejoin.py``, made and compared in tasks."""

from __future__ import annotations

import posixpath
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import pyarrow as pa

from dovetail.app.datasets import ANNOUNCED, samples_dataset
from dovetail.app.jobs import batch_versions
from dovetail.app.label_meanings import with_meanings
from dovetail.app.reports.archived import label_columns, released_positions, target_of
from dovetail.app.reports.rejoin import JoinDifference, JoinedDays, difference_between
from dovetail.app.storage import Stores
from dovetail.features import Project
from dovetail.features.plan.request import CANDIDATES
from dovetail.joiners.meanings.known import Meanings
from dovetail.platform.archive.joined_days import DayDraft, draft_day, keep_days
from dovetail.platform.rows.encodings.shared import spread
from dovetail.platform.rows.positions import own_position_columns
from dovetail.platform.stores.offline import OfflineStore
from dovetail.platform.stores.registry.store import DataFile
from dovetail.spark.cluster import Cluster
from dovetail.spark.label_join import JoinWork, Log, LogPart, SnapshotFile, SparkJoin

__all__ = ["join_on_cluster"]


class _DayResult(NamedTuple):
    rows: int
    columns: pa.Schema
    draft: DayDraft | None
    compared: JoinDifference | None


@dataclass(frozen=True, slots=True)
class _TakeDay:
    """Writes a day's samples as a draft, and compares them with what is archived of the day, wherever it is called."""

    out: OfflineStore | None
    offline: OfflineStore
    archived: Mapping[str, Sequence[str]] | None

    def __call__(self, day: str, columns: pa.Schema, parts: Iterator[pa.Table]) -> _DayResult:
        compared = None
        if self.archived is not None:
            batch = pa.concat_tables([columns.empty_table(), *parts])
            parts = iter([batch])
            stream = [spread(self.offline.read(path)) for path in self.archived.get(day, ())]
            together = pa.concat_tables(stream, promote_options="permissive") if stream else pa.table({})
            compared = difference_between(batch, together)
        if self.out is None:
            return _DayResult(sum(part.num_rows for part in parts), columns, None, compared)
        draft = draft_day(self.out, day, columns, parts)
        return _DayResult(draft.rows, columns, draft, compared)


def join_on_cluster(
    project: Project, stores: Stores, cluster: Cluster, *, target: str = "", out: str | None, compare: bool
) -> JoinedDays:
    """The samples of :func:`~dovetail.app.reports.rejoin.join_archived`, by day below ``out``, if given.

    ``out`` is a folder or URL by the name that the registry knows it by. Files count, all at once, when every task has
    done its work; until then, and where one fails, there are none.

    Raises:
        ConfigError: there is no such target.
        WireError, StateError, StoreError: files do not fit each other, or are gone.
    """
    project, meanings = with_meanings(project, stores)
    target_of(project, target)
    archived: dict[str, list[DataFile]] = {}
    for file in stores.registry.files(samples_dataset(target, project.config.scene)) if compare else ():
        archived.setdefault(file.day, []).append(file)
    work = _work(project, stores, meanings, target)
    found: dict[str, _DayResult] = {}
    store = None if out is None else OfflineStore(out)
    if work.snapshots:
        take = _TakeDay(
            store,
            stores.offline,
            {day: [file.path for file in files] for day, files in archived.items()} if compare else None,
        )
        try:
            found.update(SparkJoin(cluster).days(work, meanings, batch_versions(project, stores), take))
        except BaseException:
            _remove(store, (one.draft for one in found.values()))
            raise
    drafts = [one.draft for one in found.values() if one.draft is not None]
    files = keep_days(stores.registry, out, drafts) if out is not None else []
    columns = next((one.columns for one in found.values()), pa.schema([]))
    only_stream = sum(file.rows for day, files_ in archived.items() if day not in found for file in files_)
    rest = JoinDifference(0, 0, only_stream, {})
    compared = _together([rest, *(one.compared for one in found.values() if one.compared is not None)])
    return JoinedDays(sum(one.rows for one in found.values()), columns, files, compared if compare else None)


def _work(project: Project, stores: Stores, meanings: Meanings, target: str) -> JoinWork:
    registry, labels, dataset = stores.registry, project.config.labels, project.config.in_scene("snapshots")
    logs: list[Log] = []
    parts: list[LogPart] = []
    for kind, columns in label_columns(project, meanings).items():
        logs.append(_log(stores, kind, "event_time", columns, [kind], labels.attributed.get(kind)))
        parts += _parts(len(logs) - 1, registry.files(kind))
    if labels.attributed:
        wanted = ("request_id", "user_id", "request_time", CANDIDATES)
        columns = pa.schema([*(f for f in project.request.arrow if f.name in wanted), *own_position_columns()])
        datasets = ["requests", ANNOUNCED]
        logs.append(_log(stores, "", "request_time", columns, datasets))
        parts += _parts(len(logs) - 1, [file for name in datasets for file in registry.files(name)])
    return JoinWork(
        stores.offline,
        [SnapshotFile(f.path, f.day, f.partition, f.first_offset, f.rows) for f in registry.files(dataset)],
        registry.refused_rows(dataset),
        logs,
        parts,
        target,
        project.feature_set,
        project.batch_views,
        labels.allowed_lateness,
        project.config.request.allowed_lateness,
        released_positions(project, stores, target),
    )


def _log(
    stores: Stores, name: str, time: str, columns: pa.Schema, datasets: Sequence[str], within_us: int | None = None
) -> Log:
    nullable = pa.schema([field.with_nullable(True) for field in columns])
    return Log(name, time, nullable, {one: stores.registry.refused_rows(one) for one in datasets}, within_us)


def _parts(log: int, files: Iterable[DataFile]) -> Iterator[LogPart]:
    """The files of a log by partition, those with offsets between each other's together: a flush writes one a day."""
    held: list[DataFile] = []
    for file in sorted(files, key=lambda file: (file.partition, file.first_offset, file.last_offset)):
        if held and (file.partition != held[0].partition or file.first_offset > max(f.last_offset for f in held)):
            yield _part(log, held)
            held = []
        held.append(file)
    if held:
        yield _part(log, held)


def _part(log: int, files: Sequence[DataFile]) -> LogPart:
    paths = [(file.dataset, file.path) for file in files]
    return LogPart(log, files[0].partition, files[0].first_offset, paths, sum(file.rows for file in files))


def _together(found: Iterable[JoinDifference]) -> JoinDifference:
    compared, batch, stream, columns = 0, 0, 0, Counter[str]()
    for one in found:
        compared, batch, stream = compared + one.compared, batch + one.only_batch, stream + one.only_stream
        columns.update(one.columns)
    return JoinDifference(compared, batch, stream, {name: columns[name] for name in sorted(columns)})


def _remove(out: OfflineStore | None, drafts: Iterable[DayDraft | None]) -> None:
    for draft in drafts:
        if out is not None and draft is not None:
            out.delete(posixpath.join(posixpath.dirname(draft.path), draft.draft))
