"""Served against recomputed, over what is archived: day by day, on the engine of days."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import pyarrow as pa
import pyarrow.compute as pc

from dovetail.app.jobs import archived_events, batch_versions, read_of, scratch_folder, served_rows
from dovetail.app.reports.rekeyed_rows import RekeyedRows, rekeyed_from_views
from dovetail.app.storage import Stores
from dovetail.features import Project
from dovetail.features.batch.pieces import Limits, OnStep
from dovetail.features.batch.reproduce import reproduce
from dovetail.features.plan.definitions import FeatureColumn, FeatureSet
from dovetail.features.stored.backfill import needed_fields
from dovetail.features.stored.consistency import Consistency, compare, merged
from dovetail.features.stored.day_engine import DayEngine, DayWork, LocalDays, Part
from dovetail.features.stored.past_requests import RequestLog
from dovetail.features.stored.registration import refuse_changed
from dovetail.joiners.snapshots.shape import KEYS, SET_COLUMN
from dovetail.platform.archive.dayfiles import DAY_US, DayFiles, day_start_us
from dovetail.platform.errors import ConfigError
from dovetail.platform.rows.evolution import conformed

__all__ = ["consistency_of"]


def consistency_of(
    project: Project,
    stores: Stores,
    *,
    days: Sequence[str] | None = None,
    limits: Limits | None = None,
    engine: DayEngine | None = None,
    on_day: Callable[[str, int, int], None] | None = None,
    on_step: OnStep | None = None,
) -> Consistency:
    """Every archived snapshot value against its recomputation in DuckDB from the archived events, day by day.

    Each snapshot is recomputed by the feature set that made it. So is, in this process, what rows of re-keyed streams
    have of streaming views, from the stream that they are made of; a feature is called ``stream.column`` there.
    ``days`` chooses some; ``on_day(day, days done, of)`` is called after each day of snapshots. Memory is bounded by
    ``limits``, not by the number of snapshots or events; neither those nor the ``engine``, this process if left out,
    change the verdict.

    Raises:
        ConfigError: a feature set that made snapshots is not there any more.
        DefinitionError: a definition that has data means something else now.
    """
    refuse_changed(project, stores.registry, stores.online)
    name = project.config.in_scene("snapshots")
    snapshots = DayFiles.archived(stores.registry, stores.offline, name, "request_time")
    chosen = [day for day in snapshots.days() if days is None or day in days]
    sets = {day: _sets_of(project, snapshots, day) for day in chosen}
    engine, left = engine or LocalDays(), Counter({day: len(made_by) for day, made_by in sets.items()})
    found: dict[str, dict[str, Consistency]] = {day: {} for day in chosen}
    compared: dict[str, _Compared] = {}
    for name in sorted({name for made_by in sets.values() for name in made_by}):
        mine = [day for day in chosen if name in sets[day]]
        compared[name] = _Compared(project, stores, snapshots, project.feature_sets[name])
        work = compared[name].work(limits or Limits())
        for span in work.spans(mine, engine.span_rows):
            for day, verdict in engine.days(work, span, compared[name].comparing(), on_step):
                found[day][name] = verdict
                left[day] -= 1
                if on_day is not None and not left[day]:
                    on_day(day, sum(not count for count in left.values()), len(chosen))
    events = archived_events(project, stores)
    writers: dict[str, Callable[[pa.Table], str]] = {
        shown: partial(_by_hand, project, column, events)
        for one in compared.values()
        for shown, column in one.shown().items()
    }
    verdicts = [found[day][name] for day in chosen for name in sorted(found[day])]
    for stream in rekeyed_from_views(project):
        rows = RekeyedRows(project, stores, stream, limits or Limits())
        writers |= rows.writers()
        verdicts += [merged(rows.day(day)) for day in rows.days() if days is None or day in days]
    whole = merged(verdicts)
    return whole.written(lambda feature, request: writers[feature](request))


def _by_hand(project: Project, column: FeatureColumn, events: Mapping[str, DayFiles], request: pa.Table) -> str:
    return reproduce(project, column, request, events)


def _sets_of(project: Project, snapshots: DayFiles, day: str) -> set[str]:
    """The feature sets that made snapshots of a day.

    Raises:
        ConfigError: one of them is gone.
    """
    low, high = day_start_us(day), day_start_us(day) + DAY_US - 1
    made_by: set[str] = set()
    # Files from before there was such a column are read whole.
    named = all(SET_COLUMN in schema.names for schema in snapshots.schemas(low, high))
    for part in snapshots.read([SET_COLUMN] if named else None, low, high):
        made_by.update(pc.unique(_made_by(part, project.feature_set.name)).to_pylist())
    gone = sorted(made_by - set(project.feature_sets))
    if gone:
        raise ConfigError(
            f"snapshots of {day} were made by feature set {gone[0]!r}, which is gone; put {gone[0]}.sql back"
        )
    return made_by


def _made_by(snapshots: pa.Table, default: str) -> pa.ChunkedArray:
    """The feature set of each row, ``default`` where that was not noted yet."""
    if SET_COLUMN in snapshots.column_names:
        return snapshots.column(SET_COLUMN)
    return pa.chunked_array([pa.repeat(pa.scalar(default), snapshots.num_rows)])


class _Compared:
    """The snapshots of one feature set, as work for an engine."""

    def __init__(self, project: Project, stores: Stores, snapshots: DayFiles, features: FeatureSet) -> None:
        self._project, self._stores, self._snapshots, self._features = project, stores, snapshots, features
        self._columns = features.columns_of("request", "streaming")

    def work(self, limits: Limits) -> DayWork:
        """The recomputation of what snapshots hold, with what they had seen and by event time."""
        project, stores, features = self._project, self._stores, self._features
        needed = needed_fields(project, features, self._columns)
        shape = partial(_rows_of, features, project.feature_set.name)
        return DayWork(
            features,
            self._columns,
            project.stream_views,
            project.batch_views,
            archived_events(project, stores),
            RequestLog(self._snapshots, needed, shape=shape, reads=[*read_of(features), SET_COLUMN]),
            batch_versions(project, stores),
            scratch_folder(project, f"consistency-{os.getpid()}"),
            "as_served",
            limits,
            both=True,
        )

    def comparing(self) -> _Comparing:
        """The consumer that compares a day's snapshots."""
        given = pa.schema([pa.field(column.name, column.type) for column in self._columns])
        default = self._project.feature_set.name
        return _Comparing(self._snapshots.portable(), self._features.name, default, given, self._prefix)

    def shown(self) -> Mapping[str, FeatureColumn]:
        """The columns by the names that they are shown under: of a set that does not serve any more, with its name."""
        return {f"{self._prefix}{column.name}": column for column in self._columns}

    @property
    def _prefix(self) -> str:
        return "" if self._features.name == self._project.feature_set.name else f"{self._features.name}."


