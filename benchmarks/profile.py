"""Shows where the processor time of a whole worker goes: the simulator's flow, embedded, by part and by stage.

Run it with ``python benchmarks/profile.py [--requests N] [--flow phased|backlog|both|servers]``. ``phased`` is the
demo's replay, slice after slice, without the verdicts; ``backlog`` has everything in the log before the worker starts;
``servers`` is the same on Kafka, Redis and PostgreSQL, started for it and removed. The first two compute the same
snapshots, in many polls and in few, so that the two runs give

    cost = a * polls + b * rows

where a poll is one that one stage is given, and a row is a snapshot row, over all stages.

The parts come from samples: every two milliseconds the innermost frame of Dovetail's code in each thread says at which
part the thread has spent its processor time. A call into C counts for the part that made it; threads of libraries are
shown together. Sampling itself costs a tenth or so: compare runs made with ``--no-samples``.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import shutil
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

# For scripts/, and not this folder, whose profile.py would be taken for the standard library's.
sys.path[0] = str(Path(__file__).resolve().parent.parent)

from dovetail.app.flow import Flow  # noqa: E402 - found by the line above
from dovetail.app.storage import resolved  # noqa: E402 - found by the line above
from dovetail.app.worker import assemble  # noqa: E402 - found by the line above
from dovetail.demo.logs.recorded import RecordedLog  # noqa: E402 - found by the line above
from dovetail.demo.logs.simulator import SimulatorConfig, simulate  # noqa: E402 - found by the line above
from dovetail.demo.replay import Replay  # noqa: E402 - found by the line above
from dovetail.demo.run import _Conductor, _project  # noqa: E402 - found by the line above
from dovetail.demo.shipped import project_folder  # noqa: E402 - found by the line above
from dovetail.features import Project, load  # noqa: E402 - found by the line above
from dovetail.platform.stage import Stage  # noqa: E402 - found by the line above
from dovetail.platform.transports.embedded.log import EmbeddedLog  # noqa: E402 - found by the line above
from dovetail.platform.transports.faust_app import App  # noqa: E402 - found by the line above
from dovetail.platform.transports.publishing import publisher  # noqa: E402 - found by the line above
from scripts.servers import remove, start  # noqa: E402 - found by the line above

_EVERY_S = 0.002
#: The part by the innermost file that one of these is in the path of.
_PARTS = (
    ("/stores/", "store"),
    ("/transports/", "transport"),
    ("/rows/", "decode"),
    ("/runtime/", "loop"),
    ("/demo/", "sender"),
    ("/archive/", "archive"),
    ("/dovetail/", "stage"),
)
_ENCODING = {"encode", "encode_json", "fitting", "encode_arrow"}


@dataclass
class Sampled:
    """Samples by part and by stage; by the function that was at work, and by all that it was called by."""

    parts: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    stages: defaultdict[tuple[str, str], float] = field(default_factory=lambda: defaultdict(float))
    places: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    within: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    total: float = 0.0

    def take(self, frame: FrameType | None, seconds: float) -> None:
        """Count ``seconds`` of processor time of a thread that is at ``frame``; None: of no thread of Python's."""
        self.total += seconds
        part, stage, at = "loop" if frame is not None else "libraries' threads", "", frame
        place = "" if frame is None else f"{Path(frame.f_code.co_filename).name}:{frame.f_code.co_name}"
        within: set[str] = set()
        while at is not None:
            code = at.f_code
            if "/dovetail/" in code.co_filename:
                name = f"{code.co_filename.rsplit('/dovetail/', 1)[1]}:{code.co_name}"
                if not within:
                    part = next(name for piece, name in _PARTS if piece in code.co_filename)
                    part = "encode" if part == "decode" and code.co_name in _ENCODING else part
                    place = name
                within.add(name)
            if not stage and code.co_name in {"take_all", "_take", "_commit", "_settle"}:
                stage = getattr(at.f_locals.get("stage"), "name", "")
            if not stage and isinstance(mine := at.f_locals.get("self"), Stage):  # in a thread
                stage = mine.name
            at = at.f_back
        self.parts[part] += seconds
        self.stages[stage or "-", part] += seconds
        self.places[place] += seconds
        for name in within:
            self.within[name] += seconds


