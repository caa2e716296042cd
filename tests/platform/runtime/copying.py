"""A stage that copies its topic, run by a runtime of its own, and what it did when."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from faust.types import TP

from dovetail.platform.runtime.runner import Runtime, create_app
from dovetail.platform.stage import Outgoing, Poll, Stage, Work
from dovetail.platform.transports.embedded.log import EmbeddedLog

STEPS = ("computed", "published", "committed", "acknowledged")


class Copier(Stage):
    """Copies ``in`` to ``out``, one work per message, and writes down everything that happens to it."""

    topics: Sequence[str] = ("in",)

    def __init__(self, name: str = "copier", store: dict[int, int] | None = None) -> None:
        self.name = name
        self.store = {} if store is None else store
        self.happened: list[str] = []

    def resume(self, topic: str) -> Mapping[int, int]:
        return dict(self.store)

    async def start(self) -> None:
        self.happened.append("start")

    async def stop(self) -> None:
        self.happened.append("stop")

    async def handle(self, poll: Poll) -> AsyncIterator[Work]:
        for offset, value in zip(poll.offsets.tolist(), poll.values, strict=True):
            yield self.copy(poll.partition, offset + 1, value or b"")

    def copy(self, partition: int, after: int, value: bytes) -> Work:
        return Work([Outgoing("out", value, partition=0)], lambda: self.commit(partition, after), after)

    def commit(self, partition: int, after: int) -> None:
        assert threading.current_thread() is not threading.main_thread()
        self.store[partition] = after
        self.happened.append(f"commit {after}")


def runtime_of(path: Path, *stages: Stage, **options: Any) -> Runtime:
    return Runtime(create_app("test", f"embedded://{path}", topics={"in": 1, "out": 1}), stages, **options)


def contents(path: Path, topic: str) -> list[bytes | None]:
    with EmbeddedLog.open(path) as log:
        poll = log.read(topic, 0, 0)
        return [] if poll is None else list(poll.values)


def handed_out(runtime: Runtime) -> int:
    outstanding: int = runtime.app.consumer._partitions[TP("in", 0)].acks.outstanding  # type: ignore[attr-defined]
    return outstanding


def run(main: Callable[[], Any]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(30):
            await main()

    asyncio.run(limited())
