"""What an open page of the console costs a worker: the same load with and without a client that refreshes the flow.

    python -m benchmarks.console [--rounds 40] [--pairs 8] [--every 3]

A worker of the repository's own project, with all roles and the console beside it, is given rounds of 2,000 events and
20 requests of 200 candidates, the next one when the one before is handled. Phases of so many rounds take turns: with a
client in another process that asks for the flow's page every three seconds, as a browser that shows it does, and
without one. Printed are rounds a second by the clock and by the processor time of the worker's process, and the ratio
of the pairs.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow.parquet as pq

from dovetail.app.worker import Worker, assemble
from dovetail.console.hosting import Console
from dovetail.features import load
from dovetail.platform.clock import moment_of
from dovetail.platform.config.served.console import ConsoleConfig
from dovetail.platform.stage import Outgoing
from dovetail.platform.transports.partitioning import partition_of_key

EVENTS, REQUESTS, CANDIDATES, STEP_US, START_US = 2_000, 20, 200, 2_000_000, 1_709_251_200_000_000
ROOT = Path(__file__).resolve().parent.parent
#: Asks for the page again and again, until its standard input ends; then says how often, and how long it waited.
CLIENT = """
import http.client, json, sys, threading, time
host, port, every = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
ended = threading.Event()
threading.Thread(target=lambda: (sys.stdin.read(), ended.set()), daemon=True).start()
connection, seconds = http.client.HTTPConnection(host, port), []
while not ended.is_set():
    began = time.perf_counter()
    connection.request("GET", "/flow")
    answer = connection.getresponse()
    assert answer.status == 200 and answer.read()
    seconds.append(time.perf_counter() - began)
    ended.wait(every)
print(json.dumps(seconds))
"""


class Phase(NamedTuple):
    """Rounds handled in so many seconds of the clock, and of processor time of the worker's process."""

    rounds: int
    seconds: float
    processor_s: float


def project_in(folder: Path) -> Path:
    """The repository's project, and an offline table without rows."""
    shutil.copytree(ROOT / "sql", folder / "sql")
    (folder / "dovetail.toml").write_text((ROOT / "dovetail.toml").read_text())
    project = load(folder)
    (view,) = project.batch_views.values()
    table = project.config.path(project.config.tables["item"].path)
    table.parent.mkdir()
    pq.write_table(view.tables[0].schema.arrow.empty_table(), table)
    return folder


class Load:
    """Rounds of events and requests, each later in event time than the one before."""

    def __init__(self, worker: Worker) -> None:
        self._worker, self._round, self._rng = worker, 0, np.random.default_rng(7)
        self._topics = worker.project.config.topics()
        self._behaviour = worker.project.streams["behaviour"].topic
        self._requests = worker.project.config.request.topic
        self._sent: Counter[tuple[str, int]] = Counter()

    def _messages(self) -> list[Outgoing]:
        users, items = (self._rng.integers(0, most, EVENTS) for most in (2_000, 1_000))
        start = START_US + self._round * STEP_US
        times = [moment_of(start + int(us)).isoformat() for us in np.sort(self._rng.integers(0, STEP_US, EVENTS))]
        made = []
        for user, item, moment in zip(users.tolist(), items.tolist(), times, strict=True):
            row = {"user_id": f"u{user}", "item_id": item, "event_time": moment, "action": "click", "price": "9.99"}
            made.append(self._message(self._behaviour, row, row["user_id"]))
        for number in range(self._round * REQUESTS, (self._round + 1) * REQUESTS):
            asked = {
                "request_id": f"r{number}", "user_id": f"u{number % 2_000}", "request_time": times[-1],
                "candidates": [{"item_id": (number * 7 + k) % 1_000, "position": k + 1} for k in range(CANDIDATES)],
            }  # fmt: skip
            made.append(self._message(self._requests, asked, f"u{number % 2_000}"))
        self._round += 1
        return made

    def _message(self, topic: str, row: Mapping[str, object], key: object) -> Outgoing:
        name = str(key).encode()
        partition = partition_of_key(name, self._topics[topic])
        return Outgoing(topic, json.dumps(row).encode(), key=name, partition=partition)

    async def rounds(self, count: int) -> Phase:
        """Handle so many rounds; making their messages is not measured."""
        given, runtime = [self._messages() for _ in range(count)], self._worker.runtime
        began, processor = time.perf_counter(), time.process_time()
        for messages in given:
            self._sent.update((message.topic, message.partition or 0) for message in messages)
            await runtime.publish(messages)
            wanted = {
                (stage.name, *place): end
                for place, end in self._sent.items()
                for stage in self._worker.stages.values()
                if place[0] in stage.topics
            }
            await runtime.wait_for(lambda: all(runtime.handled.get(key, 0) >= end for key, end in wanted.items()))  # noqa: B023
        return Phase(count, time.perf_counter() - began, time.process_time() - processor)


async def measure(folder: Path, rounds: int, pairs: int, every: float) -> tuple[list[Phase], list[Phase], list[float]]:
    """The phases without and with a client, and the seconds that its pages took."""
    project = load(folder)
    worker = assemble(project, load_beside=True)
    console = Console(project, ConsoleConfig(port=0))
    without: list[Phase] = []
    beside: list[Phase] = []
    waited: list[float] = []

    async def watch() -> None:
        load_ = Load(worker)
        await load_.rounds(rounds)
        host, port = console.url.removeprefix("http://").strip("/").split(":")
        for pair in range(pairs):
            for with_client in (pair % 2 == 0, pair % 2 == 1):
                if not with_client:
                    without.append(await load_.rounds(rounds))
                    continue
                command = (sys.executable, "-c", CLIENT, host, port, str(every))
                pipe = asyncio.subprocess.PIPE
                client = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe)
                beside.append(await load_.rounds(rounds))
                said, _ = await client.communicate(b"")
                waited.extend(json.loads(said))

    try:
        await worker.runtime.start()
        await console.beside(watch)()
    finally:
        console.close()
        await worker.runtime.stop()
        worker.stores.close()
    return without, beside, waited


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--pairs", type=int, default=8)
    parser.add_argument("--every", type=float, default=3.0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        without, beside, waited = asyncio.run(measure(project_in(Path(folder)), given.rounds, given.pairs, given.every))
    print(f"{given.pairs} pairs of phases of {given.rounds} rounds; {len(waited)} pages, every {given.every:g} s")
    print(f"  a page took {np.median(waited) * 1e3:.0f} ms of the clock, {max(waited) * 1e3:.0f} ms at most")
    for name, at in (("clock", 1), ("processor time", 2)):
        plain, shown = (np.array([phase.rounds / phase[at] for phase in phases]) for phases in (without, beside))
        ratios = shown / plain
        print(
            f"  rounds a second by {name:15} without {np.median(plain):6.2f}  with {np.median(shown):6.2f}  "
            f"ratio {np.median(ratios):.3f}  (pairs {', '.join(f'{ratio:.2f}' for ratio in ratios)})"
        )


if __name__ == "__main__":
    main()