@contextlib.contextmanager
def sampling(sampled: Sampled) -> Iterator[None]:
    """Sample what this process does in here: each thread counts by the processor time that it has used since.

    A thread samples, not a signal: signals reach Python in the main thread, which sleeps while another one computes.
    """
    over = threading.Event()

    def sample() -> None:
        used: dict[int, float] = {}
        whole = time.process_time()
        while not over.wait(_EVERY_S):
            now, of_python = time.process_time(), 0.0
            for ident, at in sys._current_frames().items():
                clock = time.clock_gettime(time.pthread_getcpuclockid(ident))
                spent = clock - used.get(ident, clock)
                used[ident] = clock
                of_python += spent
                if spent > 0 and ident != threading.get_ident():
                    sampled.take(at, spent)
            sampled.take(None, max(0.0, now - whole - of_python))
            whole = now

    interval = sys.getswitchinterval()
    sys.setswitchinterval(_EVERY_S / 10)
    sampler = threading.Thread(target=sample)
    sampler.start()
    try:
        yield
    finally:
        over.set()
        sampler.join()
        sys.setswitchinterval(interval)


class Polls:
    """Counts the polls each stage is given."""

    def __init__(self) -> None:
        self.of: Counter[str] = Counter()

    def polled(self, stage: str, topic: str, messages: int) -> None:
        """A stage is given a poll."""
        self.of[stage] += 1

    def committed(self, stage: str, seconds: float) -> None:
        """A stage has committed."""


@dataclass(frozen=True)
class Run:
    """What one run took and made."""

    flow: str
    seconds: float
    clock_s: float
    polls: Counter[str]
    rows: int
    samples: int
    sampled: Sampled


def project_of(
    keep: Path, log: RecordedLog, storage: Mapping[str, str], *, back: bool, partitions: int | None
) -> Project:
    """The demo's project, its streams and labels in so many partitions.

    ``back``: with state that answers requests of the whole log, although all its events are in.
    """
    shaped = _project(keep, log, {})
    lateness_us = {name: stream.allowed_lateness for name, stream in shaped.config.streams.items()}
    late = {name: {"allowed_lateness": "30d" if back else f"{us}us"} for name, us in lateness_us.items()}
    parts = {} if partitions is None else {"partitions": partitions}
    tables = {"item": {"path": str((keep / "item.parquet").absolute())}}
    kinds = dict.fromkeys(shaped.config.labels.streams, parts)
    labels = {"window": f"{log.label_window_us}us", "streams": kinds}
    streams = {name: of | parts for name, of in late.items()}
    stored = {"state": str(keep.absolute()), **storage}
    kept = {"inputs": "forever", "snapshots": "forever", "samples": "forever"}  # the log is of the past
    broker = {"retention": kept} if storage else {}
    return load(project_folder(), storage=stored, broker=broker, tables=tables, labels=labels, streams=streams)


def fill(project: Project, log: RecordedLog) -> None:
    """Put the whole recorded log into the topics, in the order in which the demo sends it."""
    config = project.config
    replay = Replay(log, config)
    with EmbeddedLog.open(resolved(config, config.storage.url("broker")).removeprefix("embedded://")) as messages:
        for topic, partitions in config.topics().items():
            messages.create_topic(topic, partitions)
        for _, phases in replay.phases():
            for phase in phases:
                for batch in phase:
                    messages.append(batch.messages)


async def send(app: App, project: Project, log: RecordedLog) -> None:
    """Put the whole recorded log into the topics of a broker."""
    async with publisher(app) as sender:
        for _, phases in Replay(log, project.config).phases():
            await sender.publish([m for phase in phases for batch in phase for m in batch.messages])


def served(folder: Path) -> dict[str, str]:
    """Servers started in ``folder``, as a project's storage."""
    kafka, redis, postgresql = (server.url for server in start(folder))
    return {"broker": kafka, "online_store": redis, "label_store": redis, "registry": postgresql}


gc.set_threshold(50_000)  # as `dovetail` does


