"""A project of two levels: items by their visitors, visitors by their items; what a visitor's view means, by hand."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from dovetail.app.datasets import datasets, stream_intake
from dovetail.features import Project, load
from dovetail.features.at_events.kept_views import KeptViews
from dovetail.features.plan.definitions import StreamView
from dovetail.features.plan.request import flatten_requests
from dovetail.features.serving.feature_agent import FeatureStage
from dovetail.features.serving.online_features import OnlineFeatures
from dovetail.features.serving.rekeying import RekeyStage
from dovetail.features.serving.versions import BatchVersions
from dovetail.features.stored.fingerprints import mark_of
from dovetail.platform.archive.writer import ArchiveStage, read_dataset
from dovetail.platform.rows import wire
from dovetail.platform.stage import Outgoing
from dovetail.platform.stores.offline import OfflineStore
from dovetail.platform.stores.registry.store import Registry
from dovetail.platform.stores.sql.online import SqlOnlineStore
from dovetail.platform.testing import MemoryLog, run_stage

__all__ = ["MADE", "SQL", "TOML", "VISITOR", "World", "by_hand", "minute", "place_of", "some_messages"]

LATENESS = 10
TOML = """
[streams.visits]
key = "user_id"
partitions = 2
allowed_lateness = "10m"
[rekeyed.by_item]
stream = "visits"
key = "item_id"
partitions = 3
enrich = ["visitor"]
[rekeyed.by_visitor]
stream = "by_item"
key = "user_id"
partitions = 2
enrich = ["popularity"]
[labels]
window = "30m"
[labels.streams.exposure]
[labels.streams.click]
"""
SQL = {
    "schemas.sql": """
        CREATE TABLE visits (user_id BIGINT, item_id BIGINT, event_time TIMESTAMP NOT NULL, price DECIMAL(9,2),
                             action VARCHAR);
        CREATE TABLE request (request_id VARCHAR NOT NULL, user_id BIGINT, request_time TIMESTAMP NOT NULL,
                              candidates STRUCT(item_id BIGINT)[] NOT NULL);
        CREATE TABLE exposure (request_id VARCHAR NOT NULL, item_id BIGINT NOT NULL, event_time TIMESTAMP NOT NULL);
        CREATE TABLE click (request_id VARCHAR NOT NULL, item_id BIGINT NOT NULL, event_time TIMESTAMP NOT NULL);
    """,
    "visitor.sql": """
        SELECT user_id, count(*) OVER w AS clicks, CAST(sum(price) OVER w AS DECIMAL(4,2)) AS spent,
               last(action) OVER few AS latest, count(DISTINCT item_id) OVER w AS items, max(price) OVER h AS most
        FROM visits WHERE action IS DISTINCT FROM 'leave'
        WINDOW w AS (PARTITION BY user_id ORDER BY event_time
                     RANGE BETWEEN INTERVAL 30 MINUTE PRECEDING AND CURRENT ROW),
               h AS (PARTITION BY user_id ORDER BY event_time
                     RANGE BETWEEN hop(event_time, INTERVAL 30 MINUTE, INTERVAL 4 MINUTE) PRECEDING AND CURRENT ROW),
               few AS (PARTITION BY user_id ORDER BY event_time ROWS BETWEEN 3 PRECEDING AND CURRENT ROW)
    """,
    "popularity.sql": """
        SELECT item_id, avg(clicks) OVER w AS activity, count(*) OVER w AS visits FROM by_item
        WINDOW w AS (PARTITION BY item_id ORDER BY event_time RANGE BETWEEN INTERVAL 1 HOUR PRECEDING AND CURRENT ROW)
    """,
    "taste.sql": """
        SELECT user_id, max(visits) OVER w AS most, sum(visits) OVER w AS total, last(activity) OVER w AS latest
        FROM by_visitor
        WINDOW w AS (PARTITION BY user_id ORDER BY event_time RANGE BETWEEN INTERVAL 2 HOUR PRECEDING AND CURRENT ROW)
    """,
    "ranking.sql": """
        SELECT request_id, item_id, popularity.activity, popularity.visits, taste.most, taste.total, taste.latest
        FROM request LEFT JOIN popularity USING (item_id) LEFT JOIN taste USING (user_id)
    """,
}
MIDNIGHT = dt.datetime.fromisoformat("2024-01-01")
MONDAY = dt.datetime.fromisoformat("2000-01-03")
MADE = ("by_item", "by_visitor")
VISITOR = ("clicks", "spent", "latest", "items", "most")
_SENT_MS = 1_704_067_200_000 + 86_400_000


def minute(number: float) -> dt.datetime:
    return MIDNIGHT + dt.timedelta(minutes=number)


class World:
    """A project, its stores and topics."""

    def __init__(self, folder: Path, toml: str = TOML, sql: Mapping[str, str] = SQL) -> None:
        (folder / "sql").mkdir(exist_ok=True)
        (folder / "dovetail.toml").write_text(toml)
        for name, text in sql.items():
            (folder / "sql" / name).write_text(text)
        self.project: Project = load(folder)
        self.registry = Registry(f"sqlite:///{folder / 'registry.sqlite'}")
        self.online = SqlOnlineStore(f"sqlite:///{folder / 'online.sqlite'}")
        self.offline = OfflineStore(str(folder / "offline"))
        self.log = MemoryLog({"visits": 2, "by_item": 3, "by_visitor": 2, "dead": 1})

    def close(self) -> None:
        self.online.close()
        self.registry.close()

    def send(self, messages: list[list[dict[str, Any]]]) -> None:
        """Messages of rows, each of one user."""
        schema = self.project.streams["visits"].schema.arrow
        for rows in messages:
            table = pa.Table.from_pylist(rows, schema=schema)
            partition = (rows[0]["user_id"] or 0) % 2
            self.log.append([Outgoing("visits", wire.encode(table), partition=partition, timestamp_ms=_SENT_MS)])

    def stage(self, name: str) -> RekeyStage:
        stream, declared = self.project.streams[name], self.project.config.rekeyed[name]
        marks = {view.name: mark_of(view) for view in stream.enriched if isinstance(view, StreamView)}
        return RekeyStage(
            stream, declared.stream, stream_intake(self.project, declared.stream), self.registry,
            partitions=declared.partitions, dead_letter_topic="dead", kept=KeptViews(stream, self.online, marks),
            again=declared.stream in MADE,
        )  # fmt: skip

    def rekey(self, rng: np.random.Generator, crashes: int = 0) -> None:
        """Re-key to the end of the topics, in polls of random length; workers die so often on the way."""
        for name in MADE:
            for left in range(crashes, -1, -1):
                dies_at, steps = int(rng.integers(1, 14)), 0

                def on_step(_stage: str, _step: str) -> None:
                    nonlocal steps
                    steps += 1
                    if left and steps == dies_at:  # noqa: B023 - called within this turn of the loop
                        raise InterruptedError

                sizes = lambda: int(rng.integers(1, 40))  # noqa: E731
                try:
                    asyncio.run(run_stage(self.stage(name), self.log, max_records=sizes, on_step=on_step, drain=True))
                except InterruptedError:
                    continue

    def keep(self) -> None:
        """Archive every stream, and keep the views."""
        for kept in datasets(self.project):
            if kept.name in ("visits", *MADE):
                asyncio.run(run_stage(ArchiveStage(kept, self.registry, self.offline), self.log, drain=True))
        for name, stream in self.project.streams.items():
            views = [view for view in self.project.stream_views.values() if name in view.stream_names]
            stage = FeatureStage(
                stream, views, stream_intake(self.project, name), self.online, dead_letter_topic="dead"
            )
            asyncio.run(run_stage(stage, self.log, drain=True))

    def archived(self, name: str) -> pa.Table:
        rows = read_dataset(self.registry, self.offline, name)
        return rows.sort_by([(column, "ascending") for column in ("_partition", "_offset", "_row")])

    def requests(self, at: float) -> pa.Table:
        rows = [
            {
                "request_id": f"r{user}",
                "user_id": user,
                "request_time": minute(at),
                "candidates": [{"item_id": item} for item in range(5)],
            }
            for user in (1, 2, 3, None)
        ]
        return flatten_requests(pa.Table.from_pylist(rows, schema=self.project.request.arrow))

    def served(self, flat: pa.Table) -> pa.Table:
        versions = BatchVersions({}, self.registry, self.offline, None)
        found = OnlineFeatures(self.project.feature_set, self.project.stream_views, self.online, versions).serve(flat)
        assert found.answerable.all()
        return found.features


def some_messages(rng: np.random.Generator, count: int, step: float) -> list[list[dict[str, Any]]]:
    """Messages of one to three rows of a user, a third of them late, some by more than anybody waits for."""
    made = []
    for number in range(count):
        user = None if rng.random() < 0.03 else int(rng.integers(1, 4))
        rows = []
        for _ in range(int(rng.choice([1, 1, 1, 2, 3]))):
            late = rng.choice([0, int(rng.integers(0, LATENESS)), int(rng.integers(0, 60))], p=(0.65, 0.25, 0.1))
            cents = int(rng.integers(0, 9_999))
            rows.append(
                {
                    "user_id": user,
                    "item_id": None if rng.random() < 0.05 else int(rng.integers(0, 5)),
                    "event_time": minute(max(0, round(number * step) - int(late))),
                    "price": None if cents < 900 else Decimal(cents).scaleb(-2),
                    "action": ["view", "click", "leave", None][int(rng.integers(0, 4))],
                }
            )
        made.append(rows)
    return made


def by_hand(visits: pa.Table) -> dict[tuple[int, int, int], tuple[Any, ...]]:
    """What ``visitor`` means at each row, looked up one by one."""
    rows = visits.to_pylist()
    found: dict[tuple[int, int, int], tuple[Any, ...]] = {}
    for row in rows:
        place = (row["_partition"], row["_offset"], row["_row"])
        mine = [r for r in rows if r["_partition"] == place[0] and (r["_offset"], r["_row"]) <= place[1:]]
        now = row["event_time"]
        if now < max(r["event_time"] for r in mine) - dt.timedelta(minutes=LATENESS):
            found[place] = (None,) * 5
            continue
        of_user = [r for r in mine if r["user_id"] == row["user_id"] and r["user_id"] is not None]
        counted = [r for r in of_user if r["action"] != "leave" and r["event_time"] <= now]
        counted.sort(key=lambda r: (r["event_time"], r["_offset"], r["_row"]))
        window = [r for r in counted if r["event_time"] >= now - dt.timedelta(minutes=30)]
        prices = [r["price"] for r in window if r["price"] is not None]
        spent = sum(prices, Decimal(0)) if prices else None
        if spent is not None and spent >= 100:
            spent = None  # no DECIMAL(4,2)
        begin = now - dt.timedelta(minutes=30)
        since = (begin - MONDAY) // dt.timedelta(minutes=4)
        hopped = [r["price"] for r in counted if r["event_time"] >= MONDAY + since * dt.timedelta(minutes=4)]
        found[place] = (
            len(window),
            spent,
            counted[-1]["action"] if counted else None,
            len({r["item_id"] for r in window if r["item_id"] is not None}),
            max((price for price in hopped if price is not None), default=None),
        )
    return found


def place_of(row: Mapping[str, Any]) -> tuple[int, int, int]:
    """The place of the row that a re-keyed row was made from."""
    return row["_source_partition"], row["_source_offset"], row["_source_row"]
