"""Compares a whole worker with a hand-written DuckDB script that makes the same snapshots and samples.

The script has nothing of what a worker has: no log, no positions, no accounts, no archive, no model, all in memory. It
computes the demo's features and labels slice by slice, as the demo replays them, and once more in a single slice. Slice
by slice its features must equal those that the worker served, to the bit. In a single slice late events are in as well,
and so are labels that came too late: how many values and samples that changes is printed.

    python benchmarks/plain_duckdb.py [REQUESTS]
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

# This folder's profile.py, and not the standard library's.
from profile import Run, run

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dovetail.app.storage import resolved
from dovetail.demo.logs.recorded import RecordedLog
from dovetail.demo.logs.simulator import SimulatorConfig, simulate
from dovetail.demo.replay import LABELS_EVERY_US, Replay
from dovetail.demo.run import _project
from dovetail.demo.shipped import project_folder
from dovetail.features import Project
from dovetail.platform.archive.writer import read_dataset
from dovetail.platform.stores.offline import OfflineStore
from dovetail.platform.stores.registry.store import Registry

_VIEWED, _KEPT = "action IN ('impression', 'browse')", "action IN ('cart', 'follow')"
_HOUR, _DAY, _WEEK = (
    "e.event_time >= t - INTERVAL 1 HOUR",
    "e.event_time >= time_bucket(INTERVAL 1 HOUR, t - INTERVAL 1 DAY)",
    "e.event_time >= time_bucket(INTERVAL 6 HOUR, t - INTERVAL 7 DAY)",
)
_USER = {
    "views_1h": ("count(*)", f"{_VIEWED} AND {_HOUR}"),
    "clicks_1h": ("count(*)", f"action = 'click' AND {_HOUR}"),
    "views_1d": ("count(*)", f"{_VIEWED} AND {_DAY}"),
    "clicks_1d": ("count(*)", f"action = 'click' AND {_DAY}"),
    "events_7d": ("count(*)", f"action IS NOT NULL AND {_WEEK}"),
    "views_7d": ("count(*)", f"{_VIEWED} AND {_WEEK}"),
    "clicks_7d": ("count(*)", f"action = 'click' AND {_WEEK}"),
    "carts_7d": ("count(*)", f"{_KEPT} AND {_WEEK}"),
    "orders_7d": ("count(*)", f"action = 'order' AND {_WEEK}"),
    "spend_7d": ("sum(price)", f"action = 'order' AND {_WEEK}"),
    "avg_clicked_price_7d": ("avg(price)", f"action = 'click' AND {_WEEK}"),
    "max_clicked_price_7d": ("max(price)", f"action = 'click' AND {_WEEK}"),
}
_ITEM = {name: _USER[name] for name in ("views_1h", "clicks_1h", "views_1d", "clicks_1d", "views_7d", "clicks_7d")}
_ITEM |= {name: _USER[name] for name in ("carts_7d", "orders_7d")}
_ITEM |= {"avg_price_1d": ("avg(price)", _DAY), "min_price_7d": ("min(price)", _WEEK)}


def _view(entity: str, aggregates: dict[str, tuple[str, str]]) -> str:
    columns = ", ".join(f"{call} FILTER ({where}) AS {name}" for name, (call, where) in aggregates.items())
    return f"""SELECT {entity}, t AS request_time, {columns}
        FROM (SELECT DISTINCT {entity}, request_time AS t FROM request)
        LEFT JOIN (SELECT {entity} AS of, event_time, action, price FROM events) e
        ON of = {entity} AND e.event_time <= t
        GROUP BY ALL"""


class Script:
    """The script: tables in memory, and what is done with a slice."""

    def __init__(self, log: RecordedLog, window_us: int) -> None:
        self._duck = duckdb.connect()
        self._duck.execute("SET threads = 1")
        self._duck.register("given_items", log.items)
        self._duck.execute("CREATE TABLE item AS SELECT * FROM given_items")
        for name, like in (
            ("events", log.events),
            ("exposure", log.labels["exposure"]),
            ("click", log.labels["click"]),
        ):
            self._duck.register("like_it", like.slice(0, 0))
            self._duck.execute(f"CREATE TABLE {name} AS SELECT * FROM like_it")
        features = (project_folder() / "sql" / "ranking.sql").read_text(encoding="utf-8").strip().rstrip(";")
        for view in ("user_activity USING (user_id", "item_stats    USING (item_id", "item_profile  USING (item_id"):
            features = features.replace(f"{view})", f"{view}, request_time)")
        self._features = features.replace("item_id,\n", "item_id, request_time,\n", 1)
        self._window_us = window_us
        self._snapshots = self._samples = 0
        self.kept: list[pa.Table] = []

    def slice(self, log: RecordedLog, before: int, end: int, *, released: bool) -> None:
        """Take what arrived in ``[before, end)`` µs: events, requests, labels and, if ``released``, their samples."""
        duck = self._duck
        for name, rows in (
            ("events", log.events),
            ("exposure", log.labels["exposure"]),
            ("click", log.labels["click"]),
        ):
            if (mine := _arrived(rows, before, end)).num_rows:
                duck.register("arrived", mine)
                duck.execute(f"INSERT INTO {name} SELECT * FROM arrived")
        asked = _arrived(log.requests, before, end)
        if asked.num_rows:
            duck.register("asked", asked)
            duck.execute(
                "CREATE OR REPLACE TEMP TABLE request AS SELECT * EXCLUDE (candidates, c), c.* FROM "
                "(SELECT *, unnest(candidates) AS c FROM asked)"
            )
            duck.execute(f"CREATE OR REPLACE TEMP TABLE user_activity AS {_view('user_id', _USER)}")
            duck.execute(f"CREATE OR REPLACE TEMP TABLE item_stats AS {_view('item_id', _ITEM)}")
            newest = ", ".join(
                f"arg_max({c}, {{'at': available_at, 'value': {c}}}) AS {c}" for c in ("category", "brand", "score")
            )
            duck.execute(
                "CREATE OR REPLACE TEMP TABLE item_profile AS "
                f"SELECT item_id, t AS request_time, {newest} FROM item JOIN (SELECT DISTINCT request_time AS t, "
                "date_trunc('day', request_time) AS day FROM request) ON available_at <= day GROUP BY ALL"
            )
            made = duck.sql(self._features).to_arrow_table()
            self.kept.append(made)
            duck.register("made", made)
            duck.execute(
                "CREATE TABLE snapshots AS SELECT * FROM made"
                if not self._snapshots
                else "INSERT INTO snapshots SELECT * FROM made"
            )
            self._snapshots += made.num_rows
        if self._snapshots and released:
            ripe = f"epoch_us(request_time) + {self._window_us} < {end}"
            within = f"BETWEEN request_time AND request_time + to_microseconds({self._window_us})"
            made_now = duck.execute(
                f"CREATE OR REPLACE TEMP TABLE samples AS SELECT s.*, c.request_id IS NOT NULL AS label "
                f"FROM (SELECT * FROM snapshots WHERE {ripe}) s "
                "SEMI JOIN exposure x ON x.request_id = s.request_id AND x.item_id = s.item_id "
                f"AND x.event_time {within} "
                "LEFT JOIN (SELECT DISTINCT ON (request_id, item_id) * FROM click ORDER BY event_time) c "
                f"ON c.request_id = s.request_id AND c.item_id = s.item_id AND c.event_time {within}"
            ).fetchall()
            self._samples += made_now[0][0]
            duck.execute(f"DELETE FROM snapshots WHERE {ripe}")

    @property
    def samples(self) -> int:
        """Samples made so far."""
        return self._samples


def _arrived(rows: pa.Table, before: int, end: int) -> pa.Table:
    at = rows.column("arrival_time").to_numpy().view(np.int64)
    first, last = np.searchsorted(at, [before, end])
    return rows.slice(int(first), int(last - first))


def plain(log: RecordedLog, project: Project, ends: Sequence[tuple[int, bool]]) -> tuple[float, Script]:
    """Processor seconds of the script over slices that end there, samples released after some, and the script."""
    script = Script(log, project.config.labels.window)
    began, before = time.process_time(), 0
    for end, released in ends:
        script.slice(log, before, end, released=released)
        before = end
    script.slice(log, before, 1 << 62, released=True)
    return time.process_time() - began, script


def unequal(made: pa.Table, served: pa.Table) -> int:
    """How many values of ``made`` differ from those that were ``served``; batch features are in no snapshot."""
    keys = [("request_id", "ascending"), ("item_id", "ascending")]
    made, served = made.sort_by(keys), served.sort_by(keys)
    if made.num_rows != served.num_rows:
        raise SystemExit(f"{made.num_rows} rows and {served.num_rows}")
    differing = 0
    for name in set(made.column_names) & set(served.column_names) - {"request_time"}:
        mine, theirs = made.column(name).cast(served.schema.field(name).type), served.column(name)
        equal = pc.fill_null(pc.equal(mine, theirs), False)
        both = pc.and_(pc.is_null(mine, nan_is_null=True), pc.is_null(theirs, nan_is_null=True))
        wrong = made.num_rows - pc.sum(pc.or_(equal, both)).as_py()
        differing += wrong
    return differing


@dataclass(frozen=True)
class Compared:
    """The script and the worker over one log.

    ``seconds`` and ``samples`` are by ``plain, sliced``, ``plain, in one go``, ``phased`` and ``backlog``.
    ``differing`` values are others than the worker served, slice by slice; ``late``, in one go.
    """

    rows: int
    slices: int
    seconds: dict[str, float]
    samples: dict[str, int]
    runs: dict[str, Run]
    differing: int
    late: int

    def times_plain(self, flow: str) -> float:
        """The script's processor time by the worker's."""
        return self.seconds["plain, sliced" if flow == "phased" else "plain, in one go"] / self.seconds[flow]


def compare(requests: int) -> Compared:
    """Run the script twice and the worker twice on one log."""
    log = simulate(SimulatorConfig(requests=requests))
    runs: dict[str, Run] = {}
    with tempfile.TemporaryDirectory(prefix="dovetail-plain-") as folder:
        keep = Path(folder) / "phased"
        keep.mkdir()
        project = _project(keep, log, {})
        replay = Replay(log, project.config, labels_every_us=LABELS_EVERY_US)
        slices = list(zip(replay.ends.tolist(), replay.labelled.tolist(), strict=True))
        in_slices, sliced = plain(log, project, slices)
        in_one_go, whole = plain(log, project, [])
        for flow in ("phased", "backlog"):
            where = Path(folder) / flow
            where.mkdir(exist_ok=True)
            runs[flow] = asyncio.run(run(flow, log, where, {}, sample=False))
        registry = Registry(resolved(project.config, project.config.storage.url("registry")), project.config.name)
        offline = OfflineStore(resolved(project.config, project.config.storage.url("offline_store")))
        served = read_dataset(registry, offline, "snapshots")
        registry.close()
    seconds = {"plain, sliced": in_slices, "plain, in one go": in_one_go}
    samples = {"plain, sliced": sliced.samples, "plain, in one go": whole.samples}
    differing, late = (unequal(pa.concat_tables(script.kept), served) for script in (sliced, whole))
    return Compared(
        served.num_rows,
        len(slices),
        seconds | {flow: done.seconds for flow, done in runs.items()},
        samples | {flow: done.samples for flow, done in runs.items()},
        runs,
        differing,
        late,
    )


def main(requests: int) -> None:
    """Print rows per second and ratios."""
    found = compare(requests)
    print(f"{found.rows:,} snapshot rows, {found.slices} slices; ", end="")
    print(f"values that differ: {found.differing}, in one go {found.late}")
    print("samples: " + ", ".join(f"{samples:,} ({name})" for name, samples in found.samples.items()))
    for name, took in found.seconds.items():
        print(f"{name:18} {took:7.2f} s of processor time, {found.rows / took:9,.0f} rows per second")
    print(f"phased: {found.times_plain('phased'):.2f} x plain in the same slices")
    if found.differing:
        raise SystemExit("the worker served other values than plain DuckDB computes")
    print(f"backlog: {found.times_plain('backlog'):.2f} x plain in one go")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1_000)
