"""The batch join on Spark with two cores against one machine with two threads: the same samples, the same files.

    .venv-spark/bin/python benchmarks/spark_join.py [REQUESTS]        (default 20,000, of 100 candidates each)

A tenth of the candidates is exposed and a tenth of those clicked; labels come within ten minutes, out of order by a
minute; a snapshot has ten features. Each engine runs in a process tree of its own and writes a Parquet file a day. As
in ``spark_backfill.py``, Spark is measured beyond its start-up, CPU is that of all processes, and shuffled bytes are
those of Spark's event log. A row is one of a snapshot or of a label.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from spark_backfill import below, both_engines, cpu_of_tree, logging_into, shuffled

from dovetail.app.reports import join_on_cluster as on_cluster
from dovetail.app.reports import rejoin
from dovetail.app.storage import Stores, open_stores
from dovetail.features import Project, load
from dovetail.joiners.snapshots.shape import REQUEST_COLUMN
from dovetail.platform.duck.hermetic import Resources, resources
from dovetail.platform.rows.positions import Progress, with_own_positions
from dovetail.platform.stores.registry.store import DataFile
from dovetail.spark.cluster import Cluster

SEED, CANDIDATES, PER_FLUSH, MINUTE = 20240229, 100, 5_000, 60_000_000
START = 1_704_153_600_000_000
SECONDS = 86_400
FEATURES = 10
TOML = """
[streams.behaviour]
key = "user_id"
[labels]
window = "15m"
allowed_lateness = "30s"
[labels.streams.exposure]
[labels.streams.click]
"""
LABEL = "(request_id VARCHAR NOT NULL, item_id BIGINT NOT NULL, event_time TIMESTAMP NOT NULL);"
SQL = f"""
CREATE TABLE behaviour (user_id BIGINT NOT NULL, event_time TIMESTAMP NOT NULL);
CREATE TABLE request (request_id VARCHAR NOT NULL, user_id BIGINT, request_time TIMESTAMP NOT NULL,
                      candidates STRUCT(item_id BIGINT)[] NOT NULL);
