"""A project's flow as the HTTP API uses it: rows go in by its topics, answers and features come out."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from dovetail.api.bodies import BadBody
from dovetail.api.replies import Reply, ReplyStage
from dovetail.app.doors.checking import CheckedRows, check_messages
from dovetail.app.doors.door import Door, doors
from dovetail.app.storage import Stores
from dovetail.app.tracing.trace_headers import in_the_trace
from dovetail.app.worker import features_of
from dovetail.features import Project
from dovetail.features.plan.request import flatten_requests
from dovetail.features.serving.online_features import ServedFeatures
from dovetail.joiners.snapshots.messages import CORRELATION_HEADER, REPLY_AS_HEADER, REPLY_HEADER, SNAPSHOT_FORM
from dovetail.platform.clock import Clock
from dovetail.platform.runtime.computing import compute
from dovetail.platform.runtime.runner import Runtime
from dovetail.platform.stage import Outgoing

__all__ = ["Accepted", "Gateway", "Unanswered"]


class Unanswered(Exception):
    """No agent has answered in time: none runs, or they are behind."""


@dataclass(frozen=True, slots=True)
class Accepted:
    """Rows that the log has, durably, each with its partition and offset; and why it has not the others, by row."""

    positions: Mapping[int, tuple[int, int]]
    bad: Mapping[int, str]


class Gateway:
    """Sends, asks and looks up for the project of ``runtime``, in whose event loop it is used."""

    def __init__(self, project: Project, stores: Stores, runtime: Runtime, replies: ReplyStage, clock: Clock) -> None:
        assert project.config.api is not None  # noqa: S101 - who has a gateway has it
        self._api = project.config.api
        self.project = project
        self.stores = stores
        self.runtime = runtime
        #: The topics that take rows, by name.
        self.doors = doors(project)
        self._replies = replies
        replies.end_offset = runtime.end_offset
        self.clock = clock
        self._features = {scene.config.in_scene("requests"): features_of(scene, stores) for scene in project.scenes}

    def check(self, door: Door, rows: Sequence[bytes], call: str | None = None) -> CheckedRows:
        """Check ``rows``, messages of one row each, as the agents of the topic would. From any thread.

        Raises:
            ConfigError: rows are to be known by a ``call``, and nobody would look at it.
        """
        limit = self.project.config.broker.max_message_bytes
        return check_messages(door, rows, self.clock.now_us() // 1_000, limit, call)

    def snapshot_columns(self, door: Door) -> Sequence[str]:
        """The names of the features that a snapshot of these requests keeps."""
        return self._features[door.name].snapshot_columns

    def check_requests(self, door: Door, rows: Sequence[bytes]) -> CheckedRows:
        """Check requests, and that they have no more candidates together than a call may have. From any thread.

        Raises:
            BadBody: they have more.
        """
        checked, most = self.check(door, rows), self._api.max_candidates
        candidates = pc.sum(pc.list_value_length(checked.table.column("candidates"))).as_py() or 0
        if candidates > most:
            raise BadBody(413, f"{candidates} candidates, {most} are ranked at a time ([api] max_candidates)")
        return checked

    async def send(self, door: Door, rows: Sequence[bytes], *, atomic: bool, call: str | None = None) -> Accepted:
        """Check ``rows`` and publish the good ones; returns when the log has them. ``atomic``: all, or none.

        Rows of a ``call`` are known by its name and their number: sent again, they are no events.

        Raises:
            ConfigError: ``call`` is given, and nobody would look at it.
            TransportError: the broker has not taken them all; some may be there.
        """
        checked = await compute(self.check, door, rows, call)
        if not checked.messages or (atomic and checked.bad):
            return Accepted({}, checked.bad)
        places = await self.runtime.publish([in_the_trace(message) for message in checked.messages.values()])
        return Accepted(dict(zip(checked.messages, places, strict=True)), checked.bad)

    async def ask(self, request: Outgoing, *, whole: bool, timeout_s: float) -> Reply:
        """Publish a checked request and wait for its answer; with ``whole``, for its snapshot.

        Raises:
            Unanswered: there was none within ``timeout_s``. The request is in the log, and will be answered to nobody.
            TransportError: the broker has not taken the request.
        """
        name, reply = self._replies.expect()
        headers = [(REPLY_HEADER, self._api.reply_topic.encode()), (CORRELATION_HEADER, name)]
        if whole:
            headers.append((REPLY_AS_HEADER, SNAPSHOT_FORM))
        message = in_the_trace(
            Outgoing(request.topic, request.value, key=request.key, timestamp_ms=request.timestamp_ms, headers=headers)
        )
        try:
            async with asyncio.timeout(timeout_s):
                await self.runtime.publish([message])
                return await reply
        except TimeoutError as error:
            raise Unanswered(
                f"no answer within {timeout_s:g} s ([api] timeout): the snapshot agent is behind, or no worker runs "
                "it. The request is in the log"
            ) from error
        finally:
            self._replies.drop(name)

    def features(self, door: Door, requests: pa.Table) -> tuple[pa.Table, ServedFeatures | None]:
        """The candidates of checked ``requests`` and their features now, without a snapshot. From any thread.

        None where there is no candidate.

        Raises:
            WireError: an expression has no value for a candidate.
        """
        candidates = flatten_requests(requests)
        return candidates, self._features[door.name].serve(candidates) if candidates.num_rows else None
