"""What a cluster makes is what one machine makes, byte for byte, however its tasks end. The cluster is this process:
``test_local_spark.py`` does some of it on Spark."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dovetail.features import Project
from dovetail.features.batch.pieces import Limits
from dovetail.features.batch.streaming import Visibility
from dovetail.features.stored.day_engine import DayEngine, LocalDays
from dovetail.platform.errors import DefinitionError, DovetailError, StateError, StoreError, WireError
from dovetail.spark import SparkDays, Stage
from dovetail.spark.frames import VALUES, Frame, opened
from dovetail.spark.sent import raised, told
from tests.features.batch.test_pieces import EVENT, ORIGIN, REQUEST, event_table, request_table
from tests.features.parity.strategies import Case, cases
from tests.features.stored.stored_world import World, events, requests
from tests.features.stored.test_backfill import files_of, job
from tests.generated import tries
from tests.seeds import SEEDS
from tests.spark.given_work import assert_same, made_by, work_of_case, work_of_project
from tests.spark.in_process import InProcess
from tests.spark.losing import Losing


@settings(max_examples=tries(5))
@given(
    log=st.lists(EVENT, min_size=1, max_size=30),
    asked=st.lists(REQUEST, min_size=1, max_size=12),
    piece=st.integers(1, 40),
    visibility=st.sampled_from(["event_time", "as_served"]),
    seed=st.none() | st.integers(0, 9),
)
def test_a_feature_set_of_several_views(
    project: Project,
    log: list[dict[str, Any]],
    asked: list[dict[str, Any]],
    piece: int,
    visibility: Visibility,
    seed: int | None,
) -> None:
    with TemporaryDirectory() as name:
        work = work_of_project(
            project, event_table(project, log), request_table(project, asked), Path(name) / "work",
            visibility=visibility, limits=Limits(rows_per_piece=piece), both=visibility == "as_served",
        )  # fmt: skip
        expected = made_by(LocalDays(), work, "local")
        assert expected
        assert made_by(SparkDays(InProcess(seed)), work, "cluster") == expected


@settings(max_examples=tries(6))
@given(case=cases(), visibility=st.sampled_from(["event_time", "as_served"]), seen=st.integers(0, 12))
def test_definitions_from_the_whole_language(case: Case, visibility: Visibility, seen: int) -> None:
    with TemporaryDirectory() as name:
        work = work_of_case(case, Path(name) / "work", visibility, seen)
        assert_same(SparkDays(InProcess()), work, case.sql)


@pytest.fixture
def asked(world: World) -> World:
    return lived(world)


def lived(world: World) -> World:
    world.send(events(90))
    world.ask(requests(4))
    world.archive()
    return world


def backfilled(world: World, out: str, engine: DayEngine, **options: Any) -> None:
    replace(job(world, out, **options), engine=engine).run()


@pytest.mark.parametrize("seed", [None, *range(SEEDS)])
def test_the_files_of_a_backfill_are_the_same_bytes(asked: World, seed: int | None) -> None:
    job(asked).run()
    backfilled(asked, "cluster", SparkDays(InProcess(seed)), limits=Limits(rows_per_piece=20))
    assert files_of(asked, "cluster") == files_of(asked)
    backfilled(asked, "spans", SparkDays(InProcess(seed), span_rows=1))
    assert files_of(asked, "spans") == files_of(asked)


def test_what_one_machine_began_a_cluster_goes_on_with(asked: World) -> None:
    job(asked).run()
    days = job(asked).days()
    job(asked, "mixed").run(days[0], days[1])
    made = replace(job(asked, "mixed"), engine=SparkDays(InProcess())).run()
    assert (made.done_before, made.written) == (days[:2], days[2:])
    assert files_of(asked, "mixed") == files_of(asked)


def test_columns_that_read_no_view_need_no_task(asked: World) -> None:
    job(asked, columns=["hour"]).run()
    backfilled(asked, "cluster", SparkDays(InProcess()), columns=["hour"])
    assert files_of(asked, "cluster") == files_of(asked)


def test_versions_of_batch_views_are_made_by_tasks(tmp_path: Path) -> None:
    class Noting(InProcess):
        def run(self, items: int, stages: Sequence[Stage]) -> list[Frame]:
            ran.append((type(stages[0].function).__name__, items))
            return super().run(items, stages)

    ran: list[tuple[str, int]] = []
    made = []
    for name, engine in (("local", LocalDays()), ("cluster", SparkDays(Noting(0)))):
        world = lived(World(tmp_path / name))
        backfilled(world, "out", engine)
        backfilled(world, "again", engine)
        versions = world.stores.registry.versions("profile")
        files = {path: world.stores.offline.read(path) for path in (version.path for version in versions)}
        made.append((versions, files, files_of(world), files_of(world, "again")))
        drafts = list(Path(world.stores.offline.path("batch")).rglob("*.partial"))
        assert not drafts
    assert made[0] == made[1]
    assert [what for what, _ in ran] == ["Survey", "Each", "Ship", "Survey", "Ship"]
    assert ran[1][1] == len(made[0][0]) > 1


def test_a_batch_view_without_its_table_is_told_of_as_here(asked: World) -> None:
    (asked.folder / "items.parquet").unlink()
    told = []
    for engine in (LocalDays(), SparkDays(InProcess())):
        with pytest.raises(StoreError, match=r"batch view profile cannot be computed: offline table items: ") as error:
            backfilled(asked, "out", engine)
        told.append(str(error.value))
    assert told[0] == told[1]


def test_what_was_served_is_recomputed_from_snapshots(asked: World) -> None:
    asked.stream("users")
    asked.answer()
    asked.archive()
    job(asked, visibility="as_served").run()
    backfilled(asked, "cluster", SparkDays(InProcess()), visibility="as_served")
    assert files_of(asked, "cluster") == files_of(asked)


def test_an_error_of_a_definition_arrives_as_it_was_raised_and_no_day_is_written(
    project: Project, tmp_path: Path
) -> None:
    log = event_table(project, [])
    rows = request_table(project, [{"user_id": 1, "item_id": 1, "request_time": ORIGIN}])
    work = work_of_project(project, log, rows.drop_columns(["_seen_acts"]), tmp_path / "work", visibility="as_served")
    with pytest.raises(WireError, match=r"do not say what acts had seen \(no column '_seen_acts'\)"):
        made_by(SparkDays(InProcess()), work, "cluster")


@pytest.mark.parametrize(
    "error",
    [StateError("a"), DefinitionError("what", file="sql/a.sql", line=3, remedy="do that")],
    ids=lambda e: str(e),
)
def test_errors_travel_whole(error: DovetailError) -> None:
    def failing() -> Iterator[Any]:
        raise error
        yield

    (frame,) = opened(told(1, failing()))
    found = raised(frame)
    assert (type(found), str(found), vars(found)) == (type(error), str(error), vars(error))


def test_values_that_do_not_come_back_are_missed(project: Project, tmp_path: Path) -> None:
    row = {"user_id": 1, "item_id": 1, "kind": "a", "price": None, "n": 1, "x": None, "_partition": 0, "_row": 0}
    log = event_table(project, [{**row, "event_time": ORIGIN}])
    rows = request_table(project, [{"user_id": n, "item_id": 1, "request_time": ORIGIN} for n in range(9)])

    work = work_of_project(project, log, rows, tmp_path / "work")
    with pytest.raises(StateError, match=r"of 4 requests, values of (acts|users) came back for"):
        made_by(SparkDays(Losing("Evaluate", VALUES)), work, "cluster")
