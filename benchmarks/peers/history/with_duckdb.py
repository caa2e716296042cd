"""DuckDB alone, of the version that Dovetail uses: ``ASOF JOIN``, and the two texts of ``backfill.py``."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

PACKAGES = ("duckdb",)


def begin(folder: Path, way: str) -> Callable[[], pa.Table]:
    """``as_of``, ``windows`` or ``join``."""
    if way == "as_of":
        return lambda: _as_of(folder)
    backfill = importlib.import_module("benchmarks.backfill")

    def written() -> pa.Table:
        getattr(backfill, way)(folder)
        return pq.read_table(folder / f"{way}.parquet").select(backfill.NAMES)

    return written


def _as_of(folder: Path) -> pa.Table:
    made = folder / "duckdb.parquet"
    duckdb.connect().execute(
        f"COPY (SELECT action, cents FROM read_parquet('{folder}/requests/*.parquet') AS r "
        f"ASOF LEFT JOIN read_parquet('{folder}/events/*.parquet') AS e "
        "ON r.user_id = e.user_id AND r.request_time >= e.event_time ORDER BY r.request_id::BIGINT) "
        f"TO '{made}' (COMPRESSION zstd)"
    )
    return pq.read_table(made)
