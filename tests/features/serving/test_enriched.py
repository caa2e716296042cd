"""Streams enriched from a batch view: each row has the values as of its event, for every reader and in both engines."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from dovetail.app.datasets import datasets, stream_intake
from dovetail.features import Project, load
from dovetail.features.plan.request import flatten_requests
from dovetail.features.serving.feature_agent import FeatureStage
from dovetail.features.serving.online_features import OnlineFeatures
from dovetail.features.serving.rekeying import RekeyStage
from dovetail.features.serving.versions import BatchVersions
from dovetail.features.stored.registration import changes, register
from dovetail.platform.archive.writer import ArchiveStage, read_dataset
from dovetail.platform.errors import ConfigError, DefinitionError
from dovetail.platform.stage import Outgoing
from dovetail.platform.stores.offline import OfflineStore
from dovetail.platform.stores.registry.store import Registry
from dovetail.platform.stores.sql.online import SqlOnlineStore
from dovetail.platform.testing import MemoryLog, run_stage

TOML = """
[streams.event]
key = "user"
partitions = 2
allowed_lateness = "3h"
[tables.items]
path = "items.parquet"
available_at = "known_at"
[batch_views.item]
every = "1h"
[rekeyed.event_by_category]
stream = "event"
key = "category"
partitions = 3
enrich = ["item"]
[labels]
window = "30m"
[labels.streams.exposure]
[labels.streams.click]
"""
W = "(PARTITION BY category ORDER BY event_time RANGE BETWEEN INTERVAL 2 HOUR PRECEDING AND CURRENT ROW)"
U = W.replace("category", "user")
SQL = {
    "schemas.sql": """
        CREATE TABLE event (user VARCHAR, item_id BIGINT, event_time TIMESTAMP NOT NULL, n SMALLINT);
        CREATE TABLE items (item_id BIGINT, category VARCHAR, price DECIMAL(9,2), known_at TIMESTAMP NOT NULL);
        CREATE TABLE request (request_id VARCHAR NOT NULL, user VARCHAR, category VARCHAR,
            request_time TIMESTAMP NOT NULL, candidates STRUCT(item_id BIGINT)[] NOT NULL);
        CREATE TABLE exposure (request_id VARCHAR NOT NULL, item_id BIGINT NOT NULL, event_time TIMESTAMP NOT NULL);
        CREATE TABLE click (request_id VARCHAR NOT NULL, item_id BIGINT NOT NULL, event_time TIMESTAMP NOT NULL);
    """,
    "item.sql": "SELECT item_id, arg_max(category, {'at': known_at, 'category': category}) AS category, "
    "arg_max(price, {'at': known_at, 'price': price}) AS price FROM items GROUP BY item_id",
    "by_category.sql": f"SELECT category, count(*) OVER w AS events, sum(price * n) OVER w AS turnover, "
    f"histogram(item_id) OVER w AS items FROM event_by_category WINDOW w AS {W}",
    "by_user.sql": f"SELECT user, histogram(category) OVER w AS categories, avg(price) OVER w AS mean, "
    f"last(category) OVER w AS latest FROM event_by_category WINDOW w AS {U}",
    "ranking.sql": "SELECT request_id, item_id, by_category.events, by_category.turnover, by_category.items, "
    "by_user.categories, by_user.mean, by_user.latest FROM request LEFT JOIN by_category USING (category) "
    "LEFT JOIN by_user USING (user)",
}
MIDNIGHT = dt.datetime.fromisoformat("2024-01-01")


def minute(number: float) -> dt.datetime:
    return MIDNIGHT + dt.timedelta(minutes=number)


class Shop:
    """A project, its stores and topics, and the items' table, which may change."""

    def __init__(self, folder: Path, toml: str = TOML, sql: dict[str, str] | None = None) -> None:
        (folder / "sql").mkdir(exist_ok=True)
        (folder / "dovetail.toml").write_text(toml)
        for name, text in (sql or SQL).items():
            (folder / "sql" / name).write_text(text)
        self.project: Project = load(folder)
        self.registry = Registry(f"sqlite:///{folder / 'registry.sqlite'}")
        self.online = SqlOnlineStore(f"sqlite:///{folder / 'online.sqlite'}")
        self.offline = OfflineStore(str(folder / "offline"))
        self.log = MemoryLog({"event": 2, "event_by_category": 3, "dead": 1})
        self.items: list[dict[str, Any]] = []

    @property
    def table(self) -> pa.Table:
        return pa.Table.from_pylist(self.items, schema=self.project.tables["items"].schema.arrow)

    def know(self, item: int, category: str | None, at: float) -> None:
        self.items.append({"item_id": item, "category": category, "price": None, "known_at": minute(at)})

    def send(self, rows: list[dict[str, Any]]) -> None:
        for row in rows:
            said = json.dumps({**row, "event_time": row["event_time"].isoformat() + "Z"}).encode()
            stamp = 1_704_067_200_000 + 86_400_000
            self.log.append([Outgoing("event", said, partition=len(row["user"]) % 2, timestamp_ms=stamp)])

    def versions(self) -> BatchVersions:
        return BatchVersions(self.project.batch_views, self.registry, self.offline, lambda _: self.table)

    def run(self, rng: np.random.Generator, crashes: int = 0) -> None:
        """Re-key, archive and keep state, to the end of the topics; the first dies so many times and is made anew."""
        project, stream = self.project, self.project.streams["event_by_category"]
        (kept,) = (dataset for dataset in datasets(project) if dataset.name == stream.name)
        for left in range(crashes, -1, -1):
            dies_at, steps = int(rng.integers(1, 12)), 0

            def on_step(_stage: str, _step: str) -> None:
                nonlocal steps
                steps += 1
                if left and steps == dies_at:  # noqa: B023 - called within this turn of the loop
                    raise InterruptedError

            rekey = RekeyStage(
                stream, "event", stream_intake(project, "event"), self.registry, partitions=3,
                dead_letter_topic="dead", versions=self.versions(),
            )  # fmt: skip
            try:
                asyncio.run(run_stage(rekey, self.log, max_records=lambda: 7, on_step=on_step, drain=True))
            except InterruptedError:
                continue
        asyncio.run(run_stage(ArchiveStage(kept, self.registry, self.offline), self.log, drain=True))
        intake = stream_intake(project, stream.name)
        views = list(project.stream_views.values())
        features = FeatureStage(stream, views, intake, self.online, dead_letter_topic="dead")
        asyncio.run(run_stage(features, self.log, drain=True))

    @property
    def archived(self) -> pa.Table:
        rows = read_dataset(self.registry, self.offline, "event_by_category")
        return rows.sort_by([(name, "ascending") for name in ("_partition", "_offset", "_row")])

    def requests(self, *asked: tuple[str, str, float]) -> pa.Table:
        rows = [
            {
                "request_id": f"r{i}",
                "user": u,
                "category": c,
                "request_time": minute(at),
                "candidates": [{"item_id": 1}],
            }
            for i, (u, c, at) in enumerate(asked)
        ]
        return flatten_requests(pa.Table.from_pylist(rows, schema=self.project.request.arrow))

    def served(self, flat: pa.Table) -> pa.Table:
        features = OnlineFeatures(self.project.feature_set, self.project.stream_views, self.online, self.versions())
        found = features.serve(flat)
        assert found.answerable.all()
        return found.features


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(tmp_path)


