"""A project on embedded stores: events go in by message, and are kept as state and in the archive."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from dovetail.app.jobs import batch_versions
from dovetail.app.scoring import NoModel
from dovetail.app.storage import Stores, open_stores
from dovetail.features import Project, load
from dovetail.features.plan.request import flatten_requests
from dovetail.features.serving.feature_agent import FeatureStage
from dovetail.features.serving.online_features import OnlineFeatures
from dovetail.joiners.label_agent import label_rows
from dovetail.joiners.snapshot_agent import Ranking, RequestTopic, SnapshotStage
from dovetail.joiners.snapshots.messages import Answers
from dovetail.platform.archive.writer import ArchiveStage, Dataset, Decoded
from dovetail.platform.rows import wire
from dovetail.platform.rows.intake import Intake
from dovetail.platform.stage import Outgoing, Poll
from dovetail.platform.testing import MemoryLog, run_stage

DAY, HOUR, SECOND = 86_400_000_000, 3_600_000_000, 1_000_000
START = 19_800 * DAY

TOML = """
name = "shop"
[streams.events]
key = "user_id"
partitions = 2
[tables.items]
path = "items.parquet"
[labels]
window = "1h"
[labels.streams.exposure]
[labels.streams.click]
"""
LABEL = "(request_id VARCHAR NOT NULL, item_id BIGINT NOT NULL, event_time TIMESTAMP NOT NULL);"
FILES = {
    "schemas": f"""
CREATE TABLE events (user_id VARCHAR NOT NULL, kind VARCHAR, price DECIMAL(9,2), event_time TIMESTAMP NOT NULL);
CREATE TABLE items (item_id BIGINT, category VARCHAR, available_at TIMESTAMP NOT NULL);
CREATE TABLE request (request_id VARCHAR NOT NULL, user_id VARCHAR, request_time TIMESTAMP NOT NULL,
                      candidates STRUCT(item_id BIGINT)[] NOT NULL);
CREATE TABLE exposure {LABEL}
CREATE TABLE click {LABEL}
""",
    "users": """
SELECT user_id, count(*) FILTER (WHERE kind = 'click') OVER day AS clicks, avg(price) OVER day AS price
FROM events
WINDOW day AS (PARTITION BY user_id ORDER BY event_time
               RANGE BETWEEN hop(event_time, INTERVAL 1 DAY, INTERVAL 1 HOUR) PRECEDING AND CURRENT ROW)
""",
    "profile": "SELECT item_id, max(category) AS category FROM items GROUP BY item_id",
    "ranking": """
