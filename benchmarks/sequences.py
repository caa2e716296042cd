"""Long lists: three lists of 1,000 of a user's events at a ranking request with 200 candidates, and longer ones.

    python benchmarks/sequences.py [--long]

A request asks for what its user did last, by three lists as long as LENGTH, which all its candidates share. It is
served as the snapshot agent does it: states of the user from SQLite, lists evaluated, snapshot rows made and encoded as
a message. Beside it stands the same with every candidate a request of its own, a microsecond apart: what computing the
lists once per candidate takes. Then lists of structs of 1,000, 10,000 and 100,000: what one event costs, in bytes of
state written and in time, and what a request takes. Every number is from this one run; ratios are what counts.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dovetail.features import Project, load
from dovetail.features.plan.request import flatten_requests
from dovetail.features.serving.feature_agent import FeatureStage
from dovetail.features.serving.online_features import OnlineFeatures
from dovetail.features.serving.versions import BatchVersions
from dovetail.joiners.snapshots.composing import ServingModels, snapshot_rows
from dovetail.platform.rows import wire
from dovetail.platform.rows.accounts import Account
from dovetail.platform.rows.encodings.shared import spread
from dovetail.platform.rows.intake import Intake
from dovetail.platform.rows.positions import with_own_positions
from dovetail.platform.stage import Outgoing
from dovetail.platform.stores.offline import OfflineStore
from dovetail.platform.stores.online import ViewCommit
from dovetail.platform.stores.registry.store import Registry
from dovetail.platform.stores.sql.online import SqlOnlineStore
from dovetail.platform.testing import MemoryLog, run_stage

Percentiles = np.ndarray[Any, np.dtype[np.float64]]

SEED = 20240229
LENGTH, CANDIDATES, USERS, EVENTS, REQUESTS = 1_000, 200, 20, 2_000, 100
LENGTHS, SINGLE = (1_000, 10_000, 100_000), 300
START_US = 1_700_000_000_000_000

TOML = """
name = "sequences"
[streams.events]
key = "user_id"
allowed_lateness = "1h"
[request]
feature_set = "ranking"
[labels]
exposure = "exposure"
positive = "click"
window = "30m"
[labels.streams.exposure]
[labels.streams.click]
"""
TABLES = """
CREATE TABLE events (user_id BIGINT NOT NULL, item_id VARCHAR NOT NULL, action VARCHAR NOT NULL,
                     price DECIMAL(9,2) NOT NULL, event_time TIMESTAMP NOT NULL);
CREATE TABLE request (request_id VARCHAR NOT NULL, user_id BIGINT, request_time TIMESTAMP NOT NULL,
                      candidates STRUCT(item_id VARCHAR)[] NOT NULL);
CREATE TABLE exposure (request_id VARCHAR NOT NULL, item_id VARCHAR NOT NULL, event_time TIMESTAMP NOT NULL);
CREATE TABLE click (request_id VARCHAR NOT NULL, item_id VARCHAR NOT NULL, event_time TIMESTAMP NOT NULL);
"""
WINDOW = "WINDOW w AS (PARTITION BY user_id ORDER BY event_time RANGE BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW)"
LISTS = f"""
SELECT user_id, arg_max(item_id, event_time, {LENGTH}) OVER w AS items,
       arg_max(action, event_time, {LENGTH}) OVER w AS actions,
       arg_max(price, event_time, {LENGTH}) OVER w AS prices