async def run(
    flow: str,
    log: RecordedLog,
    keep: Path,
    storage: Mapping[str, str],
    *,
    sample: bool,
    partitions: int | None = None,
) -> Run:
    """One run of a worker with all roles in an empty folder, from its start to all stored."""
    project = project_of(keep, log, storage, back=flow != "phased", partitions=partitions)
    polls, sampled = Polls(), Sampled()
    if flow == "backlog":
        fill(project, log)
    worker = assemble(project, observer=polls)
    try:
        if flow == "servers":
            await send(worker.runtime.app, project, log)
        with sampling(sampled) if sample else contextlib.nullcontext():
            began, clock = time.process_time(), time.perf_counter()
            await worker.runtime.start()
            gc.collect()
            gc.freeze()  # as a worker's process does
            if flow == "phased":
                await _Conductor(worker, log, lambda _: None, []).run()
            if flow != "phased":
                await Flow(worker).until_idle(release=False)
            await worker.runtime.stop()
            took, clock_s = time.process_time() - began, time.perf_counter() - clock
        accounts: Counter[tuple[str, str]] = Counter()
        for account in worker.accounts():
            accounts[account.stage, account.outcome] += account.rows
    finally:
        await worker.runtime.stop()
        worker.stores.close()
    rows, samples = accounts["snapshots.candidates", "snapshotted"], accounts["samples", "sampled"]
    return Run(flow, took, clock_s, polls.of, rows, samples, sampled)


def _most(found: Mapping[str, float], most: int) -> list[tuple[str, float]]:
    return sorted(found.items(), key=lambda one: -one[1])[:most]


def cost(many: Run, few: Run) -> tuple[float, float]:
    """``a`` and ``b`` of ``cost = a * polls + b * rows``, in seconds, from two runs of the same rows."""
    polls, fewer = (sum(run.polls.values()) for run in (many, few))
    a = (many.seconds - few.seconds) / (polls - fewer)
    return a, (few.seconds - a * fewer) / few.rows


def show(run: Run, *, places: int) -> None:
    """Print a run."""
    polls = sum(run.polls.values())
    print(
        f"{run.flow}: {run.seconds:.2f} s of processor time ({run.clock_s:.2f} s), {run.rows:,} snapshot rows, "
        f"{run.samples:,} samples, {polls:,} polls of stages; "
        f"{run.rows / run.seconds:,.0f} rows per second"
    )
    if not run.sampled.total:
        return
    print("  by part:  " + ", ".join(f"{part} {n:.2f}" for part, n in _most(run.sampled.parts, 20)))
    by_stage: defaultdict[str, float] = defaultdict(float)
    for (stage, _), n in run.sampled.stages.items():
        by_stage[stage] += n
    for stage, n in _most(by_stage, 14):
        parts = sorted(((m, part) for (s, part), m in run.sampled.stages.items() if s == stage), reverse=True)
        told = ", ".join(f"{part} {m:.2f}" for m, part in parts[:6])
        print(f"  {stage:22} {n:6.2f}  {run.polls.get(stage, 0):6,} polls  {told}")
    for title, found in (("itself", run.sampled.places), ("and what it calls", run.sampled.within)):
        for place, n in _most(found, places):
            print(f"    {n:6.2f}  {place}  ({title})")


def main() -> None:
    """Run what the arguments ask for."""
    parser = argparse.ArgumentParser(description="Processor time of a whole worker by part.")
    parser.add_argument("--requests", type=int, default=1_000)
    parser.add_argument("--candidates", type=int, default=100)
    parser.add_argument("--flow", choices=["phased", "backlog", "both", "servers"], default="both")
    parser.add_argument("--partitions", type=int, help="of each stream and kind of label")
    parser.add_argument("--places", type=int, default=0, help="also print so many functions")
    parser.add_argument("--no-samples", action="store_true", help="only the totals, without the timer's own cost")
    asked: Any = parser.parse_args()
    log = simulate(SimulatorConfig(requests=asked.requests, candidates=asked.candidates))
    runs = []
    for flow in ["phased", "backlog"] if asked.flow == "both" else [asked.flow]:
        with tempfile.TemporaryDirectory(prefix="dovetail-profile-") as folder:
            own = Path(tempfile.mkdtemp(prefix="dovetail-profile-servers-"))
            try:
                storage = served(own) if flow == "servers" else {}
                how: Any = {"sample": not asked.no_samples, "partitions": asked.partitions}
                runs.append(asyncio.run(run(flow, log, Path(folder), storage, **how)))
            finally:
                remove(own)
                shutil.rmtree(own, ignore_errors=True)
            show(runs[-1], places=asked.places)
    if len(runs) == 2 and runs[0].rows == runs[1].rows:
        a, b = cost(*runs)
        print(f"cost = {a * 1e3:.2f} ms * polls + {b * 1e6:.1f} us * rows")


if __name__ == "__main__":
    main()
