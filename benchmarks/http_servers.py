"""Ranking over HTTP on real Kafka and Redis: 200 candidates, 32 columns, so many requests a second, come what may.

    python benchmarks/http_servers.py [REQUESTS_PER_SECOND [SECONDS]]

Kafka and Redis are started here and removed, or are those of DOVETAIL_TEST_KAFKA and DOVETAIL_TEST_REDIS. ``dovetail
serve`` and a worker with all roles are processes of their own. The repository's project is fed some thousand events;
then requests are sent at fixed times, whether the ones before are answered or not, and a time is from when a request
was to be sent until its answer is read: who is late makes those behind it late, too. The first seconds are not counted.

Printed: the times, of all and of the quietest five seconds; of worker, ``serve`` and servers the processor time per
request, as a share of a core, too, and how long their threads were ready and had to wait for a processor. Such waiting
is in every time on the clock: on a machine with other work the times say little without it.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT)]

import numpy as np  # noqa: E402 - found by the line above
from http_api import CANDIDATES, events, project_in, requests  # noqa: E402

from scripts.servers import Server, existing, remove, start  # noqa: E402
from tests import forked  # noqa: E402
from tests.api.test_process import COMMAND, serving  # noqa: E402
from tests.faults.fleet import until  # noqa: E402

RATE, SECONDS, WARM_S, WINDOW_S, MOST_CALLS = 50, 30, 10, 5, 32
_SERVERS = ("kafka", "redis")


class Connections:
    """Keeps connections to one address, each for one call at a time."""

    def __init__(self, host: str, port: int) -> None:
        self._address = (host, port)
        self._free: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
        self._places = asyncio.Semaphore(MOST_CALLS)

    async def post(self, path: str, body: bytes) -> bytes:
        """The body of the answer, which must be a 200. Waits for a place where many calls are under way."""
        async with self._places:
            return await self._post(path, body)

    async def _post(self, path: str, body: bytes) -> bytes:
        self._free = [pair for pair in self._free if not pair[0].at_eof()]  # those silent for long are closed
        reader, writer = self._free.pop() if self._free else await asyncio.open_connection(*self._address)
        head = (
            f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        writer.write(head.encode() + body)
        said = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        length = int(said.partition("content-length:")[2].split()[0])
        answer = await reader.readexactly(length)
        assert " 200 " in said.partition("\r\n")[0], (said, answer)
        self._free.append((reader, writer))
        return answer


async def load(connections: Connections, rate: int, seconds: int) -> list[float]:
    """Seconds of each request from the time on that it was to be sent at."""
    bodies = requests(10_000 * (1 + int(time.monotonic()) % 1_000), rate * seconds)
    began = time.perf_counter() + 0.1
    times = [0.0] * len(bodies)

    async def ask(number: int) -> None:
        due = began + number / rate
        await asyncio.sleep(due - time.perf_counter())
        answer = await connections.post("/v1/rank", bodies[number])
        times[number] = time.perf_counter() - due
        assert len(json.loads(answer)["scores"]) == CANDIDATES

    await asyncio.gather(*(ask(number) for number in range(len(bodies))))
    return times


def on_servers(folder: Path, urls: Mapping[str, str]) -> None:
    """Let the project in ``folder`` use the servers, by topics and keys of its own."""
    name, path = f"bench{uuid.uuid4().hex[:8]}", folder / "dovetail.toml"
    text = path.read_text().replace('name = "demo"', f'name = "{name}"')
    text = text.replace(
        "[storage]\n",
        f'[storage]\nbroker = "{urls["kafka"]}"\nonline_store = "{urls["redis"]}"\nlabel_store = "{urls["redis"]}"\n',
    )
    text = text.replace("[streams.behaviour]\n", f'[streams.behaviour]\ntopic = "{name}-behaviour"\n')
    for kind in ("exposure", "click", "conversion"):
        text = text.replace(f"[labels.streams.{kind}]", f'[labels.streams.{kind}]\ntopic = "{name}-{kind}"')
    for topic in ("requests", "snapshots", "samples"):
        text = text.replace(f'topic = "{topic}"', f'topic = "{name}-{topic}"')
    path.write_text(text + f'reply_topic = "{name}-replies"\n[broker.retention]\ninputs = "forever"\n')


@contextmanager
def servers() -> Iterator[tuple[dict[str, str], dict[str, int]]]:
    """URLs, and process ids where they are known."""
    given = os.environ.get("DOVETAIL_TEST_SERVICES")
    own = Path(tempfile.mkdtemp(prefix="dovetail-http-servers-"))
    try:
        found: list[Server] = existing(Path(given), _SERVERS) if given else start(own, _SERVERS)
        yield {server.name: server.url for server in found}, {server.name: server.pid or 0 for server in found}
    finally:
        remove(own)
        shutil.rmtree(own, ignore_errors=True)


@contextmanager
def working(folder: Path) -> Iterator[int]:
    """The process id of a worker without the API, started, and killed at the end."""
    log = folder / "worker.log"
    with (
        log.open("wb") as said,
        forked.start([COMMAND, "worker", "--no-api"], cwd=folder, stdout=said, stderr=said) as process,
    ):
        try:
            until(lambda: "worker: started" in log.read_text(), "the worker has started", say=log.read_text)
            yield process.pid
        finally:
            process.kill()


def spent(pid: int) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Seconds that the threads of a process have computed for, and that they have waited for a processor."""
    found = np.zeros(2)
    for task in Path(f"/proc/{pid}/task").iterdir():
        with suppress(OSError):  # a thread that has just ended
            found += np.array((task / "schedstat").read_text().split()[:2], dtype=np.float64)
    return found / 1e9


def main(rate: int, seconds: int) -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as temporary, servers() as (urls, pids):
        folder = project_in(Path(temporary))
        on_servers(folder, urls)
        with working(folder) as worker, serving(folder, "serve") as (serve, url):
            pids = {"worker": worker, "serve": serve.pid, **pids}
            host, _, port = url.removeprefix("http://").partition(":")
            asyncio.run(measured((host, int(port)), rate, seconds, pids))


async def measured(address: tuple[str, int], rate: int, seconds: int, pids: Mapping[str, int]) -> None:
    """Feed events, warm up, and measure."""
    connections = Connections(*address)
    for some in np.array_split(np.array(events(), dtype=object), 10):
        await connections.post("/v1/events/behaviour", b"[" + b",".join(some.tolist()) + b"]")
    await load(connections, rate, WARM_S)
    before = {name: spent(pid) for name, pid in pids.items()}
    times = await load(connections, rate, seconds)
    used = {name: (spent(pid) - before[name]) for name, pid in pids.items()}
    windows = np.array_split(np.array(times), max(1, seconds // WINDOW_S))
    print(f"{len(times)} requests of {CANDIDATES} candidates, {rate} a second; load {os.getloadavg()[0]:.1f}")
    for name, values in (("all", times), (f"quietest {WINDOW_S} s", min(windows, key=lambda window: window.max()))):
        p50, p90, p99 = np.percentile(values, [50, 90, 99]) * 1_000
        print(f"  {name:14} p50 {p50:6.2f} ms   p90 {p90:6.2f} ms   p99 {p99:6.2f} ms")
    for name, (computed, waited) in used.items():
        each = f"{computed / len(times) * 1_000:6.2f} ms of processor per request, {computed / seconds:4.0%} of a core"
        print(f"  {name:14} {each}; waited {waited / len(times) * 1_000:6.2f} ms for one")


if __name__ == "__main__":
    main(*(int(word) for word in (*sys.argv[1:], *(str(RATE), str(SECONDS))[len(sys.argv) - 1 :])))
