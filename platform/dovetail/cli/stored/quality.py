"""``dovetail quality``: the archived data window by window, and the windows that are not like those before."""

from __future__ import annotations

import sys
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console

from dovetail.app.quality.alerts import Quality
from dovetail.app.quality.project_sources import quality_of
from dovetail.app.quality.telling import log_alerts, post_alerts
from dovetail.app.quality.webhook import Delivery, webhook_of
from dovetail.app.storage import open_stores
from dovetail.cli.listing import Column, Listing
from dovetail.cli.output import print_json, terminal, verdict
from dovetail.cli.stored.progress_bar import DayProgress
from dovetail.features import load
from dovetail.platform.archive.dayfiles import DAY_US, day_start_us
from dovetail.platform.logs import logs_to

__all__ = ["run"]


def run(project: Path, *, first: str | None, last: str | None, as_json: bool) -> int:
    """Judge, show and tell; 1 when an alert is an error, whether or not it could be told."""
    loaded = load(project)
    webhook, settings = webhook_of(loaded.config.quality), loaded.config.worker
    low_us = None if first is None else day_start_us(first)
    high_us = None if last is None else day_start_us(last) + DAY_US - 1
    stores = open_stores(loaded.config)
    console = terminal(stderr=as_json)
    try:
        with DayProgress(console, "quality") as show:
            found = quality_of(
                loaded, stores, first_us=low_us, last_us=high_us,
                on_window=lambda start, done, of: show.day(_time(start), done, of),
            )  # fmt: skip
    finally:
        stores.close()
    with logs_to(sys.stderr, settings.log_level, as_json=settings.log_json):
        log_alerts(found)
        posted = post_alerts(loaded.config.name, found, webhook)
    if as_json:
        print_json({**found.to_json(), "webhook": None if posted is None else asdict(posted)})
    else:
        _print(console, found)
        if posted is not None:
            _print_delivery(console, posted)
    return 1 if found.failed else 0


def _print(console: Console, found: Quality) -> None:
    _newest(found).print(console)
    columns = [Column("window"), Column("severity"), Column("measure"), Column("alert", "prose")]
    table = Listing("alerts", columns)
    for alert in found.alerts:
        table.add(_time(alert.window_us), alert.severity, alert.measure, alert.text)
    if found.alerts:
        table.print(console)
    errors = sum(alert.severity == "error" for alert in found.alerts)
    counts = f"  {len(found.windows)} windows, {errors} errors, {len(found.alerts) - errors} warnings"
    console.print("quality      ", verdict(not found.failed), counts, sep="")


def _print_delivery(console: Console, posted: Delivery) -> None:
    problems = f" ({'; '.join(posted.problems)})" if posted.problems else ""
    said = "posted to" if posted.delivered else "NOT posted to"
    attempts = "1 attempt" if posted.attempts == 1 else f"{posted.attempts} attempts"
    console.print(f"webhook      {said} {posted.to} in {attempts}{problems}")


def _newest(found: Quality) -> Listing:
    """The last window: features as served beside what they are trained on, and other columns."""
    last = [row for row in found.profiles.to_pylist() if _us(row["window"]) == found.windows[-1]]
    trained = {row["column"]: row for row in last if row["dataset"] == "samples"}
    numbers = ("NULL", "NULL before", "PSI", "5%", "median", "95%", "different", "trained NULL", "trained median")
    title = f"columns in the window of {_time(found.windows[-1])}, against those before"
    table = Listing(title, [Column("column", "prose", least=12), *(Column(name, "number") for name in numbers)])
    for row in last:
        if row["dataset"] == "samples" and row["column"] in {r["column"] for r in last if r["dataset"] == "snapshots"}:
            continue
        beside = trained.get(row["column"]) if row["dataset"] == "snapshots" else None
        table.add(
            f"{row['dataset']}.{row['column']}", _share(row["null_share"]), _share(row["reference_null_share"]),
            _number(row["psi"]), _number(row["q05"]), _number(row["q50"]), _number(row["q95"]), f"{row['distinct']:,}",
            _share(beside and beside["null_share"]), _number(beside and beside["q50"]),
        )  # fmt: skip
    return table


def _us(moment: datetime) -> int:
    return round(moment.replace(tzinfo=UTC).timestamp()) * 1_000_000


def _time(us: int) -> str:
    moment = datetime.fromtimestamp(us / 1e6, UTC)
    return f"{moment:%Y-%m-%d}" if us % DAY_US == 0 else f"{moment:%Y-%m-%d %H:%M}"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"
