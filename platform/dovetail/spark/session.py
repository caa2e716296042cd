"""A Spark session as a cluster: the one module that knows PySpark."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dovetail.platform.errors import ConfigError, StateError
from dovetail.spark.cluster import Stage
from dovetail.spark.frames import Frame, opened

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

__all__ = ["SparkCluster", "open_cluster"]

_FRAME = "to int, kind int, a long, b long, payload binary"
#: What every session of ours has: partitions stay as they are asked for, and no more than some MiB are handed to Python
#: at once.
_ALWAYS = {
    "spark.sql.adaptive.enabled": "false",
    "spark.sql.execution.arrow.maxRecordsPerBatch": "256",
}
#: What a session on this machine has, unless it is asked for otherwise: nothing of it listens to another machine.
_LOCAL = {
    "spark.driver.bindAddress": "127.0.0.1",
    "spark.driver.host": "127.0.0.1",
    "spark.driver.memory": "1g",
    "spark.pyspark.python": sys.executable,  # where Dovetail is installed: this environment
    "spark.ui.enabled": "false",
    "spark.ui.showConsoleProgress": "false",
}


def open_cluster(master: str, settings: Mapping[str, str] | None = None) -> SparkCluster:
    """A session with ``master``, which may be ``sc://…`` for Spark Connect; ``settings`` are Spark's own.

    Raises:
        ConfigError: PySpark is not installed, is too old, or there is no such master.
    """
    try:
        from pyspark.sql import DataFrame, SparkSession
    except ImportError as error:
        raise ConfigError(
            "engine = \"spark\" needs PySpark, pandas and Java 17: pip install 'dovetail-samples[spark]'"
        ) from error
    if not hasattr(DataFrame, "repartitionById"):
        raise ConfigError("engine = \"spark\" needs PySpark 4.1 or newer: pip install 'dovetail-samples[spark]'")
    builder = SparkSession.builder.appName("dovetail")
    builder = builder.remote(master) if master.startswith("sc://") else builder.master(master)
    given = dict(settings or {})
    if master.startswith("local"):
        os.environ.setdefault("SPARK_LOCAL_IP", "127.0.0.1")
        given = _LOCAL | given
    if "spark.pyspark.python" in given:  # PySpark itself asks the environment
        os.environ.setdefault("PYSPARK_PYTHON", given["spark.pyspark.python"])
    for name, value in given.items():
        builder = builder.config(name, value)
    try:
        session = builder.getOrCreate()
    except Exception as error:  # PySpark passes errors of Java's on as classes of Py4J's, which it does not name
        raise ConfigError(f"[batch] master = {master!r}: Spark does not start: {_reason(error)}") from error
    for name, value in _ALWAYS.items():
        session.conf.set(name, value)
    return SparkCluster(session)


class SparkCluster:
    """Runs stages in a session (``cluster.Cluster``)."""

    def __init__(self, session: SparkSession) -> None:
        self._session = session

    @property
    def tasks_at_once(self) -> int:
        """Spark's default parallelism: the cores it has, where it tells."""
        try:
            return int(self._session.sparkContext.defaultParallelism)
        except Exception:  # noqa: BLE001  # Spark Connect has no context, and says so by an error of its own
            return int(self._session.conf.get("spark.default.parallelism", "16") or 16)

    def run(self, items: int, stages: Sequence[Stage]) -> list[Frame]:
        """Run ``stages`` over the items ``0 … items - 1``; the frames of the last one.

        Raises:
            StateError: a task failed more often than Spark tolerates.
        """
        rows: Any = self._session.range(0, items, 1, stages[0].partitions)
        rows = rows.mapInArrow(stages[0].function, _FRAME)
        for stage in stages[1:]:
            there = rows.repartitionById(stage.partitions, "to").sortWithinPartitions("to", "a", "b")
            rows = there.mapInArrow(stage.function, _FRAME)
        try:
            return list(opened(rows.toArrow().to_batches()))
        except Exception as error:
            raise StateError(f"Spark gave up: {str(error)[:2_000]}") from error

    def stop(self) -> None:
        """End the session, and the processes that it started here."""
        self._session.stop()


def _reason(error: Exception) -> str:
    """The line that names an exception of Java's, or the first one."""
    lines = str(error).splitlines() or [type(error).__name__]
    return next((line.partition("Exception: ")[2] for line in lines if "Exception: " in line), lines[0])
