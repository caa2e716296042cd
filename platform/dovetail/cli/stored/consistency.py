"""``dovetail consistency``: stored snapshots against their recomputation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.text import Text

from dovetail.app.jobs import day_engine
from dovetail.app.reports import consistency_of, witness_of
from dovetail.app.reports.verdict_log import log_consistency
from dovetail.app.storage import open_stores
from dovetail.cli.listing import Column, Listing
from dovetail.cli.output import print_json, terminal, verdict
from dovetail.cli.stored.progress_bar import DayProgress
from dovetail.features import load
from dovetail.features.batch.pieces import Limits
from dovetail.features.batch.witness import Witnessed
from dovetail.features.stored.consistency import Consistency
from dovetail.platform.clock import SystemClock

__all__ = ["run", "summary", "witnessed"]


def run(
    project: Path,
    days: Sequence[str] | None,
    limits: Limits,
    *,
    witness: int,
    as_json: bool,
    engine: str | None = None,
    master: str | None = None,
    scene: str = "",
) -> int:
    """0 when every value is the one that was served, 1 when one is not; ``witness`` rows are witnessed, too.

    ``engine`` and ``master`` instead of those of ``[batch]``; the witness is this process.
    """
    loaded = load(project).scene(scene)
    stores = open_stores(loaded.config)
    console = terminal(stderr=as_json)
    try:
        with day_engine(loaded.config.batch, engine, master) as where, DayProgress(console, "consistency") as show:
            found = consistency_of(
                loaded, stores, days=days, limits=limits, engine=where, on_day=show.day, on_step=show.step
            )
        testimony = witness_of(loaded, stores, witness) if witness else None
        log_consistency(stores.registry, SystemClock(), found, testimony, None if days is None else len(days), scene)
    finally:
        stores.close()
    if as_json:
        print_json(found.to_json() | ({} if testimony is None else {"witness": testimony.to_json()}))
    else:
        _print(console, found)
        if testimony is not None:
            for example in testimony.examples:
                console.print(f"  {example}")
            console.print(witnessed(testimony))
    return 0 if found.mismatched == 0 and (testimony is None or testimony.mismatched == 0) else 1


def _print(console: Console, found: Consistency) -> None:
    numbers = ("compared", "equal", "late explains", "mismatched")
    columns = [Column("feature", "prose"), *(Column(name, "number") for name in numbers)]
    table = Listing("served against recomputed", columns)
    for f in found.features:
        table.add(f.feature, f"{f.compared:,}", f"{f.equal:,}", f"{f.late:,}", f"{f.mismatched:,}")
    table.print(console)
    for f in found.features:
        for example in f.examples:
            console.print(f"{f.feature}, {example.where}", style="bold")
            console.print(f"at {example.request_time}: served {example.served}, recomputed {example.recomputed}")
        if f.examples and f.examples[-1].sql:
            console.print("the last one by hand:")
            console.print(f.examples[-1].sql, soft_wrap=True)
    console.print(summary(found))


def summary(found: Consistency) -> Text:
    """The verdict in one line, with how many values were compared, mismatched and late."""
    counts = f"{found.compared:,} served values recomputed, {found.mismatched:,} mismatched, "
    late = f"{found.late:,} explained by late events"
    return Text.assemble("consistency  ", verdict(found.mismatched == 0), "  ", counts, late)


def witnessed(found: Witnessed) -> Text:
    """The independent witness's verdict, in one line."""
    counts = f"{found.compared:,} values of {found.requests:,} served rows by the definitions' own text in DuckDB, "
    return Text.assemble(
        "witness      ", verdict(found.mismatched == 0), "  ", counts, f"{found.mismatched:,} mismatched"
    )
