"""Prints what is wanted of the whole beside what one run gives here: goals that are reached, and those that are not.

    python benchmarks/goals.py [--requests N] [--events N] [--no-servers] [--no-demo]

Figures are of this process's processor time, but for the demo, a process of its own, which is taken by the clock and so
means something only on a quiet machine. Kafka, Redis and PostgreSQL are started for it and removed; where they are not
installed, what needs them is told as not measured.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

# In this order: profile.py, which plain_duckdb.py reads, takes this folder from the path.
from request import feed, week_of_events  # isort: skip
from plain_duckdb import Compared, compare  # isort: skip
from profile import Run, cost, run, served  # isort: skip

from dovetail.demo.logs.simulator import SimulatorConfig, simulate
from dovetail.features import load
from dovetail.platform.stores.online_stores import open_online_store
from scripts.servers import ServiceError, remove, start

ROOT = Path(__file__).resolve().parent.parent


class Goal(NamedTuple):
    """A figure and what is wanted of it: at least ``wanted``, or with ``at_most`` no more."""

    what: str
    figure: float
    wanted: float
    unit: str
    at_most: bool = False

    def line(self) -> str:
        """As a row of a table."""
        reached = self.figure <= self.wanted if self.at_most else self.figure >= self.wanted
        share = self.wanted / self.figure if self.at_most else self.figure / self.wanted
        sign = "≤" if self.at_most else "≥"
        here, wanted = f"{_number(self.figure)} {self.unit}", f"{sign} {_number(self.wanted)}"
        return f"| {self.what} | {here} | {wanted} | {'ahead' if reached else 'behind'}: {share:.2f} |"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def from_comparison(found: Compared) -> list[Goal]:
    """The goals that set the worker beside plain DuckDB."""
    backlog = found.runs["backlog"]
    return [
        Goal(f"demo's slices ({found.slices}), beside plain DuckDB", found.times_plain("phased"), 2, "x"),
        Goal("backlog, embedded, beside plain DuckDB in one go", found.times_plain("backlog"), 1.5, "x"),
        Goal("backlog, embedded", backlog.rows / backlog.seconds, 100_000, "rows/s"),
    ]


def by_stage(phased: Run, backlog: Run) -> tuple[list[Goal], list[str]]:
    """``cost = a * polls + b * rows`` over all, as goals, and a row of a table for each stage, from sampled runs."""
    a, b = cost(phased, backlog)
    goals = [Goal("a: per poll and stage, over all", a * 1e3, 0.5, "ms", at_most=True)]
    goals.append(Goal("b: per snapshot row, over all stages", b * 1e6, 8, "us", at_most=True))
    spent: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
    for index, one in enumerate((phased, backlog)):
        for (stage, _), seconds in one.sampled.stages.items():
            spent[stage][index] += seconds
    lines = []
    for stage, (many, few) in sorted(spent.items(), key=lambda of: -of[1][0]):
        more = phased.polls[stage] - backlog.polls[stage]
        if more > 0:
            each = (many - few) / more
            rest = max(0.0, few - each * backlog.polls[stage]) / backlog.rows
            lines.append(f"| {stage} | {phased.polls[stage]:,} | {each * 1e3:.2f} ms | {rest * 1e6:.2f} us |")
    return goals, lines


def events_into(what: str, url: str, events: int) -> list[Goal]:
    """JSON to durable state at ``url``, ten aggregates over three windows: in the largest polls, and in small ones."""
    project = load(ROOT)
    messages = week_of_events(events)
    views = [project.stream_views["item_stats"]]
    rates = {}
    for number, poll in enumerate((20_000, 20_000, 1_000)):  # the first reads the kernels
        place = url if url.startswith("redis") else f"{url}-{number}.sqlite"
        store = open_online_store(place, f"goals-{number}")
        try:
            rates[poll] = events / feed(project, views, store, messages, poll)
        finally:
            store.close()
    return [
        Goal(f"JSON events to state on {what}, polls of {p:,}", rate, 300_000, "events/s") for p, rate in rates.items()
    ]


@contextmanager
def folder(name: str) -> Iterator[Path]:
    """An empty folder, removed with the servers in it."""
    path = Path(tempfile.mkdtemp(prefix=f"dovetail-goals-{name}-"))
    try:
        yield path
    finally:
        remove(path)
        shutil.rmtree(path, ignore_errors=True)


def whole(
    flow: str, requests: int, candidates: int, *, sample: bool, storage: Callable[[Path], Mapping[str, str]]
) -> Run:
    """One run of a worker with all roles."""
    log = simulate(SimulatorConfig(requests=requests, candidates=candidates))
    with folder("servers") as own, folder("state") as state:
        return asyncio.run(run(flow, log, state, storage(own), sample=sample))


def on_servers(requests: int, events: int) -> list[Goal]:
    """The goals that are measured with Kafka, Redis and PostgreSQL."""
    goals = []
    with folder("redis") as own:
        (redis,) = start(own, ["redis"])
        goals += events_into("Redis", redis.url, events)
    for candidates, wanted, times in ((100, 100_000, 5), (20, 60_000, 20)):  # its start is counted, too
        done = whole("servers", times * requests, candidates, sample=False, storage=served)
        what = f"all roles on servers, {candidates} candidates, the log filled before"
        goals.append(Goal(what, done.rows / done.seconds, wanted, "rows/s"))
    return goals


def demo() -> list[Goal]:
    """`dovetail demo` with kernels cached, by the clock: to its first line about samples, and to both verdicts."""
    with folder("demo") as keep:
        command = [
            sys.executable,
            "-c",
            "from dovetail.cli import main; main()",
            "demo",
            "--keep",
            str(keep / "run"),
        ]
        began, first, before = time.perf_counter(), 0.0, resource.getrusage(resource.RUSAGE_CHILDREN)
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
            assert process.stdout is not None
            for line in process.stdout:
                if not first and "samples, log-loss" in line:
                    first = time.perf_counter() - began
        took, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
        spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        if process.returncode:
            raise SystemExit(f"the demo ended with {process.returncode}")
    return [
        Goal(f"demo, to both verdicts ({spent:.0f} s of processor time)", took, 20, "s on the clock", at_most=True),
        Goal("demo, to the first tenth's samples", first, 5, "s on the clock", at_most=True),
    ]


def show(goals: list[Goal]) -> None:
    """Print rows of the table as they are known."""
    for goal in goals:
        print(goal.line(), flush=True)


def main() -> None:
    """Run what the arguments ask for."""
    parser = argparse.ArgumentParser(description="Goals of the whole, and how far it is from them.")
    parser.add_argument("--requests", type=int, default=1_000)
    parser.add_argument("--events", type=int, default=200_000)
    parser.add_argument("--no-servers", action="store_true")
    parser.add_argument("--no-demo", action="store_true")
    asked: Any = parser.parse_args()
    began, load_before = time.process_time(), os.getloadavg()[0]
    print("| goal | here | wanted | share of it |\n|---|---|---|---|")
    show(from_comparison(compare(asked.requests)))
    phased, backlog = (whole(f, asked.requests, 100, sample=True, storage=lambda _: {}) for f in ("phased", "backlog"))
    goals, stages = by_stage(phased, backlog)
    show(goals)
    with folder("sqlite") as state:
        show(events_into("SQLite", f"sqlite:///{state / 'online'}", asked.events))
    if not asked.no_servers:
        try:
            show(on_servers(asked.requests, asked.events))
        except ServiceError as error:
            print(f"| on Kafka, Redis and PostgreSQL | not measured: {error} | | |")
    if not asked.no_demo:
        show(demo())
    print("\n| stage | polls in slices | per poll | per snapshot row |\n|---|---|---|---|")
    print("\n".join(stages))
    now = os.getloadavg()[0]
    print(
        f"\n{asked.requests:,} requests; {os.cpu_count()} cores, load {load_before:.1f} before, {now:.1f} after, ",
        end="",
    )
    print(f"{time.process_time() - began:.0f} s of processor time")


if __name__ == "__main__":
    main()
