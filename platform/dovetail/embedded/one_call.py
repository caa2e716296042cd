"""Single calls of a program, through what reaches its broker: a flow that runs, or one that is started for the call."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from dovetail.app.doors.checking import check_messages
from dovetail.app.doors.door import door_of
from dovetail.app.doors.sending import publish
from dovetail.embedded.broker_connection import BrokerConnection
from dovetail.embedded.given_rows import as_messages, refuse
from dovetail.embedded.program_flow import EmbeddedFlow, flow_of
from dovetail.features import Project
from dovetail.platform.clock import SystemClock

__all__ = ["rank", "send"]


def send(project: Project, topic: str, rows: Any, idempotency_key: str | None = None) -> int:
    """See :meth:`~dovetail.embedded.project_client.ProjectClient.send`."""
    project = project.whole
    flow = flow_of(project)
    if flow is not None:
        return flow.send(topic, rows, idempotency_key=idempotency_key)
    door = door_of(project, topic, "topic")
    now_ms = SystemClock().now_us() // 1_000
    limit = project.config.broker.max_message_bytes
    checked = check_messages(door, as_messages(rows), now_ms, limit, idempotency_key)
    refuse(checked.bad, topic)
    publish(project, list(checked.messages.values()))
    return len(checked.messages)


def rank(project: Project, requests: Any) -> pa.Table:
    """See :meth:`~dovetail.embedded.project_client.ProjectClient.rank`."""
    scene, project = project.config.scene, project.whole
    flow = flow_of(project)
    if flow is not None:
        return flow.rank(requests, scene)
    if project.config.storage.url("broker").startswith("embedded://"):
        with EmbeddedFlow(project) as started:
            started.until_idle(release=False)
            return started.rank(requests, scene)
    with BrokerConnection(project) as connected:
        return connected.rank(requests, scene)
