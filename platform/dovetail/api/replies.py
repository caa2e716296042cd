"""Answers of the snapshot agents to requests that came over HTTP: who asked waits for them here."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from dovetail.joiners.snapshots.messages import CORRELATION_HEADER
from dovetail.platform.rows import wire
from dovetail.platform.stage import Poll, Stage, Work

__all__ = ["Reply", "ReplyStage"]


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer: the scores as JSON says them, the whole snapshot where that was asked for, or why there is none."""

    scores: Mapping[str, Any] | None = None
    snapshot: pa.Table | None = None
    refused: str | None = None


class ReplyStage(Stage):
    """Reads the topic of replies from its end on, and hands each to whoever waits for it in this process.

    Keeps no state: what nobody waits for any more, or another process does, is passed over. Belongs to the event loop.
    """

    name = "api"

    def __init__(self, topic: str) -> None:
        self.topics = (topic,)
        #: Tells where a partition ends; to be set before the stage resumes.
        self.end_offset: Callable[[str, int], int | None] = lambda _topic, _number: None
        self._next: dict[int, int] = {}
        self._waiting: dict[bytes, asyncio.Future[Reply]] = {}

    def resume(self, topic: str) -> Mapping[int, int]:
        """Where it has come; at first the end, for nothing before that was asked here."""
        if 0 not in self._next:
            self._next[0] = self.end_offset(topic, 0) or 0
        return dict(self._next)

    def forget(self, topic: str, partitions: Collection[int]) -> None:
        """Nothing: what is asked here is answered in the same topic, whatever is assigned anew."""

    async def handle(self, poll: Poll) -> AsyncIterator[Work]:
        """Hand the replies of ``poll`` over."""
        for value, headers in zip(poll.values, poll.headers, strict=True):
            asked = self._waiting.get(dict(headers).get(CORRELATION_HEADER) or b"")
            if asked is not None and not asked.done():
                asked.set_result(_reply_of(value or b""))
        self._next[poll.partition] = poll.last + 1
        yield Work(done=poll.last + 1)

    def expect(self) -> tuple[bytes, asyncio.Future[Reply]]:
        """A name for a request, and the future of its reply. Until :meth:`drop`."""
        name = uuid.uuid4().hex.encode()
        self._waiting[name] = asyncio.get_running_loop().create_future()
        return name, self._waiting[name]

    def drop(self, name: bytes) -> None:
        """Nobody waits for this reply any more."""
        self._waiting.pop(name, None)


def _reply_of(value: bytes) -> Reply:
    snapshot = wire.rows_of(value)
    if snapshot is not None:
        return Reply(snapshot=snapshot)
    said = json.loads(value)
    return Reply(refused=said["error"]) if "error" in said else Reply(scores=said)
