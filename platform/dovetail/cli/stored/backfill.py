"""``dovetail backfill``: features for past requests, by day."""

from __future__ import annotations

import sys
from pathlib import Path

from dovetail.app.jobs import BackfillRequest, open_backfill
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
) -> int:
    """Backfill, or show what would run."""
    loaded = load(project)
    stores = open_stores(loaded.config)
    try:
        backfill = open_backfill(loaded, stores, asked)
        if explain:
            sys.stdout.write(backfill.explain())
            return 0
        console = terminal(stderr=as_json)
        with DayProgress(console, asked.features) as show:
            result = backfill.run(first, last, on_day=show.day, on_step=show.step)
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
