"""Verdicts and results worked out from a worker's stores."""

from __future__ import annotations

from dovetail.app.reports.kept_stores import KeptStores, audit_stores
from dovetail.app.reports.label_delay_report import LabelDelays, delays_of
from dovetail.app.reports.label_report import audit_archived_labels
from dovetail.app.reports.rejoin import JoinDifference, JoinedDays, difference, join_archived
from dovetail.app.reports.served_again import consistency_of
from dovetail.app.reports.verdicts import audit_books, audit_worker
from dovetail.app.reports.whole_audit import WholeAudit, audit_all
from dovetail.app.reports.witnessed import witness_of

__all__ = [
    "JoinDifference",
    "JoinedDays",
    "KeptStores",
    "LabelDelays",
    "WholeAudit",
    "audit_all",
    "audit_archived_labels",
    "audit_books",
    "audit_stores",
    "audit_worker",
    "consistency_of",
    "delays_of",
    "difference",
    "join_archived",
    "witness_of",
]
