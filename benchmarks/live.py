"""How fresh a worker on servers is under a live load: requests, events and labels at fixed rates, come what may.

    python benchmarks/live.py [SECONDS]

Kafka and Redis, ``dovetail serve`` and a worker with all roles are started as in ``http_servers.py``. Each second 50
requests of 200 candidates are ranked and 500 events sent, 25 a call; of each request eight candidates are exposed, and
some clicked, which is sent of all that were answered, ten times a second. All times are those of the clock. Labels have
a window of three seconds and a tenth of lateness, and a model is published at most a tenth of a second after a sample.
The first seconds are not counted.

Printed are, with the processor time of each process:

- from when a request was to be sent to its scores;
- from when an event was to be sent until ``/v1/features/VIEW`` has it, asked again and again, one event of a new user
  at a time;
- from when the window of a sample had passed (its request's time, the window, and the allowed lateness) to the first
  answer by a model that learned it. A version is called by how many samples it has learned, and samples are counted in
  the order of their requests.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from http_api import CANDIDATES, project_in
from http_servers import WARM_S, Connections, on_servers, servers, spent, working

from tests.api.test_process import serving  # isort: skip - found by the line above

REQUESTS, EVENTS, LABELS, EXPOSED, WINDOW_S, LATENESS_S, PUBLISH_S = 50, 500, 10, 8, 3.0, 0.1, 0.1


def fit(folder: Path) -> None:
    """Let the project's labels have a short window, and its model be published by time."""
    path = folder / "dovetail.toml"
    text = path.read_text()
    for before, after in (
        ('window = "15m"', f'window = "{WINDOW_S:.0f}s"'),
        ('allowed_lateness = "5m"', f'allowed_lateness = "{LATENESS_S * 1000:.0f}ms"'),
        ('idle_timeout = "30m"', 'idle_timeout = "500ms"'),
        ("# publish_delay =", f'publish_delay = "{PUBLISH_S * 1000:.0f}ms"\n# publish_delay ='),
    ):
        assert before in text, before
        text = text.replace(before, after, 1)
    path.write_text(text)


@dataclass
class Seen:
    """What was measured, in seconds."""

    answers: list[float] = field(default_factory=list)
    visible: list[float] = field(default_factory=list)
    #: By request in order: its time by the clock, and the samples that it and those before it make.
    asked: list[tuple[float, int]] = field(default_factory=list)
    #: The version of the model of each answer, and when it came.
    served: list[tuple[float, int]] = field(default_factory=list)

    def lags(self) -> list[float]:
        """Of each version that an answer was the first to have: from the window of its last sample to that answer."""
        times, samples = np.array([at for at, _ in self.asked]), np.array([count for _, count in self.asked])
        found, newest = [], 0
        for at, version in sorted(self.served):
            if version > newest and version <= samples[-1]:
                closed = times[np.searchsorted(samples, version)] + WINDOW_S + LATENESS_S
                found.append(at - closed)
                newest = version
        return found


def iso(at: float) -> str:
    """A time of the clock, to the microsecond."""
    return datetime.fromtimestamp(at, UTC).isoformat().replace("+00:00", "Z")


def request(number: int, at: float) -> dict[str, Any]:
    """A request of 200 candidates."""
    candidates = [{"item_id": (number * 7 + k) % 1_000, "position": k + 1} for k in range(CANDIDATES)]
    return {
        "request_id": f"r{number}",
        "user_id": f"u{number % 200}",
        "request_time": iso(at),
        "channel": "feed",
        "candidates": candidates,
    }


def event(user: str, number: int, at: float) -> dict[str, Any]:
    """One of the user's behaviour."""
    return {"user_id": user, "item_id": number % 1_000, "event_time": iso(at), "action": "click", "price": "9.99"}


