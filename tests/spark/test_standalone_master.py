"""A master that is another process, at ``spark://``: the same bytes as one machine."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from dovetail.features.batch.pieces import Limits
from dovetail.spark import SparkDays
from tests.features.stored.stored_world import World, events, requests
from tests.features.stored.test_backfill import files_of, job
from tests.spark.label_join.archived_worlds import archived_world
from tests.spark.label_join.test_joined import both
from tests.spark.standalone import standalone

if TYPE_CHECKING:
    from dovetail.spark.session import SparkCluster

pytest.importorskip(
    "pyspark", reason="PySpark is not installed: pip install 'dovetail-samples[spark]', or make spark-test"
)

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::ResourceWarning")]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SparkCluster]:
    from dovetail.spark.session import open_cluster

    with standalone(tmp_path_factory.mktemp("standalone"), cores=2, memory="1g") as url:
        settings = {
            "spark.driver.bindAddress": "127.0.0.1",
            "spark.driver.host": "127.0.0.1",
            "spark.ui.enabled": "false",
            "spark.executor.cores": "1",
            "spark.executor.memory": "512m",
            "spark.pyspark.python": sys.executable,
            "spark.executorEnv.PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        }
        opened = open_cluster(url, settings)
        yield opened
        opened.stop()


def test_a_backfill(cluster: SparkCluster, world: World) -> None:
    world.send(events(90))
    world.ask(requests(4))
    world.archive()
    limits = Limits(rows_per_piece=40)
    job(world, limits=limits).run()
    result = replace(job(world, "spark", limits=limits), engine=SparkDays(cluster)).run()
    assert (len(result.written), result.rows) == (4, 60)
    assert files_of(world, "spark") == files_of(world)


def test_a_join(cluster: SparkCluster, tmp_path: Path) -> None:
    world = archived_world(tmp_path / "project", 0, attributed=True)
    assert both(world, cluster)
    world.stores.close()
