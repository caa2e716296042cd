"""``dovetail join`` on a cluster: the files of one machine, byte for byte, whatever order logs came in."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dovetail.app.reports import join_on_cluster as on_cluster
from dovetail.app.reports import rejoin
from dovetail.cli.stored import join
from dovetail.platform.errors import StateError, StoreError
from dovetail.spark.cluster import Cluster, Stage
from dovetail.spark.frames import Frame, opened
from dovetail.spark.label_join import join_run
from dovetail.spark.label_join.request_tasks import ROWS
from dovetail.spark.sent import told
from tests.app.small_project import run, stores_of, write_project
from tests.generated import tries
from tests.seeds import SEEDS
from tests.spark.in_process import InProcess
from tests.spark.label_join.archived_worlds import ArchivedWorld, archived_world
from tests.spark.losing import Losing


class Failing(InProcess):
    """A cluster in which the tasks of a stage raise when they have given all they have."""

    def __init__(self, place: str) -> None:
        super().__init__()
        self._place = place

    def _tasks(self, stage: Stage, given: Sequence[Sequence[pa.RecordBatch]]) -> list[Frame]:
        frames = super()._tasks(stage, given)
        if type(stage.function).__name__ == self._place:
            frames += opened(told(3, raising()))
        return frames


def raising() -> Iterator[Frame]:
    raise StateError("on purpose")
    yield


@pytest.fixture(scope="module")
def lived(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project that was lived through: clicks that name no request, late ones, two lanes."""
    folder = tmp_path_factory.mktemp("lived") / "project"
    write_project(folder)
    run(folder)
    return folder


def joined(folder: Path, out: Path, cluster: Cluster | None, *, compare: bool = False) -> dict[str, bytes]:
    """The files that the command writes, by name, drafts included."""

    @contextmanager
    def opened(*_: object) -> Iterator[Cluster | None]:
        yield cluster

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(join, "cluster_of", opened)
        assert join.run(folder, str(out), "", compare=compare, as_json=True) == 0
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("seed", [None, *range(SEEDS)])
def test_the_files_are_those_of_one_machine(lived: Path, tmp_path: Path, seed: int | None) -> None:
    expected = joined(lived, tmp_path / "local", None)
    assert sum(pq.read_metadata(tmp_path / "local" / name).num_rows for name in expected) == 7
    assert joined(lived, tmp_path / "cluster", InProcess(seed), compare=True) == expected


@contextmanager
def of_world(world: ArchivedWorld) -> Iterator[None]:
    """What the stream has released is what ``world`` says."""
    with pytest.MonkeyPatch.context() as patched:
        for module in (rejoin, on_cluster):
            patched.setattr(module, "released_positions", lambda *_: world.bounds)
        yield


def both(world: ArchivedWorld, cluster: Cluster) -> dict[str, bytes]:
    """The files of one machine, which are those of ``cluster``."""
    with of_world(world):
        expected = joined(world.folder, world.folder / "local", None)
        assert joined(world.folder, world.folder / "cluster", cluster) == expected
    return expected


@settings(max_examples=tries(4), deadline=None)
@given(seed=st.integers(0, 1 << 20), unsteady=st.none() | st.integers(0, 9))
def test_generated_archives_give_the_files_of_one_machine(seed: int, unsteady: int | None) -> None:
    with TemporaryDirectory() as name:
        world = archived_world(Path(name) / "project", seed)
        try:
            both(world, InProcess(unsteady))
        finally:
            world.stores.close()


@pytest.mark.parametrize("seed", [4, 7])
def test_a_day_of_which_nothing_is_released_has_no_file(tmp_path: Path, seed: int) -> None:
    world = archived_world(tmp_path / "project", seed, requests=20)
    ends = {0: 3 << 20, 1: 1 << 40, 2: 1 << 40}
    bounds = {(lane, partition): end for lane, end in ends.items() for partition in range(2)}
    assert len(both(replace(world, bounds=bounds), InProcess())) < 2
    world.stores.close()


@pytest.mark.parametrize("seed", [0, 1])
def test_a_request_and_a_pair_with_a_third_of_all_labels(
    tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(join_run, "_LEAST_PER_TASK", 40)
    world = archived_world(tmp_path / "project", seed, requests=40, labels=300, hot=0.34)
    assert both(world, InProcess())
    world.stores.close()


def test_a_join_that_fails_leaves_no_file(lived: Path, tmp_path: Path) -> None:
    shutil.copytree(lived, tmp_path / "project")
    stores = stores_of(tmp_path / "project")
    (file,) = (file for file in stores.registry.files("click") if file.day == "2024-01-01")
    stores.offline.delete(file.path)
    stores.close()
    with pytest.raises(StoreError, match=file.path):
        joined(tmp_path / "project", tmp_path / "out", InProcess())
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file()]


@pytest.mark.parametrize("place", ["JoinRequests", "FinishDays"])
def test_an_error_behind_the_first_days_leaves_no_file(lived: Path, tmp_path: Path, place: str) -> None:
    with pytest.raises(StateError, match="on purpose"):
        joined(lived, tmp_path / "out", Failing(place))
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file()]


def test_rows_that_do_not_come_are_missed(lived: Path, tmp_path: Path) -> None:
    with pytest.raises(StateError, match=r"\d+ joined rows did not come"):
        joined(lived, tmp_path / "out", Losing("JoinRequests", ROWS))
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file()]


def test_a_project_without_snapshots_has_no_samples(tmp_path: Path) -> None:
    write_project(tmp_path / "project", messages={})
    assert joined(tmp_path / "project", tmp_path / "out", InProcess(), compare=True) == {}
