"""A small demo's run to look at, and the console of it, called without a server."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import httpx

from dovetail.api.tokens import Tokens
from dovetail.app.storage import open_stores
from dovetail.console.access import Guard
from dovetail.console.looked import Looked, looking_at
from dovetail.console.site import site
from dovetail.demo.logs.simulator import SimulatorConfig, simulate
from dovetail.demo.run import run_demo
from dovetail.features import Project
from dovetail.platform.config.served.console import ConsoleConfig

__all__ = ["contents", "make_run", "on_the_console", "with_looked"]

_Result = TypeVar("_Result")


def make_run(folder: Path) -> Path:
    """A run of the demo on a small log, with a version of the model every 40 samples."""
    log = replace(simulate(SimulatorConfig(seed=11, requests=60, days=1)), slice_us=60 * 60_000_000)
    overrides = {"model": {"publish_every": 40}}
    outcome = asyncio.run(run_demo(log, folder, on_progress=lambda _: None, overrides=overrides))
    assert outcome.passed
    return folder


def with_looked(project: Project, work: Callable[[Looked], Awaitable[_Result]]) -> _Result:
    """What ``work`` returns, done with the project's stores opened to read."""

    async def main() -> _Result:
        stores = open_stores(project.config, read_only=True)
        try:
            async with looking_at(project, stores) as looked:
                return await work(looked)
        finally:
            stores.close()

    return asyncio.run(main())


def on_the_console(
    project: Project,
    work: Callable[[httpx.AsyncClient], Awaitable[_Result]],
    *,
    tokens: Tokens | None = None,
    config: ConsoleConfig | None = None,
    host: str = "localhost:8090",
) -> _Result:
    """What ``work`` returns, done with a client of the console."""

    async def with_client(looked: Looked) -> _Result:
        app = site(looked, Guard(tokens or Tokens({}), config or ConsoleConfig()))
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=f"http://{host}") as client:
            return await work(client)

    return with_looked(project, with_client)


def contents(folder: Path) -> dict[str, str]:
    """A hash of each file below ``folder``, without those in which SQLite's readers and writers meet."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.endswith(("-shm", "-wal"))
    }