class Live:
    """The load of one run. ``began`` is the clock's time of the first request."""

    def __init__(self, connections: Connections, began: float, seconds: int, first: int) -> None:
        self._to, self._began, self._seconds, self._first = connections, began, seconds, first
        self.seen = Seen()
        self._shown: list[tuple[str, int]] = []

    async def run(self) -> Seen:
        """All of it."""
        await asyncio.gather(
            self._every(REQUESTS, self._rank),
            self._every(EVENTS // 25, self._events),
            self._every(LABELS, self._labels),
            self._probes(),
        )
        await asyncio.sleep(1 / LABELS)
        await self._labels(0, time.time())  # of those answered since
        return self.seen

    async def _every(self, rate: int, call: Callable[[int, float], Coroutine[Any, Any, None]]) -> None:
        """``call`` with its number and time, ``rate`` times a second, whether the ones before are done or not."""

        async def one(number: int) -> None:
            due = self._began + number / rate
            await asyncio.sleep(due - time.time())
            await call(number, due)

        await asyncio.gather(*(one(number) for number in range(rate * self._seconds)))

    async def _rank(self, number: int, due: float) -> None:
        # A request's time is when it is sent: who answers late must not find it later than events.
        self.seen.asked.append((due, EXPOSED * (number + 1)))
        body = json.dumps(request(self._first + number, due)).encode()
        said = json.loads(await self._to.post("/v1/rank", body))
        now = time.time()
        self.seen.answers.append(now - due)
        self.seen.served.append((now, said["model_version"] or 0))
        self._shown += [(said["request_id"], item) for item in said["items"][:EXPOSED]]

    async def _labels(self, _number: int, due: float) -> None:
        shown, self._shown = self._shown, []
        labels = [{"request_id": name, "item_id": item, "event_time": iso(due)} for name, item in shown]
        for kind, each in (("exposure", 1), ("click", 4), ("conversion", 8)) if labels else ():
            await self._to.post(f"/v1/labels/{kind}", json.dumps(labels[::each]).encode())

    async def _events(self, number: int, due: float) -> None:
        rows = [event(f"u{(number * 25 + k) % 200}", number + k, due) for k in range(25)]
        await self._to.post("/v1/events/behaviour", json.dumps(rows).encode())

    async def _probes(self) -> None:
        await asyncio.sleep(self._began - time.time())
        while (due := time.time()) < self._began + self._seconds:
            user = f"probe{self._first}-{len(self.seen.visible)}"
            await self._to.post("/v1/events/behaviour", json.dumps([event(user, 1, due)]).encode())
            while not await self._knows(user):
                pass  # asked again at once: each question is a call over the network
            self.seen.visible.append(time.time() - due)
            await asyncio.sleep(0.1)

    async def _knows(self, user: str) -> bool:
        asked = json.dumps([{"user_id": user}]).encode()
        said = json.loads(await self._to.post("/v1/features/user_activity", asked))
        return any(values[0] for values in said["features"].values())


async def measured(address: tuple[str, int], seconds: int, pids: Mapping[str, int]) -> None:
    """Warm up, measure and print."""
    connections = Connections(*address)
    warm = await Live(connections, time.time() + 0.5, WARM_S, 0).run()
    before = {name: spent(pid) for name, pid in pids.items()}
    seen = await Live(connections, time.time() + 0.5, seconds, len(warm.answers)).run()
    used = {name: (spent(pid) - before[name])[0] for name, pid in pids.items()}
    # Versions go on from the samples of before.
    count = warm.asked[-1][1]
    seen.asked = [*sorted(warm.asked), *((at, count + more) for at, more in sorted(seen.asked))]
    print(f"{REQUESTS} requests of {CANDIDATES} candidates and {EVENTS} events a second; load {os.getloadavg()[0]:.1f}")
    for name, values, goal in (
        ("request to scores", seen.answers, 0.025),
        ("event to visible", seen.visible, 0.1),
        ("window to served", seen.lags(), 1.0),
    ):
        p50, p90, p99 = np.percentile(values, [50, 90, 99]) * 1_000
        print(f"  {name:18} p50 {p50:7.1f}   p90 {p90:7.1f}   p99 {p99:7.1f} ms, of {len(values)}; goal {goal:g} s")
    for name, computed in used.items():
        print(f"  {name:18} {computed / seconds:4.0%} of a core")


def main(seconds: int) -> None:
    """Start all, measure and print."""
    with tempfile.TemporaryDirectory() as temporary, servers() as (urls, pids):
        folder = project_in(Path(temporary))
        on_servers(folder, urls)
        fit(folder)
        with working(folder) as worker, serving(folder, "serve") as (serve, url):
            host, _, port = url.removeprefix("http://").partition(":")
            asyncio.run(measured((host, int(port)), seconds, {"worker": worker, "serve": serve.pid, **pids}))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 20)
