"""Alerts told to others than who has asked: a line each in the log, and the document that a webhook is posted."""

from __future__ import annotations

import logging
import math
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from dovetail.app.quality.alerts import Alert, Quality
from dovetail.app.quality.webhook import Delivery, Webhook
from dovetail.platform.logs import Event

__all__ = ["MOST", "document_of", "log_alerts", "post_alerts"]

_log = logging.getLogger(__name__)
#: Alerts in one document: the newest ones.
MOST = 500


def log_alerts(found: Quality) -> None:
    """A line for each alert, an error or a warning as it is."""
    for alert in found.alerts:
        level = logging.ERROR if alert.severity == "error" else logging.WARNING
        fields = {
            "dataset": alert.dataset, "column": alert.column, "measure": alert.measure,
            "window": _time(alert.window_us), "found": alert.found, "expected": alert.expected, "limit": alert.limit,
            "text": alert.text,
        }  # fmt: skip
        _log.log(level, Event("quality alert", **fields))


def document_of(project: str, found: Quality) -> dict[str, Any]:
    """The alerts as a webhook gets them, JSON-ready; of more than :data:`MOST` the newest.

    ``id`` of an alert is the same whenever the same window is judged, so a receiver knows what it has had.
    """
    newest = sorted(found.alerts, key=lambda alert: alert.window_us)[-MOST:]
    count = f"{len(found.alerts):,} alert{'s' if len(found.alerts) != 1 else ''}"
    return {
        "project": project,
        "failed": found.failed,
        "text": f"{project}: {count} of data quality, such as {newest[-1].text}" if newest else f"{project}: no alerts",
        "window_us": found.window_us,
        "alerts": [_told(alert) for alert in newest],
        "left_out": len(found.alerts) - len(newest),
    }


def post_alerts(project: str, found: Quality, webhook: Webhook | None, **how: Any) -> Delivery | None:
    """Post the alerts, if there are any and an address to post them to; ``how`` is that of :meth:`Webhook.post`.

    A failure is a warning in the log and in what is returned, and never raised.
    """
    if webhook is None or not found.alerts:
        return None
    delivery = webhook.post(document_of(project, found), **how)
    said = {"to": delivery.to, "attempts": delivery.attempts, "problems": "; ".join(delivery.problems)}
    if delivery.delivered:
        _log.info(Event("quality alerts posted", **said))
    else:
        _log.warning(Event("quality alerts not posted", **said))
    return delivery


def _told(alert: Alert) -> dict[str, Any]:
    known = {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in asdict(alert).items()
    }
    window = _time(alert.window_us)
    return {"id": f"{alert.measure}:{alert.dataset}.{alert.column}@{window}", "window": window, **known,
            "text": alert.text}  # fmt: skip


def _time(us: int) -> str:
    return datetime.fromtimestamp(us // 1_000_000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
