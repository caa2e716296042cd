"""``evaluate`` and ``bootstrap`` on Spark with two cores against one machine: the same numbers, the same states.

    .venv-spark/bin/python benchmarks/spark_commands.py [SAMPLES EVENTS]        (default 2,000,000 of each; 0: none)

Samples are in 16 files and a model of 39 inputs predicts them; events are those of ``backfill.py``, in 4 partitions and
28 days, and the view is its one. As in ``spark_backfill.py``, Spark is measured beyond its start-up, behind a small run
of the same kind, CPU is that of all processes, and shuffled bytes are those of Spark's event log.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from backfill import DAYS, TOML, write_log, write_project
from spark_backfill import below, both_engines, cpu_of_tree, logging_into, shuffled

from dovetail.app.storage import open_stores
from dovetail.cli.models import evaluate
from dovetail.features import load
from dovetail.features.stored.bootstrap import bootstrap
from dovetail.features.stored.day_engine import DayEngine, LocalDays
from dovetail.platform.archive.dayfiles import day_of
from dovetail.platform.rows.positions import Progress, with_own_positions
from dovetail.platform.stores.registry.store import DataFile

SEED, INPUTS, FILES, PARTITIONS = 20240229, 39, 16, 4


def write_samples(folder: Path, rows: int) -> None:
    """A project with a model that was trained on the first of ``FILES`` files of samples."""
    (folder / "samples").mkdir(parents=True)
    inputs = ", ".join(f'{{ column = "c{n}" }}' for n in range(INPUTS))
    (folder / "dovetail.toml").write_text(f"{TOML}[model]\nbits = 20\ninputs = [{inputs}]\n")
    chance, of = np.random.default_rng(SEED), rows // FILES
    for number in range(FILES):
        columns = {f"c{n}": chance.integers(0, 10 ** (1 + n % 5), of) for n in range(INPUTS)}
        columns["label"] = (chance.random(of) < 0.1 + 0.02 * (columns["c0"] % 10)).astype(np.int8)
        columns["weight"] = np.ones(of, np.float32)
        pq.write_table(pa.table(columns), folder / "samples" / f"{number:02d}.parquet", compression="zstd")
    command: list[str | Path] = [
        Path(sys.executable).with_name("dovetail"),
        "train",
        "-p",
        folder,
        folder / "samples" / "00.parquet",
    ]
    subprocess.run([*command, "--out", folder / "models"], check=True, stdout=subprocess.DEVNULL)


def write_events(folder: Path, events: int) -> None:
    """A project with an archive of the events of ``backfill.py``, by user in ``PARTITIONS`` partitions."""
    folder.mkdir(parents=True)
    write_project(folder)
    write_log(folder, events, DAYS)
    stores = open_stores(load(folder).config)
    next_offset = dict.fromkeys(range(PARTITIONS), 0)
    for path in sorted((folder / "events").iterdir()):
        table = pq.read_table(path)
        day = day_of(pa.compute.min(table.column("event_time")).cast(pa.int64()).as_py())
        for partition, first in next_offset.items():
            mine = table.filter(pa.array(table.column("user_id").to_numpy() % PARTITIONS == partition))
            offsets = np.arange(first, first + mine.num_rows)
            placed = with_own_positions(mine, partition, offsets, np.zeros(mine.num_rows, np.int32))
            last = first + mine.num_rows - 1
            name = f"events/day={day}/{partition:05d}-{first:012d}-{last:012d}.parquet"
            stores.offline.write(name, placed)
            file = DataFile("events", day, name, mine.num_rows, partition, first, last)
            stores.registry.commit(
                "archive.events", partition, expected=first, progress=Progress(last + 1), accounts=[], files=[file]
            )
            next_offset[partition] = last + 1
    stores.close()


def evaluated(folder: Path, engine: DayEngine) -> float:
    """The log-loss."""

    @contextmanager
    def opened(*_: object) -> Iterator[DayEngine]:
        yield engine

    vars(evaluate)["day_engine"] = opened
    found = evaluate.evaluate_model(folder, str(folder / "models"), [str(folder / "samples")])
    return float(found.total.log_loss or 0)


def filled(folder: Path, engine: DayEngine) -> float:
    """The rows that the state of the view was made of."""
    project = load(folder)
    stores = open_stores(project.config)
    (view,) = project.stream_views.values()
    each = None if isinstance(engine, LocalDays) else engine.each
    found = bootstrap(view, stores.registry, stores.offline, stores.online, replace_existing=True, each=each)
    stores.close()
    return float(found.rows)


RUNS: dict[str, Callable[[Path, DayEngine], float]] = {"evaluate": evaluated, "bootstrap": filled}


def timed(run: Callable[[Path, DayEngine], float], folder: Path, engine: DayEngine) -> dict[str, float]:
    """Seconds and CPU seconds."""
    began, cpu = time.perf_counter(), cpu_of_tree()
    result = run(folder, engine)
    return {"seconds": time.perf_counter() - began, "cpu": cpu_of_tree() - cpu, "result": result}


def one(what: str, folder: Path, command: str) -> dict[str, float]:
    """Run one engine; the second run of the process is measured."""
    run = RUNS[command]
    if what == "local":
        run(folder / "small", LocalDays())
        return timed(run, folder, LocalDays())
    sys.path.remove(str(Path(__file__).parent))  # profile.py beside this file is not the one that PySpark imports
    from dovetail.spark import SparkDays
    from dovetail.spark.session import open_cluster

    log = folder / "event-log"
    cluster = open_cluster("local[2]", logging_into(log))
    run(folder / "small", SparkDays(cluster))
    jvm = below()["jvm_cpu"]
    found = timed(run, folder, SparkDays(cluster)) | below()
    found["jvm_cpu"] -= jvm
    cluster.stop()
    return found | {"shuffled": shuffled(log)}


def main(samples: int, events: int) -> None:
    """Run each command with both engines."""
    for command, rows, write in (("evaluate", samples, write_samples), ("bootstrap", events, write_events)):
        if not rows:
            continue
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name) / "project"
            for place, size in ((folder, rows), (folder / "small", max(2_800, rows // 1000))):
                write(place, size)
            print(f"{command}: {rows:,} rows, two cores")
            taken = both_engines(__file__, folder, rows, command)
            print(f"  equal: {taken['local']['result'] == taken['spark']['result']}")


if __name__ == "__main__":
    if find_spec("pyspark") is None:
        print("skipped: PySpark is not installed; make spark-test makes an environment that has it")
    elif sys.argv[1:2] == ["--one"]:
        print(json.dumps(one(sys.argv[2], Path(sys.argv[3]), sys.argv[4])))
    else:
        main(*(int(text) for text in sys.argv[1:3] or ("2000000", "2000000")))