CREATE TABLE exposure {LABEL}
CREATE TABLE click {LABEL}
"""
RANKING = "SELECT request_id, item_id, " + ", ".join(f"item_id % {n + 2} AS f{n}" for n in range(FEATURES))


def write_project(folder: Path, requests: int) -> int:
    """A project with archives; the rows of snapshots and labels."""
    (folder / "sql").mkdir(parents=True)
    (folder / "dovetail.toml").write_text(TOML)
    (folder / "sql" / "tables.sql").write_text(SQL)
    (folder / "sql" / "ranking.sql").write_text(f"{RANKING} FROM request")
    stores, chance = open_stores(load(folder).config), np.random.default_rng(SEED)
    times = START + np.arange(requests, dtype=np.int64) * SECONDS * 1_000_000 // max(1, requests)
    for first in range(0, requests, PER_FLUSH):
        last = min(first + PER_FLUSH, requests)
        _flush(stores, "snapshots", _snapshots(np.arange(first, last), times, chance), "request_time", first, last)
    exposed = np.flatnonzero(chance.random(requests * CANDIDATES) < 0.1)
    clicked = exposed[chance.random(len(exposed)) < 0.1]
    rows = requests * CANDIDATES
    for kind, of in (("exposure", exposed), ("click", clicked)):
        at = times[of // CANDIDATES] + chance.integers(0, 10 * MINUTE, len(of))
        of, at = (values[np.argsort(at + chance.integers(0, MINUTE, len(of)))] for values in (of, at))
        for first in range(0, len(of), 500_000):
            mine = slice(first, first + 500_000)
            table = pa.table({"request_id": _names(of[mine] // CANDIDATES), "item_id": _items(of[mine])})
            table = table.append_column("event_time", pa.array(at[mine].view("datetime64[us]")))
            offsets = np.arange(first, first + len(of[mine]))
            table = with_own_positions(table, 0, offsets, np.zeros(len(offsets), np.int32))
            _flush(stores, kind, table, "event_time", first, first + len(offsets))
        rows += len(of)
    stores.close()
    return rows


def _names(requests: npt.NDArray[np.int64]) -> pa.Array:
    return pc.binary_join_element_wise("request", pa.array(requests).cast(pa.string()), "-")


def _items(rows: npt.NDArray[np.int64]) -> pa.Array:
    """The item of a candidate, by its number among all of them."""
    return pa.array((rows * 2_654_435_761) % 1_000_003)


def _snapshots(requests: npt.NDArray[np.int64], times: npt.NDArray[np.int64], chance: np.random.Generator) -> pa.Table:
    of, place = np.repeat(requests, CANDIDATES), np.tile(np.arange(CANDIDATES), len(requests))
    items = _items(of * CANDIDATES + place)
    asked = {"user_id": pa.array(of % 10_000), "_candidate": pa.array(place.astype(np.int32))}
    columns = {
        "request_id": _names(of),
        "item_id": items,
        "request_time": pa.array(times[of].view("datetime64[us]")),
        REQUEST_COLUMN: pa.StructArray.from_arrays(asked.values(), names=list(asked)),
        **{f"f{n}": pa.array(items.to_numpy() % (n + 2)) for n in range(FEATURES)},
        "score": pa.array(chance.random(len(of), dtype=np.float32)),
        "model_version": pa.array(np.ones(len(of), np.int64)),
    }
    return with_own_positions(pa.table(columns), 0, of, place.astype(np.int32))


def _flush(stores: Stores, dataset: str, table: pa.Table, time_: str, first: int, last: int) -> None:
    """As the archive writes: a file a day."""
    days = table.column(time_).cast(pa.date32())
    files = []
    for day in pc.unique(days).to_pylist():
        mine = table.filter(pc.equal(days, pa.scalar(day, pa.date32())))
        path = f"{dataset}/day={day}/00000-{first:012d}-{last - 1:012d}.parquet"
        stores.offline.write(path, mine)
        files.append(DataFile(dataset, str(day), path, mine.num_rows, 0, first, last - 1))
    stores.registry.commit(f"archive.{dataset}", 0, expected=first, progress=Progress(last), accounts=[], files=files)


def _here(project: Project, stores: Stores, out: Path) -> int:
    from dovetail.cli.stored.join import _here as join_here

    with resources(Resources(threads=2)):
        return join_here(project, stores, str(out), "", compare=False).rows


def joined(folder: Path, out: Path, cluster: Cluster | None) -> dict[str, float]:
    """Seconds and CPU seconds of the whole join; everything counts as released."""
    for module in (rejoin, on_cluster):
        vars(module)["released_positions"] = lambda *_: {(0, 0): 1 << 62}
    project = load(folder)
    stores = open_stores(project.config)
    began, cpu = time.perf_counter(), cpu_of_tree()
    if cluster is None:
        rows = _here(project, stores, out)
    else:
        rows = on_cluster.join_on_cluster(project, stores, cluster, out=str(out), compare=False).rows
    found = {"seconds": time.perf_counter() - began, "cpu": cpu_of_tree() - cpu, "samples": rows}
    stores.close()
    return found


def one(what: str, folder: Path) -> dict[str, float]:
    """Run one engine; the second join of the process is measured, of Spark's session and of this one's imports."""
    if what == "local":
        joined(folder / "small", folder / "small-local", None)
        return joined(folder, folder / "local", None)
    sys.path.remove(str(Path(__file__).parent))  # profile.py beside this file is not the one that PySpark imports
    from dovetail.spark.session import open_cluster

    log = folder / "event-log"
    settings = logging_into(log)
    cluster = open_cluster("local[2]", settings)
    joined(folder / "small", folder / "small-spark", cluster)
    jvm = below()["jvm_cpu"]
    found = joined(folder, folder / "spark", cluster) | below()
    found["jvm_cpu"] -= jvm
    cluster.stop()
    return found | {"shuffled": shuffled(log)}


def main(requests: int) -> None:
    """Run both and compare."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows = write_project(folder, requests)
        write_project(folder / "small", 20)
        print(f"{requests:,} requests x {CANDIDATES} candidates, {rows:,} rows with labels, two cores")
        taken = both_engines(__file__, folder, rows)
        files = list((folder / "local").rglob("*.parquet"))
        same = all(p.read_bytes() == (folder / "spark" / p.relative_to(folder / "local")).read_bytes() for p in files)
        print(f"  {taken['spark']['samples']:,} samples in {len(files)} files; equal: {same}")


if __name__ == "__main__":
    if find_spec("pyspark") is None:
        print("skipped: PySpark is not installed; make spark-test makes an environment that has it")
    elif sys.argv[1:2] == ["--one"]:
        print(json.dumps(one(sys.argv[2], Path(sys.argv[3]))))
    else:
        main(*(int(text) for text in sys.argv[1:2] or ("20000",)))
