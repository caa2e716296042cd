"""``dovetail consistency``: stored snapshots against their recomputation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.text import Text

from dovetail.app.reports import consistency_of
from dovetail.app.storage import open_stores
from dovetail.cli.listing import Column, Listing
from dovetail.cli.output import print_json, terminal, verdict
from dovetail.cli.stored.progress_bar import DayProgress
from dovetail.features import load
from dovetail.features.batch.pieces import Limits
from dovetail.features.stored.consistency import Consistency

__all__ = ["run", "summary"]


def run(project: Path, days: Sequence[str] | None, limits: Limits, *, as_json: bool) -> int:
    """0 when every value is the one that was served, 1 when one is not."""
    loaded = load(project)
    stores = open_stores(loaded.config)
    console = terminal(stderr=as_json)
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
    numbers = ("compared", "equal", "late explains", "mismatched")
    columns = [Column("feature", "prose"), *(Column(name, "number") for name in numbers)]
    table = Listing("served against recomputed", columns)
    for f in found.features:
        table.add(f.feature, f"{f.compared:,}", f"{f.equal:,}", f"{f.late:,}", f"{f.mismatched:,}")
    table.print(console)
    for f in found.features:
        for example in f.examples:
            console.print(f"{f.feature}, request {example.request_id}, item {example.item_id}", style="bold")
            console.print(f"at {example.request_time}: served {example.served}, recomputed {example.recomputed}")
        if f.examples:
            console.print("the last one by hand:")
            console.print(f.examples[-1].sql, soft_wrap=True)
    console.print(summary(found))


def summary(found: Consistency) -> Text:
    """The verdict in one line, with how many values were compared, mismatched and late."""
    counts = f"{found.compared:,} served values recomputed, {found.mismatched:,} mismatched, "
    late = f"{found.late:,} explained by late events"
    return Text.assemble("consistency  ", verdict(found.mismatched == 0), "  ", counts, late)
