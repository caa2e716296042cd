"""Spark itself, two cores of this machine: every shipped definition, generated ones, a hot key, the command."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from dovetail.app.jobs import BackfillRequest, open_backfill
from dovetail.app.reports import consistency_of
from dovetail.app.storage import open_stores
from dovetail.cli.stored.backfill import run
from dovetail.demo.logs.simulator import SimulatorConfig, simulate
from dovetail.demo.run import run_demo
from dovetail.demo.shipped import minimal_folder, project_folder
from dovetail.features import load
from dovetail.features.batch.pieces import Limits
from dovetail.features.batch.streaming import Visibility
from dovetail.features.stored.day_engine import LocalDays
from dovetail.features.stream.engine import StreamEngine
from dovetail.platform.errors import ConfigError
from dovetail.platform.rows.positions import own_position_columns
from dovetail.spark import SparkDays
from tests.cli.trained_project import samples
from tests.features.stored.stored_world import START, World, events, requests
from tests.features.stored.test_backfill import files_of, job
from tests.features.stored.test_consistency import adds_one
from tests.features.stored.test_lake_inputs import backfilled
from tests.platform.lake.lakes import delta_table, iceberg_table
from tests.spark.given_work import assert_same, work_of_case
from tests.spark.spark_cases import drawn_cases
from tests.spark.test_bootstrapped import fill
from tests.spark.test_evaluated import evaluated, same, trained

pytest.importorskip(
    "pyspark", reason="PySpark is not installed: pip install 'dovetail-samples[spark]', or make spark-test"
)

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::ResourceWarning")]
BOTH = pytest.mark.parametrize("visibility", ["event_time", "as_served"])
MINUTE = 60_000_000


@pytest.fixture(scope="module")
def spark() -> Iterator[SparkDays]:
    from dovetail.spark.session import open_cluster

    cluster = open_cluster("local[2]")
    yield SparkDays(cluster)
    cluster.stop()


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of the demo."""
    keep = tmp_path_factory.mktemp("demo") / "keep"
    asyncio.run(run_demo(simulate(SimulatorConfig(requests=80)), keep, on_progress=lambda _: None))
    return keep


@BOTH
def test_the_shipped_project(spark: SparkDays, demo: Path, tmp_path: Path, visibility: Visibility) -> None:
    tables = {"item": {"path": str(demo / "item.parquet")}}
    project = load(project_folder(), storage={"state": str(demo)}, tables=tables)
    stores = open_stores(project.config)
    found = {}
    for name, engine in (("local", LocalDays()), ("spark", spark)):
        asked = BackfillRequest("ranking", str(tmp_path / name), visibility=visibility)
        result = replace(open_backfill(project, stores, asked), engine=engine).run()
        assert result.rows > 0
        found[name] = {path.name: path.read_bytes() for path in (tmp_path / name).rglob("*.parquet")}
    stores.close()
    assert found["spark"] == found["local"]


def test_the_minimal_project(spark: SparkDays, tmp_path: Path) -> None:
    chance = random.Random(3)
    log = [
        {
            "user_id": f"u{chance.randrange(9)}",
            "item_id": f"i{chance.randrange(20)}",
            "event_time": START + n // 2 * 2 * MINUTE,
            "_partition": 0,
            "_offset": n,
            "_row": 0,
        }
        for n in range(4_000)
    ]
    asked = [
        {
            "request_id": f"r{n}",
            "user_id": f"u{n % 10}",
            "request_time": START + n * 17 * MINUTE,
            "candidates": [{"item_id": f"i{chance.randrange(22)}"} for _ in range(n % 4)],
        }
        for n in range(200)
    ]
    project = load(minimal_folder(), storage={"state": str(tmp_path / "state")})
    declared = pa.schema([*project.streams["events"].schema.arrow, *own_position_columns()])
    pq.write_table(pa.Table.from_pylist(log, schema=declared), tmp_path / "e.parquet")
    pq.write_table(pa.Table.from_pylist(asked, schema=project.request.arrow), tmp_path / "r.parquet")
    stores = open_stores(project.config)
    for name, engine in (("local", LocalDays()), ("spark", spark)):
        given = BackfillRequest(
            "ranking",
            str(tmp_path / name),
            requests=str(tmp_path / "r.parquet"),
            events={"events": str(tmp_path / "e.parquet")},
            limits=Limits(rows_per_piece=500),
        )
        assert replace(open_backfill(project, stores, given), engine=engine).run().rows == 300
    stores.close()
    names = [path.relative_to(tmp_path / "local") for path in (tmp_path / "local").rglob("*.parquet")]
    assert len(names) == 3
    for path in names:
        assert (tmp_path / "spark" / path).read_bytes() == (tmp_path / "local" / path).read_bytes()


