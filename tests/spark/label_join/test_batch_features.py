"""Samples of a join on a cluster have batch features as of the request, of tables wherever they are."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.platform.lake.lakes import LAKES
from tests.spark.in_process import InProcess
from tests.spark.label_join.archived_worlds import SECOND, START_US, archived_world
from tests.spark.label_join.test_joined import joined, of_world

ITEMS = pa.table(
    {
        "item_id": pa.array([*range(4), *range(5)], pa.int64()),
        "stock": pa.array([*range(4), *range(10, 15)], pa.int64()),
        # The second half is known from a moment of the world on, so that requests fall into versions that differ.
        "known_at": pa.array([START_US - 3_600 * SECOND] * 4 + [START_US + 600 * SECOND] * 5, pa.timestamp("us")),
    }
)
TABLE = """
[tables.stocked]
path = "{path}"
available_at = "known_at"
[batch_views.stock]
every = "5m"
"""


def path_of(kind: str, folder: Path) -> str:
    if kind in LAKES:
        return LAKES[kind](folder, ITEMS)
    folder.mkdir()
    pq.write_table(ITEMS, folder / "items.parquet")
    return str(folder / "items.parquet")


@pytest.mark.parametrize("kind", ["parquet", *LAKES])
def test_the_files_are_those_of_one_machine(kind: str, tmp_path: Path) -> None:
    folder = tmp_path / "project"
    world = archived_world(folder, 3, requests=20)
    sql, toml = folder / "sql", folder / "dovetail.toml"
    toml.write_text(toml.read_text() + TABLE.format(path=path_of(kind, tmp_path / "lake")))
    tables = sql / "tables.sql"
    tables.write_text(
        f"{tables.read_text()}\nCREATE TABLE stocked (item_id BIGINT, stock BIGINT, known_at TIMESTAMP NOT NULL);\n"
    )
    (sql / "stock.sql").write_text("SELECT item_id, max(stock) AS stock FROM stocked GROUP BY item_id")
    ranking = (sql / "ranking.sql").read_text().replace("activity.events", "activity.events, stock.stock")
    (sql / "ranking.sql").write_text(f"{ranking} LEFT JOIN stock USING (item_id)")
    with of_world(world):
        found = joined(folder, folder / "cluster", InProcess(1))  # first: versions are made by whom they are asked of
        versions = world.stores.registry.versions("stock")
        assert joined(folder, folder / "local", None) == found
    assert world.stores.registry.versions("stock") == versions
    world.stores.close()
    assert len(versions) > 2
    assert {*pq.read_table(folder / "cluster")["stock"].to_pylist()} >= {None, 0, 10}
