"""Writes tables into docs/benchmarks-peers.md, each between two comments that name its comparison."""

from __future__ import annotations

import datetime as dt
import os
import platform
import re
from pathlib import Path

from .environments import ROOT
from .measuring import Measured, Outcome

PAGE = ROOT / "docs" / "benchmarks-peers.md"


def processor() -> str:
    """The processor's name, where the system tells it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def text(outcome: Outcome, day: dt.date) -> str:
    """The table of an outcome, how answers agree, and where and when it was measured."""
    ours = outcome.measured[0]
    rate = f"{outcome.comparison.unit} per processor second"
    lines = [
        outcome.about,
        "",
        f"| | processor s (all rounds) | {rate} | Dovetail is | s on the clock |",
        "|---|---|---|---|---|",
        *(_row(each, ours, outcome.rows) for each in outcome.measured),
        "",
    ]
    lines += [f"- {each.title}: {each.said}" for each in outcome.measured if each.said]
    lines += [f"- not measured: {each}" for each in outcome.left_out]
    versions = {name: number for each in outcome.measured for name, number in each.versions.items()}
    lines += [
        "",
        f"{day.isoformat()}, {processor()}, {os.cpu_count()} cores, load {outcome.load[0]:.0f} to {outcome.load[1]:.0f}"
        f"; Python {platform.python_version()}, "
        + ", ".join(f"{name} {number}" for name, number in sorted(versions.items()))
        + ".",
    ]
    return "\n".join(lines)


def _row(each: Measured, ours: Measured, rows: int) -> str:
    rounds = ", ".join(f"{seconds:.2f}" for seconds in each.processor)
    ratio = each.seconds / ours.seconds
    beside = f"{'ahead' if ratio >= 1 else 'behind'}: {ratio:.2f} x"
    if each.title.startswith("Dovetail"):
        beside = "" if each is ours else f"({ratio:.2f} x the first row)"
    clock = min(each.clock)
    return f"| {each.title} | {each.seconds:.2f} ({rounds}) | {rows / each.seconds:,.0f} | {beside} | {clock:.2f} |"


def write(name: str, made: str, page: Path = PAGE) -> None:
    """Put a comparison's text into its place in the page.

    Raises:
        ValueError: the page has no place for it.
    """
    begin, end = f"<!-- {name}: written by python -m benchmarks.peers -->", f"<!-- end of {name} -->"
    whole = page.read_text(encoding="utf-8")
    changed, places = re.subn(
        re.escape(begin) + ".*?" + re.escape(end), lambda _: f"{begin}\n{made}\n{end}", whole, flags=re.DOTALL
    )
    if places != 1:
        raise ValueError(f"{page} has {places} places for {name}; write {begin} and {end} once")
    page.write_text(changed, encoding="utf-8")
