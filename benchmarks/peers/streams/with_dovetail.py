"""Dovetail's feature stage over a log in memory, its state on disk, and values asked of the store.

``hourly`` feeds an hour's events and asks for the values of its users, hour after hour; ``state`` feeds all events in
polls of 20,000 and asks for nothing.
"""

from __future__ import annotations

import asyncio
import itertools
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json as pj

from dovetail.features import Project, load
from dovetail.features.serving.feature_agent import FeatureStage
from dovetail.features.serving.online_features import OnlineFeatures
from dovetail.features.serving.versions import BatchVersions
from dovetail.features.stream.vetting import vet_events
from dovetail.platform.rows.intake import Intake
from dovetail.platform.stage import Outgoing
from dovetail.platform.stores.offline import OfflineStore
from dovetail.platform.stores.online import OnlineStore
from dovetail.platform.stores.online_stores import open_online_store
from dovetail.platform.stores.registry.store import Registry
from dovetail.platform.testing import MemoryLog, run_stage

from .data import COLUMNS, HOUR_US, HOURS, START_US

PACKAGES = ("duckdb", "numba", "pyarrow")


def begin(folder: Path, way: str) -> Callable[[], pa.Table]:
    """``hourly`` or ``state``."""
    project = load(folder)
    messages = (folder / "events.jsonl").read_bytes().splitlines()
    if way == "state":
        polls = [list(part) for part in _batched(messages, 20_000)]
        return lambda: _run(project, polls, asked=None)
    table = pj.read_json(folder / "events.jsonl")
    hours = (table.column("event_time").cast(pa.timestamp("us")).cast(pa.int64()).to_numpy() - START_US) // HOUR_US
    ends = np.searchsorted(hours, np.arange(1, HOURS + 1))
    bounds = list(itertools.pairwise([0, *ends.tolist()]))
    users = [pc.unique(table.column("user_id").slice(low, high - low)).sort() for low, high in bounds]
    return lambda: _run(project, [messages[low:high] for low, high in bounds], asked=users)


def _batched(messages: list[bytes], size: int) -> Iterator[list[bytes]]:
    for at in range(0, len(messages), size):
        yield messages[at : at + size]


@dataclass(frozen=True)
class Served:
    """A store and what is answered from it."""

    project: Project
    store: OnlineStore
    online: OnlineFeatures

    def values(self, users: pa.Array, hour: int) -> pa.Table:
        """The rows of these users for an hour, asked for at its end; of the columns of answers."""
        end = START_US + (hour + 1) * HOUR_US
        rows = pa.table(
            {
                "request_id": pa.array(np.arange(len(users))).cast(pa.string()),
                "item_id": np.zeros(len(users), np.int64),
                "user_id": users,
                "request_time": pa.array(np.full(len(users), end)).cast(pa.timestamp("us")),
            }
        )
        served = self.online.serve(rows)
        assert served.answerable.all(), "each hour is asked for before its state may leave"
        features = served.features
        columns = [users, np.full(len(users), hour), *(features.column(name) for name in COLUMNS[2:])]
        return pa.table(columns, names=list(COLUMNS))


@contextmanager
def opened(project: Project, folder: str) -> Iterator[Served]:
    """An empty store in SQLite."""
    store = open_online_store(f"sqlite:///{folder}/online.sqlite", "peers")
    registry = Registry(f"sqlite:///{folder}/registry.sqlite")
    try:
        versions = BatchVersions(project.batch_views, registry, OfflineStore(f"{folder}/offline"), _no_table)
        yield Served(project, store, OnlineFeatures(project.feature_set, project.stream_views, store, versions))
    finally:
        store.close()
        registry.close()


def _run(project: Project, polls: list[list[bytes]], asked: list[pa.Array] | None) -> pa.Table:
    stream, views = project.streams["events"], list(project.stream_views.values())
    found = []
    with tempfile.TemporaryDirectory(prefix="dovetail-peers-state-") as name, opened(project, name) as served:
        intake = Intake(stream.schema, stream.event_time, None, vet_events(stream, views))
        stage = FeatureStage(stream, views, intake, served.store, dead_letter_topic="dead")
        log = MemoryLog({stream.topic: 1, "dead": 1})
        for hour, poll in enumerate(polls):
            log.append([Outgoing(stream.topic, message, partition=0) for message in poll])
            asyncio.run(run_stage(stage, log))
            if asked is not None:
                found.append(served.values(asked[hour], hour))
    if not found:
        return pa.table({name: pa.array([]) for name in COLUMNS})
    return pa.concat_tables(found).sort_by([("user_id", "ascending"), ("hour", "ascending")])


def _no_table(view: object) -> pa.Table:
    raise AssertionError(f"there is no batch view {view}")
