"""History on Spark with two cores against the one-machine engine with two threads: the same features, the same values.

    .venv-spark/bin/python benchmarks/spark_backfill.py [EVENTS REQUESTS]        (default 2,000,000 and 200,000)

Each runs in a process tree of its own and writes a Parquet file a day. Spark is measured beyond its start-up: its
session is there, and a small job has started its Python. CPU is that of all processes of the tree, the better measure
where other work runs on the machine. Shuffled bytes are those that Spark's own event log says were written; memory is
what the kernel says a process has had at most. The log is that of ``backfill.py``.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from backfill import DAYS, NAMES, write_log, write_project

from dovetail.features import load
from dovetail.features.batch.pieces import Limits
from dovetail.features.stored.day_engine import DayEngine, DayWork, LocalDays, Part
from dovetail.features.stored.past_requests import RequestLog
from dovetail.platform.archive.dayfiles import DayFiles
from dovetail.spark import SparkDays

_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class NoBatchViews:
    """The project has no batch views."""

    def table(self, view: str, version_us: int) -> pa.Table:
        raise AssertionError(view)

    def stored(self, needed: object, each: object = None) -> NoBatchViews:
        return self


@dataclass(frozen=True)
class Written:
    """The consumer: writes a day's values."""

    folder: Path

    def __call__(self, day: str, parts: Iterator[Part]) -> int:
        rows = 0
        writer = None
        for part in parts:
            if writer is None:
                writer = pq.ParquetWriter(self.folder / f"{day}.parquet", part.values.schema, compression="zstd")
            writer.write_table(part.values)
            rows += part.values.num_rows
        if writer is not None:
            writer.close()
        return rows


def work_of(folder: Path, threads: int) -> DayWork:
    """The features of ``backfill.py`` for its requests."""
    project = load(folder)
    features = project.feature_set
    return DayWork(
        features,
        features.columns,
        project.stream_views,
        project.batch_views,
        {"events": DayFiles.at(folder / "events", "event_time")},
        RequestLog(DayFiles.at(folder / "requests", "request_time"), project.request_schema),
        NoBatchViews(),
        folder / "scratch",
        limits=Limits(threads=threads),
    )


