"""Dovetail's backfill, by the definitions in the folder."""

from __future__ import annotations

import importlib
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from dovetail.features import load
from dovetail.features.batch.pieces import Limits, PieceEvaluator, Span
from dovetail.platform.archive.dayfiles import DayFiles

PACKAGES = ("duckdb", "pyarrow")


def begin(folder: Path, way: str) -> Callable[[], pa.Table]:
    """``as_of`` or ``windows``."""
    if way == "windows":
        backfill = importlib.import_module("benchmarks.backfill")

        def windows() -> pa.Table:
            backfill.dovetail(folder)
            return pq.read_table(folder / "dovetail.parquet").select(backfill.NAMES)

        return windows
    return lambda: _as_of(folder)


def _as_of(folder: Path) -> pa.Table:
    project = load(folder)
    features = project.feature_set
    requests = DayFiles.at(folder / "requests", "request_time")
    scratch = folder / "scratch"
    evaluator = PieceEvaluator(
        features,
        features.columns,
        project.stream_views,
        project.batch_views,
        {"events": DayFiles.at(folder / "events", "event_time")},
        _no_batch_views,
        limits=Limits(),
        scratch=scratch,
    )
    times = pq.read_table(folder / "requests", columns=["request_time"]).column(0).cast(pa.int64())
    low, high = times[0].as_py(), times[-1].as_py()
    span = Span(requests.rows(low, high), low, high)
    with pq.ParquetWriter(folder / "dovetail.parquet", features.schema, compression="zstd") as writer:
        for _, part in evaluator.evaluate(lambda: requests.read(None, low, high), span):
            writer.write_table(part)
    shutil.rmtree(scratch, ignore_errors=True)
    return pq.read_table(folder / "dovetail.parquet").select(["action", "cents"])


def _no_batch_views(view: str, version_us: int) -> pa.Table:
    raise AssertionError(f"there is no batch view {view} as of {version_us}")
