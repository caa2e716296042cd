"""Reads topics without a worker and without a consumer group: from any offset, changing nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Protocol

from dovetail.platform.stage import Poll
from dovetail.platform.transports.faust_app import App

__all__ = ["TopicView", "follow", "read_all", "view_topics"]

_PAUSE_S = 0.2


class TopicView(Protocol):
    """The topics of a broker, to look at. Made by :func:`view_topics`."""

    async def bounds(self, topic: str) -> Mapping[int, tuple[int, int]]:
        """By partition, the offset of the oldest message kept and that of the next one; empty for an unknown topic."""
        ...

    async def read(self, topic: str, partition: int, offset: int) -> Poll | None:
        """Messages from ``offset`` on, or from the oldest one kept after it; None when there is none yet."""
        ...


@asynccontextmanager
async def view_topics(app: App) -> AsyncIterator[TopicView]:
    """The topics of the app's broker, as long as the block lasts. An embedded log is read while a worker has it, too.

    Raises:
        TransportError: the broker cannot be reached.
    """
    transport: Any = app.transport
    async with transport.view() as view:
        yield view


async def read_all(view: TopicView, topic: str, since: Mapping[int, int]) -> AsyncIterator[Poll]:
    """The messages that ``topic`` holds now, partition by partition, from the offsets ``since`` on (0 if not said)."""
    for partition, (start, end) in sorted((await view.bounds(topic)).items()):
        at = max(start, since.get(partition, 0))
        while at < end:
            poll = await view.read(topic, partition, at)
            if poll is None:  # what is left is of transactions, and for nobody
                break
            at = poll.last + 1
            if len(mine := poll.before(end)):
                yield mine


async def follow(view: TopicView, topic: str, since: Mapping[int, int]) -> AsyncIterator[Poll]:
    """The messages of ``topic`` from the offsets ``since`` on, and then each as it comes; never ends by itself."""
    at = dict(since)
    while True:
        fresh = False
        for partition in sorted(await view.bounds(topic)):
            poll = await view.read(topic, partition, at.get(partition, 0))
            if poll is not None:
                fresh = True
                at[partition] = poll.last + 1
                yield poll
        if not fresh:
            await asyncio.sleep(_PAUSE_S)
