"""Verdicts and results worked out from a worker's stores."""

from __future__ import annotations

from dovetail.platform.reports.join import JoinDifference, difference, join_archived
from dovetail.platform.reports.labels import audit_archived_labels
from dovetail.platform.reports.verdicts import audit_worker, consistency_of

__all__ = [
    "JoinDifference",
    "audit_archived_labels",
    "audit_worker",
    "consistency_of",
    "difference",
    "join_archived",
]