@pytest.mark.parametrize("seed", range(4))
def test_what_is_served_is_what_both_engines_make_of_events_and_table(shop: Shop, seed: int) -> None:
    """Items move between categories; events come late, of items nobody knows and without an item."""
    rng = np.random.default_rng(seed)
    for _ in range(60):
        item, category = int(rng.integers(8)), [None, "a", "b", "c"][int(rng.integers(4))]
        cents = int(rng.integers(900))
        price = None if cents < 100 else Decimal(cents).scaleb(-2)
        known = {"item_id": item, "category": category, "price": price}
        shop.items.append({**known, "known_at": minute(int(rng.integers(-60, 400)))})
    events = [
        {
            "user": "u" * int(rng.integers(1, 5)),
            "item_id": None if rng.random() < 0.05 else int(rng.integers(10)),
            "event_time": minute(max(0, i * 3 - int(rng.integers(0, 100)))),
            "n": int(rng.integers(1, 5)),
        }
        for i in range(100)
    ]
    shop.send(events)
    shop.run(rng, crashes=3)
    archived = shop.archived
    assert archived.num_rows == 100
    flat = shop.requests(*(("u" * (1 + i % 4), "abc"[i % 3], 300 + i) for i in range(12)))
    served = shop.served(flat)
    assert any(served.column("turnover").to_pylist())
    assert shop.project.evaluate(None, flat, {"event_by_category": archived}).equals(served)
    # Of events and table alone, rows of one time in the order of the re-keyed topic.
    raw = archived.drop_columns(["category", "price"])
    for engine in ("batch", "stream"):
        made = shop.project.evaluate(None, flat, {"event": raw}, tables={"items": shop.table}, engine=engine)
        assert made.equals(served), engine


