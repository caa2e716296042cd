"""Events, requests and offline tables may be tables of Iceberg and Delta: the bytes are those of Parquet."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from dovetail.app.jobs import BackfillRequest, open_backfill
from dovetail.features.stored.day_engine import DayEngine, LocalDays
from dovetail.spark import SparkDays
from tests.features.stored.stored_world import FILES, TOML, World, events, requests
from tests.platform.lake.lakes import delta_table, iceberg_table
from tests.spark.in_process import InProcess


def backfilled(
    world: World, name: str, events_at: str, requests_at: str, engine: DayEngine | None = None
) -> dict[str, bytes]:
    asked = BackfillRequest("ranking", str(world.folder / name), requests_at, events={"events": events_at})
    replace(open_backfill(world.project, world.stores, asked), engine=engine or LocalDays()).run()
    return {path.parent.name: path.read_bytes() for path in (world.folder / name).rglob("*.parquet")}


def test_a_backfill_has_the_bytes_of_one_of_parquet(tmp_path: Path) -> None:
    plain = World(tmp_path / "plain", name="plain")
    log = pa.Table.from_pylist(events(60), schema=plain.project.streams["events"].schema.arrow)
    asked = pa.Table.from_pylist(requests(2), schema=plain.project.request.arrow)
    pq.write_table(log, tmp_path / "events.parquet")
    pq.write_table(asked, tmp_path / "requests.parquet")
    wanted = backfilled(plain, "out", str(tmp_path / "events.parquet"), str(tmp_path / "requests.parquet"))
    items = iceberg_table(tmp_path / "items", pq.read_table(plain.folder / "items.parquet"))
    lake = World(tmp_path / "lake", TOML.replace("items.parquet", items), FILES, name="lake")
    found = backfilled(lake, "out", iceberg_table(tmp_path / "iceberg", log), delta_table(tmp_path / "delta", asked))
    assert len(wanted) == 2
    assert found == wanted
    items = delta_table(tmp_path, pq.read_table(plain.folder / "items.parquet"))
    other = World(tmp_path / "other", TOML.replace("items.parquet", items), FILES, name="other")
    again = backfilled(other, "out", delta_table(tmp_path / "d", log), iceberg_table(tmp_path / "i", asked))
    assert again == wanted
    tasks = SparkDays(InProcess())
    assert (
        backfilled(other, "spark", delta_table(tmp_path / "s", log), iceberg_table(tmp_path / "t", asked), tasks)
        == wanted
    )
    for world in (plain, lake, other):
        world.stores.close()
