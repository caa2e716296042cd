"""Features for past requests, by day: what ``dovetail backfill`` does.

A day is done when its file is in place *and* the registry has its row: the file is written under its final name
first, then the row in one transaction, with what the day was made with. So an interrupted backfill goes on with the
days that are not done; one that is done does nothing; and a day whose requests or events have changed since (late
files in the archive) is made again.

Days are worked through in spans, so that events which the windows of many days reach back to are read once.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from dovetail.features.batch.explain import explain_features
from dovetail.features.batch.one_view import earliest_read
from dovetail.features.batch.pieces import Limits, OnStep
from dovetail.features.batch.streaming import Visibility
from dovetail.features.language.source import nearest
from dovetail.features.plan.definitions import (
    BatchView,
    FeatureColumn,
    FeatureSet,
    StreamView,
)
from dovetail.features.project import Project
from dovetail.features.stored.day_engine import DayEngine, DayWork, LocalDays, Part, Versions
from dovetail.features.stored.fingerprints import former_fingerprint, record_of
from dovetail.features.stored.past_requests import RequestLog, carried
from dovetail.platform.archive.dayfiles import (
    DAY_US,
    DayFiles,
    day_start_us,
)
from dovetail.platform.errors import ConfigError
from dovetail.platform.stores.offline import OfflineStore
from dovetail.platform.stores.registry.definition_log import BackfillDay, DefinitionUse
from dovetail.platform.stores.registry.store import Registry

__all__ = ["Backfill", "BackfillResult", "chosen_columns", "needed_fields"]

_KEYS = ("request_id", "item_id")


@dataclass(frozen=True, slots=True)
class BackfillResult:
    """Days written and days found done, and the rows of those written."""

    written: Sequence[str]
    done_before: Sequence[str]
    rows: int


def chosen_columns(features: FeatureSet, names: Sequence[str], called: str = "--columns") -> list[FeatureColumn]:
    """The keys and the named columns of ``features``, in the order written; all when no name is given.

    ``called`` is how whoever gave ``names`` calls them.

    Raises:
        ConfigError: a name is none of its columns.
    """
    known = [column.name for column in features.columns]
    for name in names:
        if name not in known:
            raise ConfigError(f"{called}: {features.name} has no column {name!r}; {nearest(name, known)}")
    return [c for c in features.columns if not names or c.name in names or c.origin == "key"]


def needed_fields(project: Project, features: FeatureSet, columns: Sequence[FeatureColumn]) -> pa.Schema:
    """The flat request's fields that ``columns`` are made of, keys and time included."""
    relations = {relation for column in columns for relation, _ in column.references}
    names = {name for column in columns for relation, name in column.references if relation == "request"}
    names |= {name for join in features.joins if join.view in relations for name in join.entity}
    names |= {*_KEYS, "request_time"}
    return pa.schema([field.with_nullable(True) for field in project.request_schema if field.name in names])