def test_a_row_has_what_was_known_at_its_event_and_nothing_later(shop: Shop) -> None:
    shop.know(1, "before", at=-1)
    shop.know(1, "after", at=61)  # in the version of minute 120
    rows = [{"user": "u", "item_id": 1, "event_time": minute(at), "n": 1} for at in (0, 61, 119, 120, 30)]
    shop.send(rows)
    shop.run(np.random.default_rng(0))
    found = {row["event_time"]: row["category"] for row in shop.archived.to_pylist()}
    assert [found[minute(at)] for at in (0, 30, 61, 119, 120)] == ["before"] * 4 + ["after"]


def test_a_row_that_the_table_gets_later_changes_nothing_that_was_taken_up(shop: Shop) -> None:
    shop.know(1, "first", at=-1)
    shop.send([{"user": "u", "item_id": 1, "event_time": minute(10), "n": 1}])
    rng = np.random.default_rng(0)
    shop.run(rng)
    shop.know(1, "corrected", at=0)  # said to have been known, and was not there when the version was made
    shop.send([{"user": "u", "item_id": 1, "event_time": minute(20), "n": 1}])
    shop.run(rng)
    assert shop.archived.column("category").to_pylist() == ["first", "first"]
    shop.send([{"user": "u", "item_id": 1, "event_time": minute(70), "n": 1}])
    shop.run(rng)
    assert sorted(shop.archived.column("category").to_pylist()) == ["corrected", "first", "first"]
    flat = shop.requests(("u", "first", 75))
    assert shop.project.evaluate(None, flat, {"event_by_category": shop.archived}).equals(shop.served(flat))


def test_other_views_to_enrich_from_are_another_stream(shop: Shop) -> None:
    register(shop.project, shop.registry, shop.online)
    shop.know(1, "a", at=-1)
    shop.send([{"user": "u", "item_id": 1, "event_time": minute(10), "n": 1}])
    shop.run(np.random.default_rng(0))
    root = shop.project.config.root
    other = {**SQL, "more.sql": "SELECT item_id, count(*) AS known FROM items GROUP BY item_id"}
    Shop(root, TOML.replace('["item"]', '["item", "more"]'), other)
    found = {change.name: change for change in changes(load(root), shop.registry, shop.online)}
    assert found["rekeyed.event_by_category"].refused


@pytest.mark.parametrize(
    ("toml", "sql", "error", "message"),
    [
        (
            ('["item"]', '["items"]'),
            None,
            DefinitionError,
            "enrich names items, which is no batch view or streaming view; did you mean item",
        ),
        (('key = "category"', 'key = "kind"'), None, DefinitionError, "the key of re-keyed stream event_by_category"),
        (("enrich", "enriched"), None, ConfigError, "did you mean 'enrich'"),
        (('["item"]', '"item"'), None, ConfigError, r"enrich: 'item' is no list; write \[\"item\"\]"),
        (('["item"]', '["item", "item"]'), None, ConfigError, "enrich: item stands twice, .*; remove one"),
        (('["item"]', "[3]"), None, ConfigError, "enrich.0: 3 is no text; write it in quotes"),
        (
            None,
            ("item_id BIGINT, category", "item_id INTEGER, category"),
            DefinitionError,
            "item_id is int64 in stream event and int32 in batch view item",
        ),
        (
            None,
            ("AS price FROM", "AS N FROM"),
            DefinitionError,
            "two columns named n: of the stream and of the views",
        ),
        (
            None,
            ("AS price FROM", "AS price, sum(price) AS total FROM"),
            DefinitionError,
            "total of view item is decimal128",
        ),
        (
            None,
            ("item_id BIGINT, event_time", "thing BIGINT, event_time"),
            DefinitionError,
            "batch view item, which enriches",
        ),
    ],
)
def test_what_cannot_be_enriched_is_refused(
    tmp_path: Path,
    toml: tuple[str, str] | None,
    sql: tuple[str, str] | None,
    error: type[Exception],
    message: str,
) -> None:
    text = TOML if toml is None else TOML.replace(*toml)
    files = SQL if sql is None else {name: body.replace(*sql) for name, body in SQL.items()}
    with pytest.raises(error, match=message):
        Shop(tmp_path, text, files)


def test_a_join_says_what_to_declare(tmp_path: Path) -> None:
    joined = SQL["by_category.sql"].replace("FROM event_by_category", "FROM event LEFT JOIN item USING (item_id)")
    with pytest.raises(DefinitionError, match=r'declare \[rekeyed.NAME\] enrich = \["batch_view"\]'):
        Shop(tmp_path, TOML, {**SQL, "by_category.sql": joined})
