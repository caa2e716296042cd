"""Verdicts over a worker's stores: the audit, and served against recomputed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import pairwise

import pyarrow as pa

from dovetail.features import Project
from dovetail.features.batch.pieces import Limits, PieceEvaluator, Span
from dovetail.features.batch.reproduce import reproduce
from dovetail.features.batch.streaming import Visibility
from dovetail.features.consistency import Consistency, compare, merged
from dovetail.joiners.samples import Lane, lanes_of
from dovetail.platform.accounts import READ, Account
from dovetail.platform.app import Stores, Worker
from dovetail.platform.audit import Audit, Check, audit
from dovetail.platform.dayfiles import DAY_US, DayFiles, day_start_us
from dovetail.platform.jobs import archived_events, batch_versions, scratch_folder, served_rows

__all__ = ["audit_worker", "consistency_of", "served_requests"]


def audit_worker(worker: Worker) -> Audit:
    """All accounts of a stopped worker, and that what one stage gave is what the next one got."""
    accounts = worker.accounts()
    totals = _totals(accounts)
    labels = worker.stores.labels.outcomes()
    kinds = worker.project.config.labels.streams
    snapshots = totals.get(("snapshots.candidates", "snapshotted"), 0)
    primary = worker.project.config.labels
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
    if "samples" in worker.stages:
        checks += [
            Check(
                "snapshot rows: taken, and met by the sample agent",
                snapshots,
                _met(totals, lanes[0]),
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
        if primary.policy == "delayed":
            sampled = totals.get(("samples", "sampled"), 0)
            marked = labels.get((primary.exposure, "sampled"), 0)
            checks.append(Check("exposed rows: sampled, and exposures marked as sampled", sampled, marked))
    if "trainer" in worker.stages:
        checks.append(Check("samples: made, and trained on", made, totals.get(("trainer", "trained"), 0)))
    if "archive.samples" in worker.stages:
        checks += [
            Check("samples: made, and archived", made, totals.get(("archive.samples", "archived"), 0)),
            Check("snapshot rows: taken, and archived", snapshots, totals.get(("archive.snapshots", "archived"), 0)),
        ]
    return audit(accounts, checks)


def _met(totals: Mapping[tuple[str, str], int], lane: Lane) -> int:
    return totals.get((lane.name, READ), 0) - totals.get((lane.name, "duplicate"), 0)


def _totals(accounts: list[Account]) -> dict[tuple[str, str], int]:
    totals: dict[tuple[str, str], int] = {}
    for account in accounts:
        key = (account.stage, account.outcome)
        totals[key] = totals.get(key, 0) + account.rows
    return totals


def served_requests(project: Project, snapshots: pa.Table) -> pa.Table:
    """The flattened requests that ``snapshots`` answered, with the positions each streaming view had seen."""
    return served_rows(project.feature_set, snapshots)


def consistency_of(
    project: Project,
    stores: Stores,
    *,
    days: Sequence[str] | None = None,
    limits: Limits | None = None,
    on_day: Callable[[str, int, int], None] | None = None,
) -> Consistency:
    """Every archived snapshot value against its recomputation in DuckDB from the archived events, day by day.

    ``days`` chooses some; ``on_day(day, days done, of)`` is called after each. Memory is bounded by ``limits``, not by
    the number of snapshots or events.
    """
    snapshots = DayFiles.archived(stores.registry, stores.offline, "snapshots", "request_time")
    chosen = [day for day in snapshots.days() if days is None or day in days]
    compared = _Compared(project, stores, snapshots, limits or Limits())
    results: list[Consistency] = []
    for number, day in enumerate(chosen, start=1):
        results.append(merged([*results[-1:], *compared.day(day)]))
        if on_day is not None:
            on_day(day, number, len(chosen))
    return results[-1] if results else Consistency()


class _Compared:
    """Compares snapshots of a day at a time."""

    def __init__(self, project: Project, stores: Stores, snapshots: DayFiles, limits: Limits) -> None:
        self._project, self._snapshots, self._limits = project, snapshots, limits
        self._events = archived_events(project, stores)
        self._columns = {c.name: c for c in project.feature_set.columns_of("request", "streaming")}
        self._table_of = batch_versions(project, stores).table

    def day(self, day: str) -> Iterator[Consistency]:
        """The verdict on each part of the day's snapshots."""
        low = day_start_us(day)
        high = low + DAY_US - 1

        def requests() -> Iterator[pa.Table]:
            return (served_requests(self._project, part) for part in self._snapshots.read(None, low, high))

        span = Span(self._snapshots.days()[day], low, high)
        served = self._evaluator("as_served").evaluate(requests, span)
        happened = self._evaluator("event_time").evaluate(requests, span)
        parts = self._snapshots.read(None, low, high)
        for snapshots, (rows, then), (_, all_) in zip(parts, served, happened, strict=True):
            reproduced = partial(self._reproduce, rows)
            yield compare(snapshots, then, all_, list(self._columns), reproduced)

    def _evaluator(self, visibility: Visibility) -> PieceEvaluator:
        project = self._project
        return PieceEvaluator(
            project.feature_set,
            list(self._columns.values()),
            project.stream_views,
            project.batch_views,
            self._events,
            self._table_of,
            visibility=visibility,
            limits=self._limits,
            scratch=scratch_folder(project, f"consistency-{visibility}"),
        )

    def _reproduce(self, requests: pa.Table, feature: str, row: int) -> str:
        return reproduce(self._project, self._columns[feature], requests.slice(row, 1), self._events)
