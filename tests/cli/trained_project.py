"""A project with a model, samples for it, and commands called as a program would."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from typer.testing import CliRunner

from dovetail.app.storage import open_stores
from dovetail.cli.main import app
from dovetail.platform.config.load import load_config
from dovetail.platform.rows.positions import Progress
from dovetail.platform.stores.registry.store import DataFile

PROJECT = """
name = "shop"
[streams.behaviour]
key = "user_id"
[labels]
window = "1h"
streams = { exposure = {}, click = {} }
[model]
bits = 12
shadow = true
inputs = [
    { column = "city" }, { column = "price", kind = "standardised" }, { columns = ["city", "tier"], kind = "cross" },
]
optimizer = { name = "adagrad", alpha = 0.1 }
evaluation = { slices = ["city"], window = 100 }
"""
DAY = 86_400_000_000


def samples(n: int = 600, seed: int = 1) -> pa.Table:
    rng = np.random.default_rng(seed)
    city = rng.integers(0, 5, n)
    return pa.table(
        {
            "request_id": [f"r{i}" for i in range(n)],
            "item_id": ["i"] * n,
            "request_time": pa.array(20_000 * DAY + np.arange(n) * (3 * DAY // n), pa.timestamp("us")),
            "city": [f"c{c}" for c in city],
            "tier": rng.integers(0, 2, n),
            "price": rng.exponential(10, n),
            "label": pa.array((rng.random(n) < (city + 1) / 7).astype(np.int8)),
            "weight": np.ones(n, np.float32),
            "score": np.full(n, 0.4, np.float32),
            "model_version": np.ones(n, np.int64),
            "_partition": pa.array(np.zeros(n), pa.int32()),
            "_offset": pa.array(np.arange(n) // 10, pa.int64()),
            "_row": pa.array(np.arange(n) % 10, pa.int32()),
            "_source_partition": pa.array(np.zeros(n), pa.int32()),
            "_source_offset": pa.array(np.arange(n), pa.int64()),
            "_source_row": pa.array(np.zeros(n), pa.int32()),
        }
    )


def call(*arguments: object) -> Any:
    """What the command prints as JSON; its errors are raised."""
    result = CliRunner().invoke(app, [str(a) for a in arguments] + ["--json"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return json.loads(result.output)


def show(*arguments: object) -> str:
    result = CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def archive(project: Path, name: str, table: pa.Table) -> None:
    stores = open_stores(load_config(project))
    stores.offline.write(f"{name}/a.parquet", table)
    file = DataFile(name, "2024-10-04", f"{name}/a.parquet", table.num_rows, 0, 0, 59)
    stores.registry.commit(f"a.{name}", 0, expected=0, progress=Progress(60), accounts=[], files=[file])
    stores.close()
