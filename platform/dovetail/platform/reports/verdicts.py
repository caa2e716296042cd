"""Verdicts over a worker's stores: the audit, and served against recomputed."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from itertools import pairwise

import pyarrow as pa

from dovetail.features import Project
from dovetail.features.batch.features import evaluate_feature_set
from dovetail.features.batch.features import seen_column as batch_seen_column
from dovetail.features.consistency import Consistency, compare
from dovetail.joiners.samples import Lane, lanes_of
from dovetail.joiners.snapshots import request_rows, seen_column
from dovetail.platform.accounts import READ, Account
from dovetail.platform.app import Stores, Worker, load_table
from dovetail.platform.archive import read_dataset
from dovetail.platform.audit import Audit, Check, audit

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
        what, given = "made", made
        if primary.order is not None:
            what, given = "ordered", totals.get((f"order.{primary.samples_topic}", "ordered"), 0)
        checks.append(Check(f"samples: {what}, and trained on", given, totals.get(("trainer", "trained"), 0)))
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
    requests = request_rows(snapshots)
    for join in project.feature_set.joins:
        if join.kind == "streaming":
            requests = requests.append_column(batch_seen_column(join.view), snapshots.column(seen_column(join.view)))
    return requests


def consistency_of(project: Project, stores: Stores) -> Consistency:
    """Every archived snapshot value against its recomputation in DuckDB from the archived events."""
    snapshots = read_dataset(stores.registry, stores.offline, "snapshots")
    if snapshots.num_rows == 0:
        return Consistency()
    events = {
        name: read_dataset(stores.registry, stores.offline, name, stream.schema.arrow)
        for name, stream in project.streams.items()
    }
    requests = served_requests(project, snapshots)
    tables = partial(load_table, project.config)
    served = evaluate_feature_set(project, requests, events, tables, visibility="as_served")
    happened = evaluate_feature_set(project, requests, events, tables, visibility="event_time")
    names = [c.name for c in project.feature_set.columns_of("request", "streaming")]
    return compare(snapshots, served, happened, names)