@BOTH
def test_definitions_from_the_whole_language(spark: SparkDays, tmp_path: Path, visibility: Visibility) -> None:
    for number, case in enumerate(drawn_cases(6)):
        work = work_of_case(case, tmp_path / str(number), visibility, 6)
        assert_same(spark, work, case.sql)


def test_a_key_with_a_third_of_all_events(spark: SparkDays, world: World, caplog: pytest.LogCaptureFixture) -> None:
    log = events(90)
    hot = [{**row, "user_id": "u1", "event_time": row["event_time"] + 1} for row in log]
    world.send([*log, *hot[: len(log) // 2]])
    world.ask(requests(4))
    world.archive()
    limits = Limits(rows_per_piece=30)
    job(world, limits=limits).run()
    replace(job(world, "spark", limits=limits), engine=spark).run()
    assert files_of(world, "spark") == files_of(world)
    assert "stays in one task" not in caplog.text, "its window is a day, of four"


def test_what_the_demo_served_is_recomputed(spark: SparkDays, demo: Path) -> None:
    project = load(project_folder(), storage={"state": str(demo)})
    stores = open_stores(project.config)
    found, expected = (consistency_of(project, stores, engine=engine) for engine in (spark, LocalDays()))
    stores.close()
    assert found == expected
    assert found.compared > 0


def test_what_was_served_wrong_is_found(spark: SparkDays, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(StreamEngine, "values", adds_one(StreamEngine.values))
        world.live(60)
    expected = consistency_of(world.project, world.stores)
    assert expected.mismatched > 0
    assert expected.late > 0
    found = consistency_of(world.project, world.stores, limits=Limits(rows_per_piece=16), engine=spark)
    assert found.to_json() == expected.to_json()


def test_a_model_is_evaluated(spark: SparkDays, tmp_path: Path) -> None:
    project = trained(tmp_path)
    (tmp_path / "samples").mkdir()
    for number in range(3):
        pq.write_table(samples().slice(number * 200, 200), tmp_path / "samples" / f"{number}.parquet")
    names = [str(tmp_path / "samples")]
    assert same(evaluated(project, names, spark, slices=["city"]), evaluated(project, names, slices=["city"]))


def test_the_command_fills_state(spark: SparkDays, tmp_path: Path) -> None:
    world = World(tmp_path / "shop")
    world.send(events(60))
    world.archive("events")
    expected = fill(world, "users")
    assert fill(world, "users", spark) == expected
    world.stores.close()


def test_tables_of_a_lake_are_read_by_tasks(spark: SparkDays, tmp_path: Path) -> None:
    world = World(tmp_path / "shop")
    log = pa.Table.from_pylist(events(60), schema=world.project.streams["events"].schema.arrow)
    asked = pa.Table.from_pylist(requests(2), schema=world.project.request.arrow)
    places = iceberg_table(tmp_path / "iceberg", log), delta_table(tmp_path / "delta", asked)
    assert backfilled(world, "spark", *places, spark) == backfilled(world, "local", *places)
    world.stores.close()


def test_the_command(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    """Last: it ends the session of this process."""
    world.send(events(90))
    world.ask(requests(4))
    world.archive()
    asked = BackfillRequest("ranking", str(world.folder / "spark"))
    code = run(
        world.folder, asked, first=None, last=None, explain=False, as_json=True, engine="spark", master="local[2]"
    )
    assert (code, json.loads(capsys.readouterr().out)["rows"]) == (0, 60)
    made = world.stores.registry.versions("profile")
    assert made, "by Spark's tasks, which the next reads"
    job(world).run()
    assert world.stores.registry.versions("profile") == made
    assert files_of(world, "spark") == files_of(world)
    assert ds.dataset(world.folder / "spark", format="parquet").count_rows() == 60


def test_a_master_that_is_none_is_refused() -> None:
    from dovetail.spark.session import open_cluster

    with pytest.raises(ConfigError, match=r"\[batch\] master = 'nowhere': Spark does not start: "):
        open_cluster("nowhere")
