"""Verdicts over a worker's stores: the audit, and served against recomputed."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise

import pyarrow as pa
import pyarrow.compute as pc

from dovetail.app.jobs import (
    archived_events,
    batch_versions,
    scratch_folder,
    served_rows,
)
from dovetail.app.storage import Stores
from dovetail.app.worker import Worker
from dovetail.features import Project
from dovetail.features.batch.pieces import Limits, PieceEvaluator, Span
from dovetail.features.batch.reproduce import reproduce
from dovetail.features.plan.definitions import FeatureColumn, FeatureSet
from dovetail.features.plan.rekeyed import stage_name
from dovetail.features.stored.consistency import Consistency, compare, merged
from dovetail.features.stored.registration import refuse_changed
from dovetail.joiners.meanings.registered import known_meanings
from dovetail.joiners.sample_agent import Lane, lanes_of
from dovetail.joiners.snapshots.shape import SET_COLUMN
from dovetail.platform.archive.dayfiles import DAY_US, DayFiles, day_start_us
from dovetail.platform.errors import ConfigError
from dovetail.platform.rows.accounts import READ, Account
from dovetail.platform.rows.audit import Audit, Check, audit
from dovetail.platform.rows.evolution import conformed
from dovetail.platform.stores.labels import let_go_scope, repeated_scope

__all__ = ["audit_books", "audit_worker", "consistency_of"]


def audit_worker(worker: Worker, *, settled: bool = True) -> Audit:
    """All accounts of a stopped worker, and that what one stage gave is what the next one got.

    ``settled``: every stage has read its topics to their end. Without it, rows may be on the way from one stage to the
    next wherever the stored positions do not say otherwise.
    """
    return audit_books(worker.project, worker.stores, worker.accounts(), worker.stages, settled=settled)


def audit_books(
    project: Project, stores: Stores, accounts: Sequence[Account], stages: Collection[str], *, settled: bool = True
) -> Audit:
    """As :func:`audit_worker`, of the ``accounts`` of ``stages``, wherever they have come from."""
    totals = _totals(list(accounts))
    labels = stores.labels.outcomes()
    kinds = project.config.labels.streams
    snapshots = totals.get(("snapshots.candidates", "snapshotted"), 0)
    archived = totals.get(("archive.snapshots", "archived"), 0)
    primary = project.config.labels
    lanes = lanes_of("", primary.samples_topic, primary.held_topics)
    made = sum(totals.get((f"{lane.name}.made", READ), 0) for lane in lanes)
    checks = [
        Check(
            f"{kind} labels: inserted, and rows in the label store",
            totals.get((f"labels.{kind}", "inserted"), 0),
            sum(rows for (label, _), rows in labels.items() if label == kind),
        )
        for kind in kinds
    ]
    checks += _kept_by_themselves(stores, totals)
    if "samples" in stages:
        checks += [
            Check(
                "snapshot rows: taken, and met by the sample agent",
                snapshots,
                _met(totals, lanes[0]),
                not settled and not (archived == snapshots and _as_far(stores, lanes[0].name, "snapshots")),
            ),
        ]
        checks += [
            Check(
                f"rows met by {after.name} that {before.name} has not held",
                max(0, _met(totals, after) - totals.get((f"{before.name}.held", READ), 0)),
                0,
            )
            for before, after in pairwise(lanes)
        ]
        meanings = known_meanings(project.config, project.label_schemas, stores.registry)
        policies = {(one.policy, one.exposure) for one in (meaning.targets[""] for meaning in meanings.all())}
        rules = [one.rules[primary.exposure] for one in meanings.all() if primary.exposure in one.rules]
        # Where every label of a kind is kept, a later one may count when the first is marked as early or taken back.
        if policies == {("delayed", primary.exposure)} and not any(rule.whole for rule in rules):
            sampled = totals.get(("samples", "sampled"), 0)
            marked = labels.get((primary.exposure, "sampled"), 0)
            again = totals.get((repeated_scope(primary.exposure), "sampled"), 0)
            what = "exposed rows: sampled, and exposures marked as sampled or met again"
            checks.append(Check(what, sampled, marked + again))
    if "trainer" in stages:
        what, given = "made", made  # those that a seeded model was not to be trained on are left out
        if primary.order is not None:
            what, given = "ordered", totals.get((f"order.{primary.samples_topic}", "ordered"), 0)
        trained = totals.get(("trainer", "trained"), 0) + totals.get(("trainer", "left_out"), 0)
        checks.append(Check(f"samples: {what}, and trained on", given, trained, not settled))
    if "archive.samples" in stages:
        checks += [
            Check("samples: made, and archived", made, totals.get(("archive.samples", "archived"), 0), not settled),
            Check("snapshot rows: taken, and archived", snapshots, archived, not settled),
        ]
        checks += [
            _rekeyed(totals, name, declared.stream, settled) for name, declared in project.config.rekeyed.items()
        ]
    return audit(accounts, checks)


def _kept_by_themselves(stores: Stores, totals: Mapping[tuple[str, str], int]) -> Iterator[Check]:
    """Of kinds of which every label is kept: each that was is in the label store, or was let go.

    A store of the version before has some that nobody counted: these do not count here either.
    """
    held = stores.labels.events()
    for stage, outcome in totals:
        if outcome != "kept" or not stage.startswith("labels."):
            continue
        kind, kept = stage.removeprefix("labels.").removesuffix(".kept"), totals[stage, outcome]
        found = held.get(kind, 0) + totals.get((let_go_scope(kind), "let_go"), 0)
        what = f"{kind} labels kept by themselves: kept, and in the label store or let go"
        yield Check(what, kept, min(kept, found))


def _rekeyed(totals: Mapping[tuple[str, str], int], name: str, stream: str, settled: bool) -> Check:
    """What was re-keyed is archived, or a dead letter: a view that came later may have no value for it."""
    given, archived = totals.get((stage_name(name), "rekeyed"), 0), totals.get((f"archive.{name}", "archived"), 0)
    # A dead letter published again after a crash is counted again: it has no position to be known by.
    dead = min(totals.get((f"archive.{name}", "dead_letter"), 0), max(0, given - archived))
    return Check(f"events of {stream}: re-keyed, and archived as {name}", given, archived + dead, not settled)


def _as_far(stores: Stores, lane: str, dataset: str) -> bool:
    """Whether a lane's agent has read exactly as far as the archive of its topic."""
    read, kept = stores.labels.progress(lane), stores.registry.progress(f"archive.{dataset}")
    return {p: at.next_offset for p, at in read.items()} == {p: at.next_offset for p, at in kept.items()}


