"""``dovetail backfill``: a progress bar on a terminal, a line a day otherwise."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from dovetail.features import load
from dovetail.platform.app import open_stores
from dovetail.platform.cli.main import print_json
from dovetail.platform.jobs import BackfillRequest, open_backfill

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
        console = Console(stderr=as_json)
        with ExitStack() as stack:
            show = stack.enter_context(_Show(console))
            result = backfill.run(first, last, on_day=show.day, on_step=show.step)
        if as_json:
            done = {"out": backfill.name, "rows": result.rows, "written": result.written}
            print_json({**done, "done_before": result.done_before})
        else:
            console.print(
                f"{backfill.name}: {len(result.written)} days written, {result.rows:,} rows; "
                f"{len(result.done_before)} days were done before",
                highlight=False,
                soft_wrap=True,
            )
    finally:
        stores.close()
    return 0


class _Show:
    """Days done of all, and what is being done: a bar on a terminal, a line per day otherwise."""

    def __init__(self, console: Console) -> None:
        self._console = console
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        self._bar = Progress(
            *columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console, disable=not console.is_terminal
        )
        self._task = self._bar.add_task("backfill", total=None)

    def __enter__(self) -> _Show:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def step(self, what: str, done: int, of: int) -> None:
        """Work within a span of days."""
        self._bar.update(self._task, description=f"{what} {done}/{of}" if of else f"{what} {done}")

    def day(self, day: str, done: int, of: int) -> None:
        """A day is committed."""
        self._bar.update(self._task, completed=done, total=of, description=day)
        if not self._console.is_terminal:
            self._console.print(f"{day}  {done} of {of} days", highlight=False)
