"""A stream enriched from a table, through a whole worker: served, archived, verified, and given a past."""

from __future__ import annotations

import asyncio
import datetime as dt
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from dovetail.app.reports import audit_worker, consistency_of
from dovetail.app.reports.witnessed import witness_of
from dovetail.app.worker import assemble
from dovetail.features.stored.bootstrap import bootstrap
from dovetail.platform.archive.writer import read_dataset
from tests.app.small_project import SQL, TOML, Messages, at, live, project_in, request, write_project

ROLES = ("features", "snapshots", "labels", "samples", "archive", "rekey")
DECLARED = TOML.replace(
    "[request]\n",
    '[rekeyed.by_shop]\nstream = "behaviour"\nkey = "shop"\nenrich = ["item"]\n[tables.items]\npath = "items.parquet"\n'
    'available_at = "known_at"\n[batch_views.item]\nevery = "1m"\n[request]\n',
    1,
)
TABLES = (
    SQL.replace("behaviour (user_id", "behaviour (item_id BIGINT, user_id").replace(
        "request_time TIMESTAMP NOT NULL,", "shop VARCHAR, request_time TIMESTAMP NOT NULL,"
    )
    + "CREATE TABLE items (item_id BIGINT, shop VARCHAR, price DECIMAL(9,2), known_at TIMESTAMP NOT NULL);"
)
ITEM = """SELECT item_id, arg_max(shop, {'at': known_at, 'shop': shop}) AS shop, max(price) AS price
FROM items GROUP BY item_id"""
BY_SHOP = """
SELECT shop, count(*) OVER w AS events, sum(price) OVER w AS turnover, last(user_id) OVER w AS latest FROM by_shop
WINDOW w AS (PARTITION BY shop ORDER BY event_time RANGE BETWEEN INTERVAL 1 HOUR PRECEDING AND CURRENT ROW)
"""
FEATURES = """
SELECT request_id, item_id, shop.events, shop.turnover, shop.latest FROM request LEFT JOIN shop USING (shop)
"""
SENT: Messages = {
    "behaviour": [
        *({"item_id": item, "user_id": f"u{item}", "event_time": at(second)} for item, second in ((1, 1), (2, 2))),
        {"item_id": 1, "user_id": "later", "event_time": at(130)},
        {"item_id": 9, "user_id": "unknown", "event_time": at(131)},
        {"item_id": 1, "user_id": "late", "event_time": at(30)},
        b"{",
    ],
    "requests": [
        {**request("r1", "u", [1], 200), "shop": "old"},
        {**request("r2", "u", [1], 200), "shop": "new"},
    ],
    "exposure": [],
    "click": [],
}


def known(second: int) -> dt.datetime:
    return dt.datetime.fromisoformat(at(0).removesuffix("Z")) + dt.timedelta(seconds=second)


def test_a_view_by_what_a_table_says_of_each_event(tmp_path: Path) -> None:
    folder = tmp_path / "project"
    write_project(folder, DECLARED, SENT)
    (folder / "sql" / "tables.sql").write_text(TABLES)
    for name, text in (("item", ITEM), ("shop", BY_SHOP), ("ranking", FEATURES)):
        (folder / "sql" / f"{name}.sql").write_text(text)
    rows = [(1, "old", 250, -60), (2, "old", 100, -60), (1, "new", 300, 90)]  # the last is in the version of 12:02
    columns = zip(*((item, shop, cents, known(second)) for item, shop, cents, second in rows), strict=True)
    names = ("item_id", "shop", "price", "known_at")
    types = (pa.int64(), pa.string(), pa.int64(), pa.timestamp("us"))
    table = pa.table({n: pa.array(c, t) for n, c, t in zip(names, columns, types, strict=True)})
    price = pa.array([f"{cents / 100:.2f}" for cents in table.column("price").to_pylist()]).cast(pa.decimal128(9, 2))
    pq.write_table(table.set_column(2, "price", price), folder / "items.parquet")

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
        snapshots = read_dataset(stores.registry, stores.offline, "snapshots").sort_by("request_id").to_pylist()
        found = [tuple(row[name] for name in ("events", "turnover", "latest")) for row in snapshots]
        assert [(n, str(total), who) for n, total, who in found] == [(3, "6.00", "late"), (1, "3.00", "later")]
        checked = consistency_of(project, stores)
        assert (checked.compared > 0, checked.mismatched) == (True, 0)
        witnessed = witness_of(project, stores, 2)
        assert (witnessed.compared > 0, witnessed.mismatched, witnessed.unwitnessed) == (True, 0, 0)
        assert read_dataset(stores.registry, stores.offline, "by_shop").num_rows == 5
        view = project.stream_views["shop"]
        before = stores.online.progress("shop")
        rebuilt = bootstrap(view, stores.registry, stores.offline, stores.online, replace_existing=True)
        assert rebuilt.rows == 5
        assert stores.online.progress("shop").keys() == before.keys()
        assert consistency_of(project, stores).mismatched == 0
    finally:
        worker.stores.close()