def _met(totals: Mapping[tuple[str, str], int], lane: Lane) -> int:
    return totals.get((lane.name, READ), 0) - totals.get((lane.name, "duplicate"), 0)


def _totals(accounts: list[Account]) -> dict[tuple[str, str], int]:
    totals: dict[tuple[str, str], int] = {}
    for account in accounts:
        key = (account.stage, account.outcome)
        totals[key] = totals.get(key, 0) + account.rows
    return totals


def consistency_of(
    project: Project,
    stores: Stores,
    *,
    days: Sequence[str] | None = None,
    limits: Limits | None = None,
    on_day: Callable[[str, int, int], None] | None = None,
) -> Consistency:
    """Every archived snapshot value against its recomputation in DuckDB from the archived events, day by day.

    Each snapshot is recomputed by the feature set that made it. ``days`` chooses some; ``on_day(day, days done, of)``
    is called after each. Memory is bounded by ``limits``, not by the number of snapshots or events.

    Raises:
        ConfigError: a feature set that made snapshots is not there any more.
        DefinitionError: a definition that has data means something else now.
    """
    refuse_changed(project, stores.registry, stores.online)
    snapshots = DayFiles.archived(stores.registry, stores.offline, "snapshots", "request_time")
    chosen = [day for day in snapshots.days() if days is None or day in days]
    compared = _Compared(project, stores, snapshots, limits or Limits())
    results: list[Consistency] = []
    for number, day in enumerate(chosen, start=1):
        results.append(merged([*results[-1:], *compared.day(day)]))
        if on_day is not None:
            on_day(day, number, len(chosen))
    return results[-1].written() if results else Consistency()