SELECT request_id, item_id, hour(request_time) AS hour, users.clicks, users.price, profile.category
FROM request LEFT JOIN users USING (user_id) LEFT JOIN profile USING (item_id)
""",
}


class World:
    """A project folder, its stores, and a log in memory. ``online`` is the online store's URL, embedded without one."""

    def __init__(
        self,
        folder: Path,
        toml: str = TOML,
        files: Mapping[str, str] = FILES,
        *,
        online: str = "",
        name: str = "shop",
    ) -> None:
        self.folder = folder
        self._own = {"name": name, "storage": {"online_store": online}}
        (folder / "sql").mkdir(parents=True)
        (folder / "dovetail.toml").write_text(toml, encoding="utf-8")
        for name, text in files.items():
            self.write(name, text)
        items = [{"item_id": i, "category": f"c{i}", "available_at": 0} for i in range(3)]
        schema = pa.schema({"item_id": pa.int64(), "category": pa.string(), "available_at": pa.timestamp("us")})
        pq.write_table(pa.Table.from_pylist(items, schema=schema), folder / "items.parquet")
        self.project = self.load()
        self.stores: Stores = open_stores(self.project.config)
        streams = {name: declared.partitions for name, declared in self.project.config.streams.items()}
        topics = ("requests", "snapshots", "exposure", "click", "samples", "dead")
        self.log = MemoryLog({**streams, **dict.fromkeys(topics, 1)})

    def write(self, name: str, text: str) -> None:
        (self.folder / "sql" / f"{name}.sql").write_text(text, encoding="utf-8")

    def load(self, **overrides: Any) -> Project:
        self.project = load(self.folder, **self._own, **overrides)
        return self.project

    def send(self, rows: Sequence[dict[str, Any]], stream: str = "events") -> None:
        """One message per row, users to partitions by their last digit."""
        declared = self.project.streams[stream]
        partitions = self.project.config.streams[stream].partitions
        for row in rows:
            stamp = row[declared.event_time] // 1_000
            value = wire.encode_json(pa.Table.from_pylist([row], schema=declared.schema.arrow))[0]
            partition = int(row[declared.key][-1]) % partitions
            self.log.append([Outgoing(stream, value, partition=partition, timestamp_ms=stamp)])

    def ask(self, rows: Sequence[dict[str, Any]]) -> None:
        """Requests, one message."""
        table = pa.Table.from_pylist(list(rows), schema=self.project.request.arrow)
        self.log.append([Outgoing("requests", wire.encode(table), partition=0, timestamp_ms=0)])

    def feature_stage(self, *views: str, of: str = "events") -> FeatureStage:
        stream = self.project.streams[of]
        plans = [self.project.stream_views[view] for view in views]
        intake = Intake(stream.schema, stream.event_time, stream.max_ahead_us)
        return FeatureStage(stream, plans, intake, self.stores.online, dead_letter_topic="dead")

    def stream(self, *views: str, max_records: int = 7) -> None:
        """Run the feature agent of each stream to the end of the log."""
        for name in self.project.streams:
            asyncio.run(run_stage(self.feature_stage(*views, of=name), self.log, max_records=lambda: max_records))

    def answer(self) -> None:
        """Run the snapshot agent to the end of the log."""
        project, stores = self.project, self.stores
        versions = batch_versions(project, stores)
        server = OnlineFeatures(project.feature_set, project.stream_views, stores.online, versions)
        stage = SnapshotStage(
            RequestTopic("requests", Intake(project.request, "request_time", None), flatten_requests),
            Ranking(server, NoModel(), feature_set=project.feature_set.name),
            Answers("snapshots", "dead"),
            stores.registry,
        )
        asyncio.run(run_stage(stage, self.log))

    def live(self, hours: int, *, first: int = 0) -> None:
        """Events, a request with every third at the moment of the newest, answered from what had arrived; now
        and then an event that comes after a request it was before; then all archived."""
        for hour in range(first, hours, 3):
            self.send(events(3, first=hour))
            self.stream(*self.project.stream_views)
            newest = max(events(3, first=hour), key=lambda event: event["event_time"])
            user = "nobody" if hour % 5 == 0 else newest["user_id"]
            items = [{"item_id": i} for i in range(3)]
            asked = {"request_id": f"r{hour}", "user_id": user, "candidates": items}
            asked["request_time"] = newest["event_time"]
            self.ask([asked])
            self.answer()
            if hour % 4 == 0:
                self.send([{**newest, "kind": "click", "event_time": newest["event_time"] - 60 * SECOND}])
        self.archive()

    def archive(self, *names: str) -> None:
        """Run the archive agents to the end of the log, files of a few rows; by default of what ``live`` makes."""
        streams, schemas = self.project.streams, self.project.label_schemas
        intakes = {name: Intake(s.schema, s.event_time, s.max_ahead_us) for name, s in streams.items()}
        intakes["requests"] = Intake(self.project.request, "request_time", None)
        intakes |= {kind: Intake(schema, "event_time", None) for kind, schema in schemas.items()}
        time_of = {name: stream.event_time for name, stream in streams.items()} | dict.fromkeys(schemas, "event_time")

        def decode(name: str, poll: Poll) -> Decoded:
            received = intakes[name].read(poll)
            rows = label_rows(received, poll.partition) if name in schemas else received.table
            return Decoded(rows, received.dead_rows)

        def inside(poll: Poll) -> Decoded:
            return Decoded(wire.decode_arrow(poll))

        for name in names or (*streams, "requests", "snapshots"):
            outside, day_of = name in intakes, time_of.get(name, "request_time")
            how = partial(decode, name) if outside else inside
            dataset = Dataset(name, name, day_of, how, derived=not outside)
            stage = ArchiveStage(dataset, self.stores.registry, self.stores.offline, max_rows=20)
            asyncio.run(run_stage(stage, self.log, max_records=lambda: 5, drain=True))


def events(count: int, *, first: int = 0) -> list[dict[str, Any]]:
    """Events of five users over some days, somewhat out of order, a function of their numbers."""
    return [
        {
            "user_id": f"u{(n * 7) % 5}",
            "kind": ("click", "view", None)[n % 3],
            "price": n % 97,
            "event_time": START + n * HOUR - (n * 5 % 11) * HOUR // 4,
        }
        for n in range(first, first + count)
    ]


def requests(days: int) -> list[dict[str, Any]]:
    """Six requests a day, three candidates each; the last of a day has none."""
    return [
        {
            "request_id": f"r{day}-{n}",
            "user_id": None if n == 4 else f"u{n}",
            "request_time": START + day * DAY + (n + 1) * 3 * HOUR,
            "candidates": [] if n == 5 else [{"item_id": i} for i in range(3)],
        }
        for day in range(days)
        for n in range(6)
    ]
