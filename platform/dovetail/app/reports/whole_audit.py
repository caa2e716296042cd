"""The whole audit of a stopped worker: books, stores against archives, and every label and snapshot row."""

from __future__ import annotations

from typing import NamedTuple

import pyarrow as pa

from dovetail.app.reports.kept_stores import audit_stores
from dovetail.app.reports.label_report import audit_archived_labels
from dovetail.app.reports.scene_notes import shared_ids
from dovetail.app.reports.verdicts import audit_worker
from dovetail.app.storage import Stores
from dovetail.app.worker import Worker
from dovetail.features import Project
from dovetail.joiners.batch.label_audit import LabelAudit
from dovetail.platform.errors import StoreError
from dovetail.platform.rows.audit import Audit, Check

__all__ = ["WholeAudit", "audit_all"]


class WholeAudit(NamedTuple):
    """The verdict, in whose ``unbalanced`` stands all that is wrong; and the labels and snapshots by outcome."""

    result: Audit
    labels: LabelAudit


def audit_all(project: Project, worker: Worker, target: str = "", scene: str = "") -> WholeAudit:
    """Audit a worker that is assembled and not started; ``target`` and ``scene`` choose the samples and their lines.

    Stages and stores are those of all scenes.

    Raises:
        ConfigError: there is no such target, or no such scene.
    """
    project.config.of_scene(scene)
    books = audit_worker(worker, settled=False)
    kept = audit_stores(worker.project, worker.stores)
    labels, checks, unread = _labels(project, worker.stores, target, scene)
    checks = [*checks, *kept.checks]
    wrong = [*books.unbalanced, *(f"{c.what}: {c.left} and {c.right}" for c in checks if not c.holds)]
    wrong += [*kept.wrong, *unread]
    for line in labels.wrong:
        where = f"{line.what} of {line.day}, partition {line.partition}"
        wrong.append(f"{where}: {line.rows} {line.outcome}, such as {', '.join(line.keys)}")
    notes = [*books.notes, *_in_two_scenes(project, worker.stores, checks)]
    return WholeAudit(Audit(books.stages, [*books.checks, *checks], wrong, notes), labels)


def _in_two_scenes(project: Project, stores: Stores, checks: list[Check]) -> list[str]:
    """The likely cause where labels have more outcomes than rows were read: ids that two scenes have."""
    if all(check.holds for check in checks):
        return []
    try:
        ids = shared_ids(project, stores)
    except StoreError:
        ids = []  # the audit of the stores has said which archive cannot be read
    if not ids:
        return []
    shown = ", ".join(ids)
    note = f"a request id that two scenes have counts in both, so labels have more outcomes than were read: {shown}"
    return [f"{note}; let ids of requests begin with the name of their scene"]


def _labels(project: Project, stores: Stores, target: str, scene: str) -> tuple[LabelAudit, list[Check], list[str]]:
    """The audit of labels; where an archive cannot be read there is none, and why."""
    try:
        return *audit_archived_labels(project, stores, target=target, scene=scene), []
    except StoreError as error:
        return LabelAudit([], pa.table({})), [], [f"labels and snapshots have no audit: {error}"]
