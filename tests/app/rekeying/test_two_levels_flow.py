"""Features on features across entities, through a whole worker: served, archived, verified, and given a past."""

from __future__ import annotations

import asyncio
from pathlib import Path

import duckdb
import pyarrow as pa

from dovetail.app.reports import audit_worker, consistency_of
from dovetail.app.reports.witnessed import witness_of
from dovetail.app.worker import assemble
from dovetail.features.stored.bootstrap import bootstrap
from dovetail.platform.archive.writer import read_dataset
from tests.app.small_project import SQL, TOML, Messages, at, live, project_in, request, write_project

ROLES = ("features", "snapshots", "labels", "samples", "archive", "rekey")
DECLARED = TOML.replace(
    "[request]\n",
    '[rekeyed.by_item]\nstream = "behaviour"\nkey = "item_id"\nenrich = ["visitor"]\n'
    '[rekeyed.by_user]\nstream = "by_item"\nkey = "user_id"\nenrich = ["item"]\n[request]\n',
    1,
)
TABLES = SQL.replace("behaviour (user_id", "behaviour (item_id BIGINT, user_id")
ORDER = "ORDER BY event_time RANGE BETWEEN INTERVAL 7 DAY PRECEDING AND CURRENT ROW)"
VIEWS = {
    "visitor": f"SELECT user_id, count(*) OVER w AS clicks FROM behaviour WINDOW w AS (PARTITION BY user_id {ORDER}",
    "item": "SELECT item_id, avg(clicks) OVER w AS activity, CAST(max(clicks) OVER w AS TINYINT) AS busiest "
    f"FROM by_item WINDOW w AS (PARTITION BY item_id {ORDER}",
    "taste": f"SELECT user_id, max(busiest) OVER w AS best FROM by_user WINDOW w AS (PARTITION BY user_id {ORDER}",
    "ranking": "SELECT request_id, item_id, item.activity, taste.best FROM request LEFT JOIN item USING (item_id) "
    "LEFT JOIN taste USING (user_id)",
}
SENT: Messages = {
    "behaviour": [
        *({"item_id": item, "user_id": "a", "event_time": at(at_)} for item, at_ in ((1, 1), (2, 2), (1, 3))),
        {"item_id": 1, "user_id": "b", "event_time": at(4)},
        {"item_id": 2, "user_id": "b", "event_time": at(2)},  # late: it knows of itself alone
        b"{",
    ],
    "requests": [request("r1", "a", [1, 2], 200), request("r2", "b", [3], 200)],
    "exposure": [],
    "click": [],
}


def by_hand(sql: str) -> object:
    """The value that the script gives in a DuckDB that knows nothing else."""
    with duckdb.connect() as connection:
        (value,) = connection.execute(sql).fetchall()[0]
    return value


def test_a_view_of_items_by_what_their_visitors_did(tmp_path: Path) -> None:
    folder = tmp_path / "project"
    write_project(folder, DECLARED, SENT)
    (folder / "sql" / "tables.sql").write_text(TABLES)
    for name, text in VIEWS.items():
        (folder / "sql" / f"{name}.sql").write_text(text)

    async def limited() -> None:
        async with asyncio.timeout(100):
            await live(folder, None, ("rekey", "features", "archive"))  # requests come when events are there
            await live(folder, None, ROLES)

    asyncio.run(limited())
    worker = assemble(project_in(folder), roles=ROLES)
    try:
        stores, project = worker.stores, worker.project
        books = audit_worker(worker)
        assert books.balanced, books.unbalanced
        by_item = read_dataset(stores.registry, stores.offline, "by_item").to_pylist()
        clicks = {(row["user_id"], row["event_time"].second): row["clicks"] for row in by_item}
        assert clicks == {("a", 1): 1, ("a", 2): 2, ("a", 3): 3, ("b", 4): 1, ("b", 2): 1}
        snapshots = read_dataset(stores.registry, stores.offline, "snapshots").to_pylist()
        found = {(row["request_id"], row["item_id"]): (row["activity"], row["best"]) for row in snapshots}
        assert found == {("r1", 1): (5 / 3, 3), ("r1", 2): (1.5, 3), ("r2", 3): (None, 3)}
        checked = consistency_of(project, stores)
        of = {feature.feature: (feature.compared, feature.mismatched) for feature in checked.features}
        assert of["by_item.clicks"] == of["by_user.activity"] == of["by_user.busiest"] == (5, 0)
        assert checked.mismatched == 0
        witnessed = witness_of(project, stores, 5)
        assert (witnessed.compared, witnessed.mismatched, witnessed.unwitnessed) == (3 * 2 + 5 + 5 * 2, 0, 0)
        rebuilt = bootstrap(
            project.stream_views["item"], stores.registry, stores.offline, stores.online, replace_existing=True
        )
        assert rebuilt.rows == 5
        (file,) = stores.registry.files("by_item")
        rows = stores.offline.read(file.path)
        at_ = rows.column_names.index("clicks")
        changed = pa.array([number + 1 for number in rows.column("clicks").to_pylist()], pa.int64())
        stores.offline.write(file.path, rows.set_column(at_, rows.schema.field(at_), changed))
        wrong = {feature.feature: feature for feature in consistency_of(project, stores).features}
        assert wrong["by_item.clicks"].mismatched == 5
        assert {example.where.partition(" (")[2] for example in wrong["by_item.clicks"].examples} == {
            f"partition/offset/row) of behaviour, key {item}" for item in (1, 2)
        }
        for example in wrong["by_item.clicks"].examples:
            assert str(by_hand(example.sql)) == example.recomputed, example.sql
        assert witness_of(project, stores, 5).mismatched >= 5
    finally:
        worker.stores.close()
