"""The label-first join against the feature-first one: the same samples, bytes of state, and speed with a store.

    python benchmarks/feature_first.py

Every number is from this one run. Id: state.
"""

from __future__ import annotations

import sqlite3
import sys
import tempfile
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from label_join import CANDIDATES, EXPOSED, FEATURES, POLICY, SECOND, SEED, WINDOW, feedback, label_rows, snapshots

from dovetail.joiners.label_agent import label_scope
from dovetail.joiners.matching import chance, keys_of, match_labels
from dovetail.joiners.policies import Candidates, policy_of
from dovetail.platform.rows.intake import time_us
from dovetail.platform.rows.positions import Progress
from dovetail.platform.stores.sql.labels import SqlLabelStore

SAMPLE = ["request_id", "item_id", *(f"f{k}" for k in range(FEATURES))]


def main() -> None:
    """Both joins over the same data, event by event time: their samples must be equal; bytes held and rows per second.

    Each keeps its state in SQLite. Label first: label rows; a snapshot is looked at once, when its window has passed.
    Feature first (as a keyed stream join with timers does it): each candidate is held with its features from the moment
    it is served, a label updates it, and a timer at the end of the window takes it out.
    """
    random = np.random.default_rng(SEED)
    requests = 500
    rows = snapshots(random, 0, requests, SECOND)  # all windows are open at once: the state is that of one window
    exposures, clicks = feedback(random, rows)
    with tempfile.TemporaryDirectory() as folder:
        few, labels = rows.slice(0, CANDIDATES), exposures.slice(0, EXPOSED)
        label_first(few, {"exposure": labels}, Path(folder) / "compiled.sqlite")  # compiles the kernels
        mine = label_first(rows, {"exposure": exposures, "click": clicks}, Path(folder) / "labels.sqlite")
        theirs = feature_first(rows, {"exposure": exposures, "click": clicks}, Path(folder) / "held.sqlite")
    order = [("request_id", "ascending"), ("item_id", "ascending")]
    same = mine.samples.sort_by(order).equals(theirs.samples.sort_by(order))
    print(f"state: one window of {requests} requests, {CANDIDATES} candidates of {FEATURES} doubles, {EXPOSED} exposed")
    for name, join in (("label first", mine), ("feature first", theirs)):
        print(
            f"  {name:13s} {join.held_bytes / 1e6:8.2f} MB in SQLite at its fullest, "
            f"{join.samples.num_rows:,} samples, {rows.num_rows / join.seconds / 1e3:7.1f} k rows/s, store included"
        )
    print(f"  the same samples: {same}; state {theirs.held_bytes / mine.held_bytes:.1f} : 1")
    if not same:
        sys.exit(1)


class Joined(NamedTuple):
    """What a join made, what it held at its fullest, and how long it took."""

    samples: pa.Table
    held_bytes: int
    seconds: float


def _size(file: Path) -> int:
    return sum(part.stat().st_size for part in file.parent.glob(file.name + "*"))


def label_first(rows: pa.Table, logs: Mapping[str, pa.Table], file: Path) -> Joined:
    """The join as the agents do it: labels into the store, then every snapshot row once."""
    started = time.perf_counter()
    store = SqlLabelStore(f"sqlite:///{file}")
    for kind, log in logs.items():
        store.insert(label_scope(kind), 0, expected=0, progress=Progress(1), rows=label_rows(kind, log), topic=kind)
    policy, parts = policy_of(POLICY), []
    for start in range(0, len(rows), 20_000):
        part = rows.slice(start, 20_000)
        keys = keys_of(part)
        matched = match_labels(keys, store.lookup(pc.unique(part.column("request_id")).to_pylist()))
        effective, event = ({k: t[i] for k, t in matched.items()} for i in (0, 1))
        given = Candidates(
            time_us(part, "request_time"), effective, event, part.column("score").to_numpy(), partial(chance, keys)
        )
        decision = policy.decide(0, given)
        chosen = part.select(SAMPLE).take(pa.array(decision.rows))
        parts.append(chosen.append_column("label", pa.array(decision.label, pa.int8())))
    samples = pa.concat_tables(parts).combine_chunks()
    seconds = time.perf_counter() - started
    store.close()
    return Joined(samples, _size(file), seconds)


def feature_first(rows: pa.Table, logs: Mapping[str, pa.Table], file: Path) -> Joined:
    """The join the other way round, batched as well as SQLite allows: hold, update by label, take out by timer."""
    packed = np.stack([rows.column(f"f{k}").to_numpy() for k in range(FEATURES)], axis=1)
    due = (time_us(rows, "request_time") + WINDOW).tolist()
    keys = list(zip(rows.column("request_id").to_pylist(), rows.column("item_id").to_pylist(), strict=True))
    started = time.perf_counter()
    connection = sqlite3.connect(file)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=NORMAL")
    connection.execute(
        "CREATE TABLE held (request_id TEXT, item_id INTEGER, due_us INTEGER, features BLOB, exposure INTEGER, "
        "click INTEGER, PRIMARY KEY (request_id, item_id)) WITHOUT ROWID"
    )
    connection.execute("CREATE INDEX timers ON held (due_us)")
    connection.executemany(
        "INSERT INTO held VALUES (?, ?, ?, ?, NULL, NULL)",
        ((r, i, t, packed[n].tobytes()) for n, ((r, i), t) in enumerate(zip(keys, due, strict=True))),
    )
    connection.commit()
    for kind, log in logs.items():
        labels = zip(
            time_us(log, "event_time").tolist(), log["request_id"].to_pylist(), log["item_id"].to_pylist(), strict=True
        )
        connection.executemany(
            f"UPDATE held SET {kind} = ?1 WHERE request_id = ?2 AND item_id = ?3 AND ?1 <= due_us", labels
        )
    connection.commit()
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    held_bytes = _size(file)
    out = connection.execute("SELECT * FROM held WHERE due_us < ? AND exposure IS NOT NULL", (1 << 62,)).fetchall()
    connection.execute("DELETE FROM held WHERE due_us < ?", (1 << 62,))
    connection.commit()
    request, item, _, features, _, click = zip(*out, strict=True)
    values = np.frombuffer(b"".join(features), dtype=np.float64).reshape(-1, FEATURES)
    columns = {"request_id": pa.array(request), "item_id": pa.array(item, pa.int64())}
    columns |= {f"f{k}": pa.array(values[:, k]) for k in range(FEATURES)}
    columns["label"] = pa.array([value is not None for value in click]).cast(pa.int8())
    seconds = time.perf_counter() - started
    connection.close()
    return Joined(pa.table(columns), held_bytes, seconds)


if __name__ == "__main__":
    main()