@dataclass(frozen=True, slots=True)
class Backfill:
    """One backfill: what, for whom, from what, where to.

    Attributes:
        out: the folder that gets ``day=YYYY-MM-DD/<inputs>.parquet``, a file a day, rows in the order of the requests.
        name: what the registry knows ``out`` by.
        columns: of :func:`chosen_columns`; with samples, those they already have must not be among them.
        engine: computes the days.
    """

    project: Project
    features: FeatureSet
    columns: Sequence[FeatureColumn]
    requests: RequestLog
    events: Mapping[str, DayFiles]
    versions: Versions
    registry: Registry
    out: OfflineStore
    name: str
    scratch: Path
    visibility: Visibility = "event_time"
    limits: Limits = field(default_factory=Limits)
    engine: DayEngine = field(default_factory=LocalDays)

    def explain(self) -> str:
        """The SQL that will run, as a script with comments: views, batch views, expressions."""
        return explain_features(self.project, self.features, self.columns, self.visibility)

    def days(self, first: str | None = None, last: str | None = None) -> list[str]:
        """The requests' days between ``first`` and ``last``, both included."""
        return [day for day in self.requests.days() if (not first or day >= first) and (not last or day <= last)]

    def run(
        self,
        first: str | None = None,
        last: str | None = None,
        *,
        on_day: Callable[[str, int, int], None] | None = None,
        on_step: OnStep | None = None,
    ) -> BackfillResult:
        """Write what is missing. ``on_day(day, days finished, of)`` is called after each day is committed.

        Raises:
            ConfigError: ``out`` has days of another backfill or scene, or samples have one of the columns already.
            WireError, StateError, DefinitionError: as evaluation.
        """
        self._claim()
        days = self.days(first, last)
        inputs = {day: self._inputs(day) for day in days}
        _, known = self.registry.backfill(self.name)
        done = [
            day
            for day in days
            if day in known and known[day].inputs == inputs[day] and self.out.exists(known[day].path)
        ]
        written: list[str] = []
        rows = 0
        work = self._work()
        for span in work.spans([day for day in days if day not in set(done)], self.engine.span_rows):
            for day, count in self._span(work, span, inputs, known, on_step):
                written.append(day)
                rows += count
                if on_day is not None:
                    on_day(day, len(done) + len(written), len(days))
        return BackfillResult(written, done, rows)

    # --- what, exactly -------------------------------------------------------------------------------------------

    def _views(self) -> list[StreamView]:
        relations = {relation for column in self.columns for relation, _ in column.references}
        views = self.project.stream_views
        return [views[j.view] for j in self.features.joins if j.view in relations and j.view in views]

    def _uses(self, *, former: bool = False) -> dict[str, str]:
        """Fingerprints of the feature set and the views that are read, by name."""
        relations = {relation for column in self.columns for relation, _ in column.references}
        both: dict[str, StreamView | BatchView] = {**self.project.stream_views, **self.project.batch_views}
        views = [both[join.view] for join in self.features.joins if join.view in relations]
        read: list[StreamView | BatchView | FeatureSet] = [self.features, *views]
        if former:
            return {definition.name: former_fingerprint(definition)[0] for definition in read}
        return {definition.name: record_of(definition).fingerprint for definition in read}

    def _claim(self) -> None:
        """Note what is backfilled into ``out``, or refuse when that is something else."""
        if self.requests.samples is not None:
            self._refuse_doubled(self.requests.samples)
        mine: dict[str, Any] = {
            "columns": {column.name: f"{column.resolved} :: {column.type}" for column in self.columns},
            "views": {name: mark for name, mark in self._uses().items() if name != self.features.name},
            "visibility": self.visibility,
            "samples": self.requests.samples is not None,
            "scene": self.project.config.scene or None,
        }
        job, _ = self.registry.backfill(self.name)
        if job is None:
            self.registry.begin_backfill(self.name, json.dumps(mine, sort_keys=True))
            return
        found = json.loads(job)
        if found.get("views") == {
            name: mark for name, mark in self._uses(former=True).items() if name in mine["views"]
        }:
            found["views"] = mine["views"]  # begun by a version that called the same meaning otherwise
        differs = [what for what in mine if mine[what] != found.get(what)]
        if differs:
            raise ConfigError(
                f"--out {self.name} has a backfill that differs in {' and '.join(differs)}; choose another folder, "
                "one has the rows of one definition and scene"
            )

    def _refuse_doubled(self, samples: DayFiles) -> None:
        schema = samples.schema()
        doubled = [c.name for c in self._added() if schema is not None and c.name in schema.names]
        if doubled:
            raise ConfigError(
                f"--samples have a column {doubled[0]!r} already; leave it out with --columns, or write it under "
                f"another name in {self.features.file}"
            )

    def _added(self) -> list[FeatureColumn]:
        """The columns of the output that samples do not bring."""
        return [c for c in self.columns if self.requests.samples is None or c.name not in _KEYS]

    def _inputs(self, day: str) -> str:
        """A hash of the files that the day's rows are made of."""
        start = day_start_us(day)
        parts = [self.requests.identity(day)]
        for view in self._views():
            reach = earliest_read(view, start)
            parts += [self.events[name].identity(reach, start + DAY_US - 1) for name in view.stream_names]
        return hashlib.sha256("|".join(parts).encode()).hexdigest()[:16]

    # --- how -----------------------------------------------------------------------------------------------------

    def _work(self) -> DayWork:
        return DayWork(
            self.features,
            self.columns,
            self.project.stream_views,
            self.project.batch_views,
            self.events,
            self.requests,
            self.versions,
            self.scratch,
            self.visibility,
            self.limits,
        )

    def _span(
        self,
        work: DayWork,
        days: Sequence[str],
        inputs: Mapping[str, str],
        known: Mapping[str, BackfillDay],
        on_step: OnStep | None,
    ) -> Iterator[tuple[str, int]]:
        """Write and commit the days one by one; gives each with its rows."""
        paths = {day: f"day={day}/{inputs[day]}.parquet" for day in days}
        added = [pa.field(column.name, column.type) for column in self._added()]
        write = _DayWriter(self.out, paths, self._schema(), added, samples=self.requests.samples is not None)
        for day, written in self.engine.days(work, days, write, on_step):
            yield self._finish(day, written, paths[day], inputs, known)

    def _finish(
        self, day: str, written: _Written, path: str, inputs: Mapping[str, str], known: Mapping[str, BackfillDay]
    ) -> tuple[str, int]:
        """Put the day's file in place and register it."""
        self.out.keep(written.draft, path)
        uses = [DefinitionUse(name, mark, f"backfill:{self.name}", day) for name, mark in self._uses().items()]
        self.registry.finish_backfill_day(BackfillDay(self.name, day, path, written.rows, inputs[day]), uses)
        if day in known and known[day].path != path:
            self.out.delete(known[day].path)
        return day, written.rows

    def _schema(self) -> pa.Schema:
        own = [pa.field(column.name, column.type) for column in self._added()]
        if self.requests.samples is None:
            return pa.schema([*own[:2], pa.field("request_time", pa.timestamp("us")), *own[2:]])
        return pa.schema([*(self.requests.samples.schema() or pa.schema([])), *own])


class _Written(NamedTuple):
    """The draft of a day's file, complete and not yet in place, and its rows."""

    draft: str
    rows: int


@dataclass(frozen=True, slots=True)
class _DayWriter:
    """Writes a day's file as a draft of its own, wherever the day is computed: a draft that nobody keeps is no file."""

    out: OfflineStore
    paths: Mapping[str, str]
    schema: pa.Schema
    added: Sequence[pa.Field]
    samples: bool

    def __call__(self, day: str, parts: Iterator[Part]) -> _Written:
        rows = 0
        with self.out.drafting(self.paths[day], self.schema) as (draft, writer):
            for part in parts:
                writer.write_table(self._output(part.requests, part.values).cast(self.schema))
                rows += part.values.num_rows
        return _Written(draft, rows)

    def _output(self, requests: pa.Table, values: pa.Table) -> pa.Table:
        if not self.samples:
            values = values.append_column("request_time", requests.column("request_time"))
            return values.select(self.schema.names)
        both = carried(requests)
        for column in self.added:
            both = both.append_column(column.name, values.column(column.name))
        return both.select(self.schema.names)
