"""``dovetail consistency``: stored snapshots against their recomputation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from dovetail.app.reports import consistency_of
from dovetail.app.storage import open_stores
from dovetail.cli.output import print_json
from dovetail.cli.stored.progress_bar import DayProgress
from dovetail.features import load
from dovetail.features.batch.pieces import Limits
from dovetail.features.stored.consistency import Consistency

__all__ = ["run"]


def run(project: Path, days: Sequence[str] | None, limits: Limits, *, as_json: bool) -> int:
    """0 when every value is the one that was served, 1 when one is not."""
    loaded = load(project)
    stores = open_stores(loaded.config)
    console = Console(stderr=as_json)
    try:
        with DayProgress(console, "consistency") as show:
            found = consistency_of(loaded, stores, days=days, limits=limits, on_day=show.day)
    finally:
        stores.close()
    if as_json:
        print_json(found.to_json())
    else:
        _print(console, found)
    return 0 if found.mismatched == 0 else 1


def _print(console: Console, found: Consistency) -> None:
    table = Table(title="served against recomputed")
    for column in ("feature", "compared", "equal", "late explains", "mismatched"):
        table.add_column(column, justify="left" if column == "feature" else "right")
    for f in found.features:
        table.add_row(f.feature, f"{f.compared:,}", f"{f.equal:,}", f"{f.late:,}", f"{f.mismatched:,}")
    console.print(table)
    for f in found.features:
        for example in f.examples:
            console.rule(f"{f.feature}, request {example.request_id}, item {example.item_id}", align="left")
            console.print(
                f"at {example.request_time}: served {example.served}, recomputed {example.recomputed}",
                highlight=False,
                markup=False,
            )
        if f.examples:
            console.print("the last one by hand:", highlight=False)
            console.print(f.examples[-1].sql, highlight=False, markup=False, soft_wrap=True)
    verdict = "[bold green]holds[/]" if found.mismatched == 0 else "[bold red]FAILS[/]"
    console.print(
        f"consistency  {verdict}  {found.compared:,} served values recomputed, {found.mismatched:,} mismatched, "
        f"{found.late:,} explained by late events"
    )
