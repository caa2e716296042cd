"""Executors of their own, as on a cluster: the same bytes, also when they are killed."""

from __future__ import annotations

import os
import random
import signal
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pytest

from dovetail.features.batch.pieces import Limits
from dovetail.features.stored.day_engine import Consumer, Part
from dovetail.spark import SparkDays, Stage
from dovetail.spark.frames import Frame
from dovetail.spark.label_join.join_work import Consumer as SampleConsumer
from tests.features.stored.stored_world import World, events, requests
from tests.features.stored.test_backfill import files_of, job
from tests.seeds import SEEDS
from tests.spark.given_work import assert_same, work_of_case
from tests.spark.label_join.archived_worlds import archived_world
from tests.spark.label_join.test_joined import both
from tests.spark.spark_cases import drawn_cases

if TYPE_CHECKING:
    from dovetail.spark.session import SparkCluster

pytest.importorskip(
    "pyspark", reason="PySpark is not installed: pip install 'dovetail-samples[spark]', or make spark-test"
)

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::ResourceWarning")]
#: Where an executor is killed: between the frames that a stage gives, or while a day's file is being written.
PLACES = ("Evaluate", "writing", "Ship", "Finish", "Survey")
#: The same for a join of labels that name no request.
JOIN_PLACES = ("JoinRequests", "writing samples", "Attribute", "FinishDays", "ShipByPair", "Each")


@pytest.fixture(scope="module")
def cluster() -> Iterator[SparkCluster]:
    from dovetail.spark.session import open_cluster

    settings = {
        "spark.deploy.maxExecutorRetries": "-1",  # one that is killed is started again, however often
        "spark.executorEnv.PYTHONPATH": os.pathsep.join(filter(None, sys.path)),  # for the functions of this module
    }
    opened = open_cluster("local-cluster[2,1,1024]", settings)
    yield opened
    opened.stop()


@dataclass(frozen=True)
class Trap:
    """Kills the executor around whoever calls it, by SIGKILL, once in all processes."""

    marker: Path

    def __call__(self) -> None:
        try:
            self.marker.touch(exist_ok=False)
        except FileExistsError:
            return
        pid = os.getpid()
        while "CoarseGrainedExecutorBackend" not in Path(f"/proc/{pid}/cmdline").read_text(encoding="utf-8"):
            status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
            pid = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("PPid:"))
        os.kill(pid, signal.SIGKILL)


@dataclass(frozen=True)
class LethalStage:
    """A stage's function with a trap behind so many of its batches, or behind the last."""

    function: Any
    trap: Trap
    after: int

    def __call__(self, given: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        number = 0
        for number, batch in enumerate(self.function(given), start=1):
            yield batch
            if number == self.after:
                self.trap()
        if number < self.after:
            self.trap()


@dataclass(frozen=True)
class LethalWriter:
    """A consumer of days with a trap before the end of the rows: the file is begun and not closed."""

    consume: Consumer
    trap: Trap

    def __call__(self, day: str, parts: Iterator[Part]) -> Any:
        return self.consume(day, self._parts(parts))

    def _parts(self, parts: Iterator[Part]) -> Iterator[Part]:
        yield from parts
        self.trap()


@dataclass(frozen=True)
class LethalSamples:
    """A consumer of joined days, in the same way."""

    consume: SampleConsumer
    trap: Trap

    def __call__(self, day: str, columns: pa.Schema, parts: Iterator[pa.Table]) -> Any:
        return self.consume(day, columns, self._parts(parts))

    def _parts(self, parts: Iterator[pa.Table]) -> Iterator[pa.Table]:
        yield from parts
        self.trap()


@dataclass(frozen=True)
class Killing:
    """A cluster of which an executor is killed once, at a place."""

    cluster: SparkCluster
    trap: Trap
    place: str
    after: int

    @property
    def tasks_at_once(self) -> int:
        return self.cluster.tasks_at_once

    def run(self, items: int, stages: Sequence[Stage]) -> list[Frame]:
        return self.cluster.run(items, [replace(stage, function=self._lethal(stage.function)) for stage in stages])

    def _lethal(self, function: Any) -> Any:
        if self.place == "writing" and hasattr(function, "consume"):
            return replace(function, consume=LethalWriter(function.consume, self.trap))
        if self.place == "writing samples" and hasattr(function, "consume"):
            return replace(function, consume=LethalSamples(function.consume, self.trap))
        if type(function).__name__ == self.place:
            return LethalStage(function, self.trap, self.after)
        return function


@pytest.fixture
def asked(world: World) -> World:
    world.send(events(90))
    world.ask(requests(4))
    world.archive()
    return world


LIMITS = Limits(rows_per_piece=40)


def registered(world: World, out: str) -> dict[str, tuple[str, int, str]]:
    """By day, the path, rows and inputs that the registry has of a backfill."""
    _, days = world.stores.registry.backfill(str(world.folder / out))
    return {day: (kept.path, kept.rows, kept.inputs) for day, kept in days.items()}


def test_definitions_from_the_whole_language(cluster: SparkCluster, tmp_path: Path) -> None:
    for number, case in enumerate(drawn_cases(2)):
        work = work_of_case(case, tmp_path / str(number), "event_time" if number else "as_served", 6)
        assert_same(SparkDays(cluster), work, case.sql)


@pytest.mark.parametrize("seed", range(SEEDS))
def test_an_executor_that_is_killed_changes_nothing(cluster: SparkCluster, asked: World, seed: int) -> None:
    job(asked, limits=LIMITS).run()
    trap = Trap(asked.folder / "killed")
    killing = Killing(cluster, trap, PLACES[seed % len(PLACES)], random.Random(seed).randrange(1, 4))
    result = replace(job(asked, "killed-out", limits=LIMITS), engine=SparkDays(killing)).run()
    assert trap.marker.exists(), "an executor was killed"
    assert (len(result.written), result.rows) == (4, 60)
    assert files_of(asked, "killed-out") == files_of(asked), f"{killing}: no byte differs, no draft is left"
    assert registered(asked, "killed-out") == registered(asked, "out")


@pytest.mark.parametrize("seed", range(SEEDS))
def test_an_executor_that_is_killed_changes_no_joined_sample(cluster: SparkCluster, tmp_path: Path, seed: int) -> None:
    world = archived_world(tmp_path / "project", seed, attributed=True, cuts=1)
    trap = Trap(tmp_path / "killed")
    killing = Killing(cluster, trap, JOIN_PLACES[seed % len(JOIN_PLACES)], random.Random(seed).randrange(1, 3))
    assert both(world, killing), f"{killing}: no byte differs, no draft is left"
    assert trap.marker.exists(), "an executor was killed"
    world.stores.close()