@dataclass(frozen=True, slots=True)
class _Comparing:
    """Compares the snapshots that ``features`` made with their recomputation, wherever a day is computed.

    ``given`` are the columns as they are declared now, ``prefix`` is shown before their names.
    """

    snapshots: DayFiles
    features: str
    default: str
    given: pa.Schema
    prefix: str

    def __call__(self, day: str, parts: Iterator[Part]) -> Consistency:
        served = _Cut(self._served(day))
        found = merged(
            compare(served.next(part.requests.num_rows), part.values, part.happened, self.given.names, part.requests)
            for part in parts
        )
        served.require_end(day)
        return Consistency(tuple(replace(f, feature=f"{self.prefix}{f.feature}") for f in found.features))

    def _served(self, day: str) -> Iterator[pa.Table]:
        low = day_start_us(day)
        for part in self.snapshots.read((), low, low + DAY_US - 1, optional=[*KEYS, SET_COLUMN, *self.given.names]):
            mine = _of_set(part, self.features, self.default)
            if mine.num_rows:  # those of before a column became wider have the same values
                yield conformed(mine, self.given, called="the snapshots", strict=False)


class _Cut:
    """Tables one after the other, given out in pieces of other sizes: where a file is cut depends on what is read."""

    def __init__(self, tables: Iterator[pa.Table]) -> None:
        self._tables = tables
        self._rest: list[pa.Table] = []
        self._rows = 0

    def next(self, rows: int) -> pa.Table:
        """The next ``rows``, at least one. Raises ValueError if there are not so many."""
        while self._rows < rows:
            if (table := next(self._tables, None)) is None:
                raise ValueError(f"{rows} rows have been recomputed, of {self._rows} snapshots")
            self._rest.append(table)
            self._rows += table.num_rows
        whole = self._rest[0] if len(self._rest) == 1 else pa.concat_tables(self._rest, promote_options="permissive")
        self._rows -= rows
        self._rest = [whole.slice(rows)] if self._rows else []
        return whole.slice(0, rows)

    def require_end(self, day: str) -> None:
        """Raise ValueError if rows are left."""
        if self._rows or any(table.num_rows for table in self._tables):
            raise ValueError(f"snapshots of {day} have not been recomputed")


def _of_set(snapshots: pa.Table, features: str, default: str) -> pa.Table:
    mine = pc.equal(_made_by(snapshots, default), features)
    return snapshots if pc.sum(mine).as_py() == snapshots.num_rows else snapshots.filter(mine)


def _rows_of(features: FeatureSet, default: str, snapshots: pa.Table) -> pa.Table:
    """The request rows of those snapshots that ``features`` made."""
    return served_rows(features, _of_set(snapshots, features.name, default))
