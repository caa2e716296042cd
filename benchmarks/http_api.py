"""Ranking over HTTP beside the same path without HTTP: 200 candidates, 32 columns, embedded, one worker.

    python benchmarks/http_api.py

A worker of the repository's own project, with all roles, is fed some thousand events. Then requests of 200 candidates
are ranked one after the other, each answered when its snapshot is durable: by calls of the gateway in the worker's own
event loop, and over HTTP by a process of its own, taking turns. What is compared is the time of one call on the clock.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from prometheus_client import CollectorRegistry

from dovetail.api.application import Surroundings, application
from dovetail.api.gateway import Gateway
from dovetail.api.replies import ReplyStage
from dovetail.api.server import listening, served
from dovetail.api.tokens import Tokens
from dovetail.app.flow import Flow
from dovetail.app.worker import assemble
from dovetail.features import load
from dovetail.platform.clock import SystemClock
from dovetail.platform.config.served.api import ApiConfig

CANDIDATES, EVENTS, ROUNDS, CALLS = 200, 5_000, 5, 100
ROOT = Path(__file__).resolve().parent.parent
CLIENT = """
import http.client, json, sys, time
host, port, *bodies = json.load(sys.stdin)
connection = http.client.HTTPConnection(host, port)
seconds = []
for body in bodies:
    began = time.perf_counter()
    connection.request("POST", "/v1/rank", body, {"Content-Type": "application/json"})
    answer = connection.getresponse()
    said = json.loads(answer.read())
    seconds.append(time.perf_counter() - began)
    assert answer.status == 200 and len(said["scores"]) == 200, said
json.dump(seconds, sys.stdout)
"""


@dataclass(frozen=True, slots=True)
class Times:
    """Seconds of calls."""

    seconds: Sequence[float]

    def ms(self, percentile: float) -> float:
        """A percentile in milliseconds."""
        return float(np.percentile(self.seconds, percentile)) * 1_000


def project_in(folder: Path) -> Path:
    """The repository's project with an API, and an offline table without rows."""
    shutil.copytree(ROOT / "sql", folder / "sql")
    (folder / "dovetail.toml").write_text((ROOT / "dovetail.toml").read_text() + "\n[api]\nport = 0\n")
    project = load(folder)
    (view,) = project.batch_views.values()
    table = project.config.path(project.config.tables["item"].path)
    table.parent.mkdir()
    pq.write_table(view.tables[0].schema.arrow.empty_table(), table)
    return folder


def at(second: int) -> str:
    """A time of a day."""
    return f"2024-03-01T{second // 3600:02d}:{second // 60 % 60:02d}:{second % 60:02d}Z"


def events() -> list[bytes]:
    """Behaviour of an hour."""
    rng = np.random.default_rng(7)
    users, items, seconds = rng.integers(0, 200, EVENTS), rng.integers(0, 1_000, EVENTS), rng.integers(0, 3_600, EVENTS)
    return [
        json.dumps(
            {"user_id": f"u{user}", "item_id": int(item), "event_time": at(int(s)), "action": "click", "price": "9.99"}
        ).encode()
        for user, item, s in zip(users, items, np.sort(seconds), strict=True)
    ]


def requests(first: int, count: int) -> list[bytes]:
    """Requests of 200 candidates, of one time."""
    return [
        json.dumps(
            {
                "request_id": f"r{number}",
                "user_id": f"u{number % 200}",
                "request_time": at(3_601),
                "candidates": [{"item_id": (number * 7 + k) % 1_000, "position": k + 1} for k in range(CANDIDATES)],
            }
        ).encode()
        for number in range(first, first + count)
    ]


async def within(gateway: Gateway, bodies: Sequence[bytes]) -> list[float]:
    """Seconds of each request asked through the gateway."""
    seconds, door = [], gateway.doors["requests"]
    for body in bodies:
        began = time.perf_counter()
        (message,) = gateway.check(door, [body]).messages.values()
        reply = await gateway.ask(message, whole=False, timeout_s=60)
        seconds.append(time.perf_counter() - began)
        assert reply.scores is not None
        assert len(reply.scores["scores"]) == CANDIDATES
    return seconds


async def over_http(address: tuple[str, int], bodies: Sequence[bytes]) -> list[float]:
    """Seconds of each request asked over HTTP by another process."""
    given = json.dumps([*address, *(body.decode() for body in bodies)]).encode()
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-c", CLIENT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    said, _ = await child.communicate(given)
    found: list[float] = json.loads(said)
    return found


async def measure(folder: Path) -> tuple[Times, Times]:
    """The times within the process and over HTTP."""
    project = load(folder)
    api = project.config.api
    assert api is not None
    replies = ReplyStage(api.reply_topic)
    worker = assemble(project, beside=[replies], load_beside=True)
    gateway = Gateway(project, worker.stores, worker.runtime, replies, SystemClock())
    inside: list[float] = []
    outside: list[float] = []

    def well() -> tuple[bool, dict[str, Any]]:
        return True, {}

    app = application(gateway, api, Tokens({}), Surroundings(well, well, CollectorRegistry()))
    listener: socket.socket = listening(ApiConfig(port=0))
    try:
        await worker.runtime.start()
        async with served(app, listener, api):
            await gateway.send(gateway.doors["behaviour"], events(), atomic=True)
            await Flow(worker).until_idle(release=False)
            await within(gateway, requests(0, 20))
            for number in range(ROUNDS):
                first = 1_000 * (number + 1)
                inside += await within(gateway, requests(first, CALLS))
                outside += await over_http(listener.getsockname(), requests(first + 500, CALLS))
        await worker.runtime.stop()
    finally:
        await worker.runtime.stop()
        worker.stores.close()
    return Times(inside), Times(outside)


def main() -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as folder:
        inside, outside = asyncio.run(measure(project_in(Path(folder))))
    print(f"{len(inside.seconds)} requests of {CANDIDATES} candidates each way, one after the other")
    for name, times in (("gateway, in process", inside), ("over HTTP", outside)):
        print(f"  {name:20} p50 {times.ms(50):6.2f} ms   p99 {times.ms(99):6.2f} ms")
    p50, p99 = (outside.ms(percentile) / inside.ms(percentile) for percentile in (50, 99))
    print(f"  {'ratio':20} p50 {p50:6.2f}      p99 {p99:6.2f}")


if __name__ == "__main__":
    main()
