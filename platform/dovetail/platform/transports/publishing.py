"""Publishes without a worker: the producer of an app whose consumer and stages are never started."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from dovetail.platform.rows.fitting import fitting
from dovetail.platform.stage import Outgoing
from dovetail.platform.transports.faust_app import App

__all__ = ["Publisher", "publisher"]


class Publisher:
    """Publishes to the topics of an app. Made by :func:`publisher`."""

    def __init__(self, producer: Any, max_message_bytes: int) -> None:
        self._producer = producer
        self._max_message_bytes = max_message_bytes

    async def publish(self, outgoing: Sequence[Outgoing]) -> None:
        """Publish all; returns when the broker has them, in one transaction if embedded.

        Raises:
            WireError: a message is too large for the broker and cannot be split.
            TransportError: the broker has not taken them all.
        """
        await self._producer.publish(fitting(outgoing, self._max_message_bytes))


@asynccontextmanager
async def publisher(app: App) -> AsyncIterator[Publisher]:
    """Declare the app's topics, and publish to them as long as the block lasts.

    Raises:
        LogLocked: the broker is embedded, and another process has it.
        TransportError: the broker cannot be reached, or a topic there is not as declared.
    """
    transport: Any = app.transport
    await transport.declare(app.declared)
    producer = transport.create_producer()
    await producer.start()
    try:
        yield Publisher(producer, app.max_message_bytes)
    finally:
        await producer.stop()