def tree() -> dict[int, int]:
    """This process and all below it, with the ticks of CPU each has used, its ended and waited for children's, too."""
    parents, used = {}, {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()
            except OSError:
                continue
            parents[int(entry.name)] = int(fields[1])
            used[int(entry.name)] = sum(map(int, fields[11:15]))
    found = {os.getpid()}
    while grown := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= grown
    return {pid: used.get(pid, 0) for pid in found}


def cpu_of_tree() -> float:
    """CPU seconds that this process and all below it have used."""
    return sum(tree().values()) / _TICKS


def below() -> dict[str, float]:
    """The most MiB that a JVM, and another process, below this one has had in memory; and CPU seconds of JVMs."""
    found = {"jvm": 0.0, "python": 0.0, "jvm_cpu": 0.0}
    for pid, ticks in tree().items():
        try:
            status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
        except OSError:
            continue
        fields = dict(line.split(":", 1) for line in status.splitlines())
        kind = "jvm" if fields["Name"].strip() == "java" else "python"
        if kind == "jvm":
            found["jvm_cpu"] += ticks / _TICKS
        if pid != os.getpid():
            found[kind] = max(found[kind], int(fields.get("VmHWM", "0 kB").split()[0]) / 1024)
    return found


def timed(engine: DayEngine, work: DayWork, out: Path) -> dict[str, float]:
    """Seconds and CPU seconds of all days."""
    out.mkdir()
    began, cpu = time.perf_counter(), cpu_of_tree()
    rows = sum(rows for _, rows in engine.days(work, work.requests.days(), Written(out), None))
    return {"seconds": time.perf_counter() - began, "cpu": cpu_of_tree() - cpu, "rows": rows}


def shuffled(log: Path) -> int:
    """Bytes that the tasks of a session wrote for shuffles."""
    total = 0
    for file in (path for path in log.rglob("*") if path.is_file() and not path.name.startswith(".")):
        for line in file.read_text(encoding="utf-8").splitlines():
            event = json.loads(line)
            metrics = event.get("Task Metrics") or {}
            if event.get("Event") == "SparkListenerTaskEnd":
                total += metrics.get("Shuffle Write Metrics", {}).get("Shuffle Bytes Written", 0)
    return total


def logging_into(log: Path) -> dict[str, str]:
    """Settings by which Spark writes what its tasks have done into the folder ``log``, which is made."""
    log.mkdir()
    return {
        "spark.eventLog.enabled": "true",
        "spark.eventLog.dir": log.as_uri(),
        "spark.eventLog.compress": "false",
        "spark.eventLog.rolling.enabled": "false",
    }


def one(what: str, folder: Path) -> dict[str, float]:
    if what == "local":
        return timed(LocalDays(), work_of(folder, 2), folder / "local")
    sys.path.remove(str(Path(__file__).parent))  # profile.py beside this file is not the one that PySpark imports
    from dovetail.spark.session import open_cluster

    log = folder / "event-log"
    settings = logging_into(log)
    began = time.perf_counter()
    cluster = open_cluster("local[2]", settings)
    small = work_of(folder / "small", 1)
    list(SparkDays(cluster).days(small, small.requests.days(), Written(folder / "small"), None))
    start = {"start": time.perf_counter() - began}
    jvm = below()["jvm_cpu"]
    found = timed(SparkDays(cluster), work_of(folder, 1), folder / "spark") | below()
    found["jvm_cpu"] -= jvm
    cluster.stop()
    return found | start | {"shuffled": shuffled(log)}


def both_engines(script: str, folder: Path, rows: int, *asked: str) -> dict[str, dict[str, float]]:
    """What ``script --one ENGINE FOLDER`` says of ``local`` and ``spark``, in processes of their own; it is shown."""
    taken: dict[str, dict[str, float]] = {}
    for what in ("local", "spark"):
        command = [sys.executable, script, "--one", what, str(folder), *asked]
        said = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        taken[what] = found = json.loads(said.splitlines()[-1])
        each = 1e6 * found["cpu"] / rows
        print(f"  {what:<6}{found['seconds']:8.1f} s {found['cpu']:8.1f} CPU s {each:8.2f} µs/row", flush=True)
    ratio = {what: taken["spark"][what] / taken["local"][what] for what in ("seconds", "cpu")}
    print(f"  spark / local: {ratio['seconds']:.2f} wall, {ratio['cpu']:.2f} CPU")
    spark = taken["spark"]
    print(f"  shuffled: {spark['shuffled'] / rows:.1f} bytes/row; of Spark's CPU s, the JVM's: {spark['jvm_cpu']:.1f}")
    print(f"  most memory: JVM {spark['jvm']:,.0f} MiB, a Python worker {spark['python']:,.0f} MiB")
    return taken


def main(events: int, requests: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for place, sizes in ((folder, (events, requests)), (folder / "small", (2_800, 280))):
            place.mkdir(exist_ok=True)
            write_project(place)
            write_log(place, *sizes)
        print(f"{events:,} events x {requests:,} requests, {len(NAMES)} aggregates over 3 windows, two cores")
        rows = events + requests // DAYS * DAYS
        taken = both_engines(__file__, folder, rows)
        same = all(
            path.read_bytes() == (folder / "spark" / path.name).read_bytes() for path in (folder / "local").iterdir()
        )
        print(f"  Spark started in {taken['spark']['start']:.0f} s; equal files: {same}")


if __name__ == "__main__":
    if find_spec("pyspark") is None:
        print("skipped: PySpark is not installed; make spark-test makes an environment that has it")
    elif sys.argv[1:2] == ["--one"]:
        print(json.dumps(one(sys.argv[2], Path(sys.argv[3]))))
    else:
        main(*(int(text) for text in sys.argv[1:3] or ("2000000", "200000")))