FROM events {WINDOW}
"""
RANKING_LISTS = """
SELECT request_id, item_id, users.items, users.actions, users.prices FROM request LEFT JOIN users USING (user_id)
"""


def structs(length: int) -> str:
    """A view with one list of structs."""
    members = "{'item': item_id, 'action': action, 'price': price}"
    return f"SELECT user_id, arg_max({members}, event_time, {length}) OVER w AS history FROM events {WINDOW}"


RANKING_STRUCTS = "SELECT request_id, item_id, users.history FROM request LEFT JOIN users USING (user_id)"


class NoModel:
    """Scores nothing."""

    def refresh(self) -> None:
        """Nothing newer."""

    def score(self, table: pa.Table) -> tuple[int, np.ndarray[Any, np.dtype[np.float32]]]:
        """The same for all."""
        return 0, np.full(table.num_rows, 0.5, np.float32)


def project_of(folder: Path, view: str, ranking: str) -> Project:
    """A project with one view of users."""
    (folder / "sql").mkdir(parents=True)
    (folder / "dovetail.toml").write_text(TOML)
    for name, text in {"tables": TABLES, "users": view, "ranking": ranking}.items():
        (folder / "sql" / f"{name}.sql").write_text(text)
    return load(folder)


def events(users: int = USERS, rows: int = USERS * EVENTS, start: int = 0) -> pa.Table:
    """What users did, in order of time."""
    rng = np.random.default_rng(SEED + start)
    return pa.table(
        {
            "user_id": rng.integers(0, users, rows),
            "item_id": [f"item{i}" for i in rng.integers(0, 100_000, rows)],
            "action": np.array(["view", "click", "cart", "order"])[rng.integers(0, 4, rows)],
            "price": pa.array((rng.integers(100, 10**5, rows) / 100).astype(str)).cast(pa.decimal128(9, 2)),
            "event_time": pa.array(START_US + (start + np.arange(rows)) * 1_000_000).cast(pa.timestamp("us")),
        }
    )


class CountingStore(SqlOnlineStore):
    """An online store that counts the bytes of state that commits write."""

    written = 0

    def commit(self, partition: int, commits: Sequence[ViewCommit], accounts: Sequence[Account]) -> None:
        """As any store."""
        self.written += sum(len(state) for commit in commits for state in commit.changed.values())
        super().commit(partition, commits, accounts)


def fed(project: Project, store: SqlOnlineStore, log: MemoryLog, rows: pa.Table, at_once: int = 2_000) -> None:
    """Let a worker take the rows in, so many a message, a message a poll."""
    stream = project.streams["events"]
    cuts = range(0, rows.num_rows, at_once)
    log.append([Outgoing(stream.topic, wire.encode(rows.slice(cut, at_once)), partition=0) for cut in cuts])
    intake = Intake(stream.schema, stream.event_time, None)
    stage = FeatureStage(stream, list(project.stream_views.values()), intake, store, dead_letter_topic="dead")
    asyncio.run(run_stage(stage, log, max_records=lambda: 1))


def served_by(project: Project, folder: Path, store: SqlOnlineStore | None = None) -> OnlineFeatures:
    """The features of the project after the events; of those of a ``store``, if there is one."""
    if store is None:
        store = SqlOnlineStore(f"sqlite:///{folder / 'online.sqlite'}")
        fed(project, store, MemoryLog({project.streams["events"].topic: 1, "dead": 1}), events())
    registry = Registry(f"sqlite:///{folder / 'registry.sqlite'}")
    versions = BatchVersions({}, registry, OfflineStore(str(folder / "offline")), lambda _: pa.table({}))
    return OnlineFeatures(project.feature_set, project.stream_views, store, versions)


def request(
    project: Project, number: int, users: int, candidates: int, of: int = USERS, after: int = USERS * EVENTS
) -> pa.Table:
    """``users`` requests of one user ``of`` some with ``candidates`` items each, a microsecond apart, flattened."""
    at = START_US + after * 1_000_000 + number * 1_000
    rows = [
        {
            "request_id": f"r{number}.{n}",
            "user_id": number % of,
            "request_time": at + n,
            "candidates": [{"item_id": f"item{i}"} for i in range(candidates)],
        }
        for n in range(users)
    ]
    schema = project.request.arrow
    columns = [pa.array([row[field.name] for row in rows], field.type) for field in schema]
    table = pa.table(columns, schema=schema)
    offsets = np.full(users, number, dtype=np.int64)
    return flatten_requests(with_own_positions(table, 0, offsets, np.arange(users, dtype=np.int32)))


def timed(answer: Callable[[pa.Table], Any], requests: list[pa.Table]) -> Percentiles:
    """Milliseconds of an answer, ``[p50, p99][on the clock, of the processor]``; the first tenth only warms up."""
    taken = []
    for asked in requests:
        begin, spent = time.perf_counter(), time.process_time()
        answer(asked)
        taken.append((time.perf_counter() - begin, time.process_time() - spent))
    found: Percentiles = np.percentile(np.array(taken[len(taken) // 10 :]) * 1e3, (50, 99), axis=0)
    return found


def parquet_bytes(messages: Sequence[pa.Table | None], flat: bool, dictionaries: bool) -> int:
    """The size of snapshots in Parquet; ``flat``: with shared values in every row."""
    rows = pa.concat_tables([rows for rows in messages if rows is not None])
    sink = pa.BufferOutputStream()
    pq.write_table(spread(rows) if flat else rows, sink, compression="zstd", use_dictionary=dictionaries)
    return int(sink.getvalue().size)


def report(what: str, view: str, ranking: str) -> None:
    """Print how long requests of one definition take."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        project = project_of(folder / "project", view, ranking)
        online = served_by(project, folder)
        models = ServingModels(NoModel(), None)

        def message(asked: pa.Table) -> bytes:
            served = online.serve(asked)
            return wire.encode(snapshot_rows(asked, served, served.answerable, models, "ranking"))

        once = [request(project, n, 1, CANDIDATES) for n in range(REQUESTS)]
        each = [request(project, n, CANDIDATES, 1) for n in range(REQUESTS // 5)]
        print(f"{what}: {CANDIDATES} candidates, lists of {LENGTH}; a message of {len(message(once[0])):,} bytes")
        kept = [wire.rows_of(message(asked)) for asked in once[:20]]
        size, encoded, plain = (parquet_bytes(kept, *way) for way in ((False, True), (True, True), (True, False)))
        print(f"  archive of 20 requests: {size:,} bytes; with each value in every row {encoded:,}, plain {plain:,}")
        ways: dict[str, tuple[Callable[[pa.Table], Any], list[pa.Table]]] = {
            "features": (online.serve, once),
            "each candidate by itself": (online.serve, each),
            "features and message": (message, once),
        }
        for of, (answer, requests) in ways.items():
            (wall50, cpu50), (wall99, cpu99) = timed(answer, requests)
            on_cpu = f"of CPU: p50 {cpu50:.2f}, p99 {cpu99:.2f}"
            print(f"  {of:<25} p50 {wall50:7.2f} ms  p99 {wall99:7.2f} ms   {on_cpu}", flush=True)


def report_length(length: int) -> None:
    """Print what an event and a request cost where one user has a full list of structs."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        project = project_of(folder / "project", structs(length), RANKING_STRUCTS)
        store = CountingStore(f"sqlite:///{folder / 'online.sqlite'}")
        log = MemoryLog({project.streams["events"].topic: 1, "dead": 1})
        # Beyond the hour that is kept for late events, which a list of any length has.
        fed(project, store, log, events(1, length + 4_000))
        store.written, begin, spent = 0, time.perf_counter(), time.process_time()
        fed(project, store, log, events(1, SINGLE, length + 4_000), 1)
        wall, cpu = (time.perf_counter() - begin) / SINGLE * 1e3, (time.process_time() - spent) / SINGLE * 1e3
        each = store.written / SINGLE
        print(
            f"k = {length:,}: an event writes {each:,.0f} bytes of state, {cpu:.2f} ms of CPU, {wall:.2f} ms",
            flush=True,
        )
        online = served_by(project, folder, store)
        models = ServingModels(NoModel(), None)
        asked = [request(project, n, 1, CANDIDATES, 1, length + 5_000) for n in range(40)]

        def message(rows: pa.Table) -> bytes:
            served = online.serve(rows)
            return wire.encode(snapshot_rows(rows, served, served.answerable, models, "ranking"))

        size = len(message(asked[0]))
        (wall50, cpu50), (wall99, cpu99) = timed(message, asked)
        on_cpu = f"of CPU: p50 {cpu50:.2f}, p99 {cpu99:.2f}"
        print(
            f"  features and message of {size:,} bytes  p50 {wall50:.2f} ms  p99 {wall99:.2f} ms   {on_cpu}", flush=True
        )


def main() -> None:
    """Print one block per definition, and one per length."""
    if "--long" not in sys.argv:
        report("three lists", LISTS, RANKING_LISTS)
        report("a list of structs", structs(LENGTH), RANKING_STRUCTS)
    for length in LENGTHS:
        report_length(length)


if __name__ == "__main__":
    main()
