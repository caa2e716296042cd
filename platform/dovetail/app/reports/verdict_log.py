"""The verdicts on a project's stores, kept with the registry: when each was given, and all that it said."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from dovetail.app.experiments.arm_metrics import ExperimentReport
from dovetail.features.batch.witness import Witnessed
from dovetail.features.stored.consistency import Consistency
from dovetail.joiners.batch.label_audit import LabelAudit
from dovetail.platform.clock import Clock
from dovetail.platform.rows.audit import Audit
from dovetail.platform.stores.registry.given_verdicts import Verdict
from dovetail.platform.stores.registry.store import Registry

__all__ = [
    "AUDIT",
    "CONSISTENCY",
    "GivenVerdict",
    "given_verdicts",
    "kind_of_experiment",
    "log_audit",
    "log_consistency",
    "log_experiment",
]

#: The kinds of verdicts.
AUDIT, CONSISTENCY = "audit", "consistency"


class GivenVerdict(NamedTuple):
    """A verdict as it was logged: ``report`` is what the command prints as JSON, in sums where that goes by day."""

    at_us: int
    holds: bool
    report: dict[str, Any]


def log_audit(
    registry: Registry,
    clock: Clock,
    result: Audit,
    labels: LabelAudit | None = None,
    target: str = "",
    scene: str = "",
) -> None:
    """Log an audit of a target: its checks, what is wrong, and labels and snapshots by outcome over all days."""
    outcomes: dict[str, dict[str, int]] = {}
    for line in labels.lines if labels is not None else ():
        mine = outcomes.setdefault(line.what, {})
        mine[line.outcome] = mine.get(line.outcome, 0) + line.rows
    report = {**result.to_json(), "outcomes": outcomes, "target": target, **_of(scene)}
    registry.add_verdict(Verdict(AUDIT, clock.now_us(), result.balanced, json.dumps(report)))


def log_consistency(
    registry: Registry,
    clock: Clock,
    found: Consistency,
    witness: Witnessed | None = None,
    days: int | None = None,
    scene: str = "",
) -> None:
    """Log served against recomputed, and the witness, if it was asked; ``days``: of so many only."""
    holds = found.mismatched == 0 and (witness is None or witness.mismatched == 0)
    report: dict[str, Any] = {**found.to_json(), "days": days, **_of(scene)}
    if witness is not None:
        report["witness"] = witness.to_json()
    registry.add_verdict(Verdict(CONSISTENCY, clock.now_us(), holds, json.dumps(report)))


def _of(scene: str) -> dict[str, str]:
    return {"scene": scene} if scene else {}


def kind_of_experiment(name: str) -> str:
    """The kind of the verdicts on an experiment, which hold when it is decided."""
    return f"experiment.{name}"


def log_experiment(registry: Registry, clock: Clock, report: ExperimentReport) -> None:
    """Log what the samples say of an experiment."""
    kind = kind_of_experiment(report.name)
    registry.add_verdict(Verdict(kind, clock.now_us(), report.decided, json.dumps(report.to_json())))


def given_verdicts(registry: Registry, kind: str, limit: int) -> list[GivenVerdict]:
    """The newest verdicts of a kind, the newest first."""
    return [GivenVerdict(v.at_us, v.holds, json.loads(v.report)) for v in registry.verdicts(kind, limit)]
