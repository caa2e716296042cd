"""A week of events in Dovetail's stores, the same values beforehand for others, and how answers must agree."""

from __future__ import annotations

import importlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.parquet as pq

from dovetail.features import Project, load
from dovetail.features.serving.online_features import OnlineFeatures
from dovetail.features.serving.versions import BatchVersions
from dovetail.platform.stores.offline import OfflineStore
from dovetail.platform.stores.online import OnlineStore
from dovetail.platform.stores.online_stores import open_online_store
from dovetail.platform.stores.registry.store import Registry

ROOT = Path(__file__).resolve().parents[3]
EVENTS, REQUESTS, CANDIDATES = 100_000, 50, 200
SHIPPED = ("behaviour", "item_stats", "labels", "request", "user_activity")
TOML = """
[streams.behaviour]
key = "user_id"
allowed_lateness = "1h"
[labels]
window = "15m"
exposure = "exposure"
positive = "click"
[labels.streams.exposure]
[labels.streams.click]
[labels.streams.conversion]
"""
USER = ("views_1h", "clicks_1h", "views_1d", "clicks_1d", "events_7d", "clicks_7d", "carts_7d", "orders_7d", "spend_7d")
ITEM = (*USER[:4], "clicks_7d", "carts_7d", "orders_7d", "avg_price_1d", "min_price_7d")
FEATURES = (*(f"user_{name}" for name in USER), *(f"item_{name}" for name in ITEM))


def project_of(folder: Path) -> Project:
    """The shipped views, and a feature set that hands out their values as they are."""
    return load(folder)


def online_of(project: Project, store: OnlineStore, folder: Path) -> OnlineFeatures:
    """The features, with no batch view among them."""
    registry = Registry(f"sqlite:///{folder / 'registry.sqlite'}")
    versions = BatchVersions(project.batch_views, registry, OfflineStore(str(folder / "offline")), _no_table)
    return OnlineFeatures(project.feature_set, project.stream_views, store, versions)


def url_of(folder: Path, way: str) -> str:
    """Where Dovetail's state is: ``sqlite`` or ``redis``."""
    servers: dict[str, str] = json.loads((folder / "servers.json").read_text(encoding="utf-8"))
    return servers["redis"] if way == "redis" else f"sqlite:///{folder / 'online.sqlite'}"


def rows(request: int, at_us: int, user: str, items: Any) -> pa.Table:
    """One request, a row for each of its candidates."""
    count = len(items)
    return pa.table(
        {
            "request_id": pa.array([f"r{request}"] * count),
            "user_id": pa.array([user] * count),
            "request_time": pa.array(np.full(count, at_us)).cast(pa.timestamp("us")),
            "item_id": pa.array(items, pa.int64()),
        }
    )


def prepare(folder: Path, scale: float) -> tuple[int, str]:
    """Feed both stores of Dovetail; write requests, and the values of all users and items at their time."""
    given = importlib.import_module("benchmarks.request")
    _write_definitions(folder)
    project, messages = project_of(folder), given.week_of_events(int(EVENTS * scale))
    for way in ("sqlite", "redis"):
        store = open_online_store(url_of(folder, way), "peers")
        given.feed(project, list(project.stream_views.values()), store, messages)
        store.close()
    at_us = given.START_US + given.WEEK_US
    rng = np.random.default_rng(given.SEED)
    users = [f"u{number}" for number in rng.integers(0, 200, REQUESTS)]
    items = [rng.choice(given.ITEMS, CANDIDATES, replace=False) for _ in range(REQUESTS)]
    asked = pa.concat_tables([rows(n, at_us, u, i) for n, (u, i) in enumerate(zip(users, items, strict=True))])
    feather.write_feather(asked, str(folder / "requests.arrow"), compression="uncompressed")
    store = open_online_store(url_of(folder, "sqlite"), "peers")
    online = online_of(project, store, folder)
    of_users = [online.serve(rows(0, at_us, f"u{n}", [0])).features for n in range(given.USERS)]
    of_items = online.serve(rows(0, at_us, "nobody", np.arange(given.ITEMS))).features
    _write(folder, "user", [f"u{n}" for n in range(given.USERS)], pa.concat_tables(of_users))
    _write(folder, "item", list(range(given.ITEMS)), of_items)
    store.close()
    return REQUESTS * CANDIDATES, (
        f"{REQUESTS} requests, one after the other, of one user and {CANDIDATES} items each, {len(FEATURES)} values of "
        f"{len(messages):,} events: of the user in windows of an hour, a day and a week, and of each item. Users and "
        f"items: {given.USERS:,} each. Redis itself is not counted."
    )


def _write_definitions(folder: Path) -> None:
    (folder / "sql").mkdir()
    (folder / "dovetail.toml").write_text(TOML, encoding="utf-8")
    for name in SHIPPED:
        shutil.copy(ROOT / "sql" / f"{name}.sql", folder / "sql")
    columns = [f"user_activity.{name} AS user_{name}" for name in USER]
    columns += [f"item_stats.{name} AS item_{name}" for name in ITEM]
    ranking = (
        f"SELECT request_id, item_id, {', '.join(columns)} FROM request "
        "LEFT JOIN user_activity USING (user_id) LEFT JOIN item_stats USING (item_id)"
    )
    (folder / "sql" / "ranking.sql").write_text(ranking, encoding="utf-8")


def _write(folder: Path, entity: str, keys: list[Any], features: pa.Table) -> None:
    values = as_numbers(features).select([name for name in FEATURES if name.startswith(f"{entity}_")])
    pq.write_table(values.add_column(0, f"{entity}_id", pa.array(keys)), folder / f"{entity}.parquet")


def as_numbers(features: pa.Table) -> pa.Table:
    """Values without keys; decimals become floating numbers, which is what other stores have."""
    columns = [features.column(name) for name in FEATURES]
    kept = [each.cast(pa.float64()) if pa.types.is_decimal(each.type) else each for each in columns]
    return pa.table(kept, names=list(FEATURES))


def equal(ours: pa.Table, theirs: pa.Table) -> str:
    """All values are the same once types are: row by row, in the order of the candidates."""
    if not theirs.select(list(FEATURES)).cast(ours.schema).equals(ours):
        raise DifferentError(f"{theirs.slice(0, 2).to_pylist()}, Dovetail {ours.slice(0, 2).to_pylist()}")
    return f"all {ours.num_rows * ours.num_columns:,} values equal Dovetail's"


def _no_table(view: object) -> pa.Table:
    raise AssertionError(f"there is no batch view {view}")


class DifferentError(Exception):
    """Answers that should be equal are not."""
