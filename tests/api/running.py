"""A worker with its API in this process, and a client of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import httpx
from prometheus_client import CollectorRegistry

from dovetail.api.application import Surroundings, application
from dovetail.api.gateway import Gateway
from dovetail.api.replies import ReplyStage
from dovetail.api.tokens import Scope, Tokens
from dovetail.app.worker import Worker, assemble
from dovetail.features import load
from dovetail.platform.clock import SystemClock
from dovetail.platform.process.monitor import Monitor, Pulse
from tests.app.small_project import TOML, write_project

__all__ = ["Running", "on_a_worker", "project_folder"]

_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True)
class Running:
    """A started worker, and a client of its API."""

    worker: Worker
    client: httpx.AsyncClient
    replies: ReplyStage

    async def post(self, path: str, rows: Any = None, **options: Any) -> httpx.Response:
        """POST ``rows`` as JSON."""
        if rows is not None:
            options["json"] = rows
        return await self.client.post(path, **options)

    async def applied(self, topic: str) -> None:
        """Wait until every stage has handled all of ``topic``."""
        runtime = self.worker.runtime
        partitions = runtime.app.declared[topic]

        def done() -> bool:
            return all(
                runtime.completed.get((stage.name, topic, number), 0) >= (runtime.end_offset(topic, number) or 0)
                for stage in runtime.readers(topic)
                if not stage.name.startswith("archive")
                for number in range(partitions)
            )

        await runtime.wait_for(done)


def project_folder(folder: Path, api: str = "") -> Path:
    """The small project with an API, and nothing in its topics."""
    write_project(folder, f"{TOML}\n[api]\nport = 0\n{api}", messages={})
    return folder


def on_a_worker(
    folder: Path,
    work: Callable[[Running], Awaitable[_Result]],
    tokens: Mapping[str, frozenset[Scope]] | None = None,
    roles: Sequence[str] = ("features", "snapshots", "labels", "archive"),
) -> _Result:
    """What ``work`` returns, done with a worker of the project in ``folder``."""

    async def main() -> _Result:
        async with _running(folder, Tokens(tokens or {}), roles) as running:
            return await work(running)

    return asyncio.run(main())


@asynccontextmanager
async def _running(folder: Path, tokens: Tokens, roles: Sequence[str]) -> AsyncIterator[Running]:
    project = load(folder)
    api = project.config.api
    assert api is not None
    replies = ReplyStage(api.reply_topic)
    worker = assemble(project, roles=roles, beside=[replies])
    gateway = Gateway(project, worker.stores, worker.runtime, replies, SystemClock())
    monitor = Monitor(worker.runtime, Pulse(), loop_timeout_s=0)
    around = Surroundings(monitor.alive, monitor.ready, CollectorRegistry())
    transport = httpx.ASGITransport(application(gateway, api, tokens, around))
    try:
        await worker.runtime.start()
        async with httpx.AsyncClient(transport=transport, base_url="http://api", timeout=60) as client:
            yield Running(worker, client, replies)
        await worker.runtime.stop()
    finally:
        await worker.runtime.stop()
        worker.stores.close()
