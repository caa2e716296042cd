"""``dovetail labels``: how long labels take, and what a window catches and costs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from dovetail.app.reports import delays_of
from dovetail.app.reports.label_delay_report import QUANTILES, KindDelays, LabelDelays
from dovetail.app.storage import open_stores
from dovetail.cli.listing import Column, Listing
from dovetail.cli.output import print_json, terminal
from dovetail.cli.times import short_duration
from dovetail.features import load

__all__ = ["run"]


def run(
    project: Path,
    target: str,
    *,
    since: str,
    slices: Sequence[str],
    windows_us: Sequence[int],
    wanted: float,
    horizon_us: int | None,
    as_json: bool,
    scene: str = "",
) -> int:
    """Measure and show."""
    loaded = load(project).scene(scene)
    stores = open_stores(loaded.config)
    try:
        found = delays_of(
            loaded, stores, target=target, since=since, slices=slices, windows_us=windows_us, wanted=wanted,
            horizon_us=horizon_us,
        )  # fmt: skip
    finally:
        stores.close()
    if as_json:
        print_json(found.to_json())
    else:
        _print(terminal(), found)
    return 0


def _print(console: Console, found: LabelDelays) -> None:
    columns = [
        Column("label"), Column("slice", "prose"), Column("rows", "number"), Column("labels", "number"),
        Column("share", "number"), *(Column(f"{q:.0%} in", "number") for q in QUANTILES),
    ]  # fmt: skip
    table = Listing(f"how long labels take, from the {found.since} on", columns)
    for each in found.kinds:
        times = [short_duration(each.quantiles[q]) if q in each.quantiles else "-" for q in QUANTILES]
        table.add(each.kind, each.slice or "(all)", f"{each.rows:,}", f"{each.labels:,}", f"{each.share:.2%}", *times)
    table.print(console)
    for each in found.kinds:
        if each.windows and not each.slice:
            _windows(console, each, found)
    for each in found.kinds:
        if each.kind == found.positive and not each.slice and each.needed_us is not None:
            said = f"{found.wanted:.4g} of the labels {each.kind!r} come within {short_duration(each.needed_us)}"
            if each.recommended_us is not None:
                said += f": recommended is a window of {short_duration(each.recommended_us)}"
                declared = ", ".join(short_duration(us) for us in found.declared_us)
                said += f"; declared is {declared}"
            console.print(f"{said}. Labels later than {short_duration(each.horizon_us)} are in no share")


def _windows(console: Console, each: KindDelays, found: LabelDelays) -> None:
    titles = ("catches", "at least", "at most", "sample after", "95% after")
    columns = [Column("window", "number"), *(Column(name, "number") for name in titles), Column("", "prose")]
    table = Listing(f"windows for {each.kind!r}", columns)
    for window in each.windows:
        waits = [short_duration(us) if us is not None else "-" for us in (window.wait_us, window.wait_95_us)]
        notes = ["declared"] if window.window_us in found.declared_us else []
        notes += ["recommended"] if window.window_us == each.recommended_us else []
        shares = [f"{share:.2%}" for share in (window.caught, window.low, window.high)]
        table.add(short_duration(window.window_us), *shares, *waits, ", ".join(notes))
    table.print(console)