class _Compared:
    """Compares snapshots of a day at a time, those of each feature set by itself."""

    def __init__(self, project: Project, stores: Stores, snapshots: DayFiles, limits: Limits) -> None:
        self._project, self._snapshots, self._limits = project, snapshots, limits
        self._events = archived_events(project, stores)
        self._table_of = batch_versions(project, stores).table

    def day(self, day: str) -> Iterator[Consistency]:
        """The verdict on each part of the day's snapshots."""
        low = day_start_us(day)
        span = Span(self._snapshots.days()[day], low, low + DAY_US - 1)
        made_by: set[str] = set()
        # Files from before there was such a column are read whole.
        named = all(SET_COLUMN in schema.names for schema in self._snapshots.schemas(span.low_us, span.high_us))
        for part in self._snapshots.read([SET_COLUMN] if named else None, span.low_us, span.high_us):
            made_by.update(pc.unique(self._made_by(part)).to_pylist())
        for name in sorted(made_by):
            if name not in self._project.feature_sets:
                raise ConfigError(
                    f"snapshots of {day} were made by feature set {name!r}, which is gone; put {name}.sql back"
                )
            yield from self._of_set(self._project.feature_sets[name], span)

    def _made_by(self, snapshots: pa.Table) -> pa.ChunkedArray:
        if SET_COLUMN in snapshots.column_names:
            return snapshots.column(SET_COLUMN)
        return pa.chunked_array([pa.repeat(pa.scalar(self._project.feature_set.name), snapshots.num_rows)])

    def _of_set(self, features: FeatureSet, span: Span) -> Iterator[Consistency]:
        columns = {c.name: c for c in features.columns_of("request", "streaming")}
        given = pa.schema([pa.field(column.name, column.type) for column in columns.values()])

        def snapshots() -> Iterator[pa.Table]:
            for part in self._snapshots.read(None, span.low_us, span.high_us):
                mine = part.filter(pc.equal(self._made_by(part), features.name))
                if mine.num_rows:  # those of before a column became wider have the same values
                    yield conformed(mine, given, called="the snapshots", strict=False)

        def requests() -> Iterator[pa.Table]:
            return (served_rows(features, part) for part in snapshots())

        evaluated = self._evaluator(features, columns).evaluate_both(requests, span)
        for part, (rows, then, all_) in zip(snapshots(), evaluated, strict=True):
            reproduced = partial(self._reproduce, columns, rows)
            yield self._named(features, compare(part, then, all_, list(columns), reproduced))

    def _named(self, features: FeatureSet, found: Consistency) -> Consistency:
        """Features of a set that does not serve any more are shown with its name."""
        if features.name == self._project.feature_set.name:
            return found
        return Consistency(tuple(replace(f, feature=f"{features.name}.{f.feature}") for f in found.features))

    def _evaluator(self, features: FeatureSet, columns: Mapping[str, FeatureColumn]) -> PieceEvaluator:
        return PieceEvaluator(
            features,
            list(columns.values()),
            self._project.stream_views,
            self._project.batch_views,
            self._events,
            self._table_of,
            visibility="as_served",
            limits=self._limits,
            scratch=scratch_folder(self._project, f"consistency-{os.getpid()}"),
        )

    def _reproduce(
        self, columns: Mapping[str, FeatureColumn], requests: pa.Table, feature: str, row: int
    ) -> Callable[[], str]:
        """A function that writes the script for one value; it holds on to that request alone."""
        return partial(reproduce, self._project, columns[feature], requests.take([row]), self._events)
