"""One ranking request from Arrow in to scores out: 200 candidates, the shipped definitions, SQLite, this process.

    python benchmarks/request.py

A request goes the way it goes in the snapshot agent: flattened to candidates, states of user and items read from the
online store (SQLite), both streaming views evaluated at ``request_time``, the batch view looked up, the expressions of
``sql/ranking.sql`` run, all rows scored by a model of the configured inputs. The store holds what a week of events
left.

Beside it stands the plainest way to have features at a request: values computed beforehand, one JSON row per entity in
SQLite, looked up and put together by Python. It has no windows, no time, no expressions and no score. Every number is
from this one run; CPU time is the better measure where other work runs on the machine.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from dovetail.app.modelling import encoder_of
from dovetail.features import Project, load
from dovetail.features.plan.definitions import StreamView
from dovetail.features.plan.request import flatten_requests
from dovetail.features.serving.feature_agent import FeatureStage
from dovetail.features.serving.online_features import OnlineFeatures
from dovetail.features.serving.versions import BatchVersions
from dovetail.features.stream.vetting import vet_events
from dovetail.platform.rows.intake import Intake
from dovetail.platform.stage import Outgoing
from dovetail.platform.stores.offline import OfflineStore
from dovetail.platform.stores.online import OnlineStore
from dovetail.platform.stores.registry.store import Registry
from dovetail.platform.stores.sql.online import SqlOnlineStore
from dovetail.platform.testing import MemoryLog, run_stage
from dovetail.trainer.models.scorer import predict_with

SEED = 20240229
EVENTS, USERS, ITEMS = 200_000, 2_000, 2_000
CANDIDATES, REQUESTS = 200, 1_000
START_US, WEEK_US = 1_700_000_000_000_000, 7 * 86_400_000_000
ACTIONS = np.array(["impression", "browse", "click", "cart", "order"])


def week_of_events(events: int) -> list[bytes]:
    """A week of behaviour as JSON messages."""
    rng = np.random.default_rng(SEED)
    times = (START_US + np.sort(rng.integers(0, WEEK_US, events))).astype("datetime64[us]")
    users, items = (np.minimum(rng.zipf(1.3, events), n) - 1 for n in (USERS, ITEMS))
    actions = ACTIONS[rng.choice(len(ACTIONS), events, p=[0.5, 0.3, 0.15, 0.03, 0.02])]
    prices = rng.integers(100, 10**5, events)
    columns = (users.tolist(), items.tolist(), np.char.replace(times.astype(str), "T", " ").tolist(), actions.tolist())
    return [
        json.dumps(
            {"user_id": f"u{u}", "item_id": i, "event_time": at, "action": action, "price": f"{cents / 100:.2f}"}
        ).encode()
        for u, i, at, action, cents in zip(*columns, prices.tolist(), strict=True)
    ]


def feed(
    project: Project, views: Sequence[StreamView], store: OnlineStore, messages: Sequence[bytes], poll: int = 20_000
) -> float:
    """``messages`` through the feature stage of ``views``, so many a ``poll``; processor seconds from log to store."""
    stream = project.streams["behaviour"]
    intake = Intake(stream.schema, stream.event_time, None, vet_events(stream, views))
    log = MemoryLog({stream.topic: 1, "dead": 1})
    log.append([Outgoing(stream.topic, message, partition=0) for message in messages])
    stage = FeatureStage(stream, views, intake, store, dead_letter_topic="dead")
    began = time.process_time()
    asyncio.run(run_stage(stage, log, max_records=lambda: poll))
    return time.process_time() - began


def write_events(project: Project, store: SqlOnlineStore) -> None:
    """A week of behaviour through the feature stage, in one partition."""
    feed(project, list(project.stream_views.values()), store, week_of_events(EVENTS))


def item_table(_: Any) -> pa.Table:
    """What is known of the items offline."""
    rng = np.random.default_rng(SEED)
    return pa.table(
        {
            "item_id": np.arange(ITEMS),
            "available_at": pa.array(np.full(ITEMS, START_US)).cast(pa.timestamp("us")),
            "category": [f"c{i % 20}" for i in range(ITEMS)],
            "brand": [f"b{i % 100}" for i in range(ITEMS)],
            "score": rng.random(ITEMS),
        }
    )


def write_requests(project: Project) -> list[pa.Table]:
    """Requests of one user and CANDIDATES different items each, right after the events."""
    rng = np.random.default_rng(SEED + 1)
    tables = []
    for number in range(REQUESTS):
        items = rng.choice(ITEMS, CANDIDATES, replace=False).tolist()
        row = {
            "request_id": f"r{number}",
            "user_id": f"u{rng.integers(0, 200)}",
            "request_time": START_US + WEEK_US + number,
            "segment": "regular",
            "channel": "home",
            "candidates": [{"item_id": item, "position": i + 1, "affinity": 0.5} for i, item in enumerate(items)],
        }
        columns = [pa.array([row[field.name]], field.type) for field in project.request.arrow]
        tables.append(pa.table(columns, schema=project.request.arrow))
    return tables


def milliseconds(answer: Callable[[pa.Table], Any], requests: list[pa.Table]) -> npt.NDArray[np.float64]:
    """Time of each answer, on the clock and of the processor, ``[2, n]``; the first tenth only warms up."""
    taken = []
    for request in requests:
        begin, spent = time.perf_counter(), time.process_time()
        answer(request)
        taken.append((time.perf_counter() - begin, time.process_time() - spent))
    return np.array(taken[len(taken) // 10 :]).T * 1e3


def plain_answer(folder: Path, project: Project, online: OnlineFeatures, requests: list[pa.Table]) -> Any:
    """The plainest feature store: values computed before, one JSON row per entity in SQLite, a dict per candidate."""
    connection = sqlite3.connect(folder / "plain.sqlite")
    connection.execute("CREATE TABLE entity (key TEXT PRIMARY KEY, features TEXT) WITHOUT ROWID")
    flat = pa.concat_tables([flatten_requests(request) for request in requests[:20]])
    values = online.serve(flat).features.to_pylist()
    of_user = [name for name in project.feature_set.schema.names if name.startswith("user_")]
    for user, row in zip(flat.column("user_id").to_pylist(), values, strict=True):
        one, other = ({n: v for n, v in row.items() if (n in of_user) == mine} for mine in (True, False))
        rows = [(user, json.dumps(one, default=str)), (str(row["item_id"]), json.dumps(other, default=str))]
        connection.executemany("INSERT OR REPLACE INTO entity VALUES (?, ?)", rows)
    connection.commit()

    def answer(request: pa.Table) -> Any:
        user = request.column("user_id")[0].as_py()
        items = [str(candidate["item_id"]) for candidate in request.column("candidates")[0].as_py()]
        wanted = f"SELECT key, features FROM entity WHERE key IN ({', '.join('?' * (len(items) + 1))})"
        found = {key: json.loads(features) for key, features in connection.execute(wanted, [user, *items])}
        rows = [{**found.get(user, {}), **found.get(item, {})} for item in items]
        return {name: [row.get(name) for row in rows] for name in project.feature_set.schema.names}

    return answer


def main() -> None:
    """Print one line per way to answer."""
    project = load(Path(__file__).parent.parent)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        store = SqlOnlineStore(f"sqlite:///{folder / 'online.sqlite'}")
        write_events(project, store)
        registry = Registry(f"sqlite:///{folder / 'registry.sqlite'}")
        versions = BatchVersions(project.batch_views, registry, OfflineStore(str(folder / "offline")), item_table)
        online = OnlineFeatures(project.feature_set, project.stream_views, store, versions)
        assert project.config.model is not None, "the shipped project has a model"
        encoder = encoder_of(project.config.model)
        weights = np.random.default_rng(SEED).normal(0, 0.1, 1 << encoder.bits).astype(np.float32)
        requests = write_requests(project)

        def answer(request: pa.Table) -> Any:
            features = online.serve(flatten_requests(request)).features
            return predict_with(encoder, weights, encoder.new_moments(), features)

        columns = len(project.feature_set.columns)
        print(f"request: {CANDIDATES} candidates x {columns} columns, {len(project.stream_views)} streaming views")
        ways = {
            "features": lambda request: online.serve(flatten_requests(request)),
            "features-and-score": answer,
            "plain-lookup": plain_answer(folder, project, online, requests),
        }
        for what, way in ways.items():
            wall, cpu = (np.percentile(times, (50, 99)) for times in milliseconds(way, requests))
            on_cpu = f"p50 {cpu[0]:.2f}, p99 {cpu[1]:.2f}"
            print(f"  {what:<20} p50 {wall[0]:6.2f} ms  p99 {wall[1]:6.2f} ms   of CPU: {on_cpu}", flush=True)


if __name__ == "__main__":
    main()
