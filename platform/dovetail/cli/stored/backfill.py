"""``dovetail backfill``: features for past requests, by day."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pyarrow as pa

from dovetail.app.jobs import BackfillRequest, day_engine, open_backfill
from dovetail.app.openlineage.emitting import lineage_run
from dovetail.app.openlineage.named_datasets import dataset_at, of_backfill
from dovetail.app.storage import open_stores
from dovetail.cli.output import print_json, terminal
from dovetail.cli.stored.progress_bar import DayProgress
from dovetail.features import load

__all__ = ["run"]


def run(
    project: Path,
    asked: BackfillRequest,
    *,
    first: str | None,
    last: str | None,
    explain: bool,
    as_json: bool,
    engine: str | None = None,
    master: str | None = None,
    scene: str = "",
) -> int:
    """Backfill, or show what would run; ``engine`` and ``master`` instead of those of ``[batch]``."""
    loaded = load(project).scene(scene)
    stores = open_stores(loaded.config)
    try:
        backfill = open_backfill(loaded, stores, asked)
        if explain:
            sys.stdout.write(backfill.explain())
            return 0
        console = terminal(stderr=as_json)
        inputs, made = of_backfill(backfill, asked, stores.offline), [(c.name, c.type) for c in backfill.columns]
        job = loaded.config.in_scene(f"backfill.{asked.features}")
        with (
            day_engine(loaded.config.batch, engine, master) as days,
            DayProgress(console, asked.features) as show,
            lineage_run(loaded.config, job, "BACKFILL", inputs, backfill.features.sql) as told,
        ):
            result = replace(backfill, engine=days).run(first, last, on_day=show.day, on_step=show.step)
            told.outputs.append(dataset_at(backfill.name, pa.schema(made), result.rows))
        if as_json:
            done = {"out": backfill.name, "rows": result.rows, "written": result.written}
            print_json({**done, "done_before": result.done_before})
        else:
            console.print(
                f"{backfill.name}: {len(result.written)} days written, {result.rows:,} rows; "
                f"{len(result.done_before)} days were done before"
            )
    finally:
        stores.close()
    return 0
