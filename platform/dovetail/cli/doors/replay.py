"""``dovetail replay``: a historic log, in event time."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console

from dovetail.app.doors.door import door_of
from dovetail.app.replay.conductor import Replayed, replay
from dovetail.app.replay.prepared import ReplayInput
from dovetail.cli.listing import Column, Listing
from dovetail.cli.output import print_json, terminal
from dovetail.cli.stored.progress_bar import DayProgress
from dovetail.features import load
from dovetail.platform.config.durations import parse_duration
from dovetail.platform.errors import ConfigError

__all__ = ["run"]


def run(project: Path, files: Mapping[str, str], arrival: str, slice_: str, *, until_idle: bool, as_json: bool) -> int:
    """Replay; 0 when it is over."""
    loaded = load(project)
    for name in files:
        dataset, _, scene = name.partition(".")
        if dataset == "requests":
            loaded.config.of_scene(scene)  # refuses a scene that there is not
    inputs = [ReplayInput(door_of(loaded, name, name), source, arrival) for name, source in files.items()]
    slice_us = _slice_us(slice_)
    console = terminal(stderr=as_json)
    with DayProgress(console, "replay") as show:

        def sent(done: int, of: int, time_us: int) -> None:
            show.rows(done, of)
            show.say(f"{datetime.fromtimestamp(time_us // 1_000_000, UTC):%Y-%m-%d %H:%M}")

        done = asyncio.run(
            replay(
                loaded,
                inputs,
                slice_us=slice_us,
                until_idle=until_idle,
                on_prepared=lambda name, rows: show.say(f"reading {name}: {rows:,} rows"),
                on_slice=sent,
            )
        )
    if as_json:
        print_json(_as_json(done))
    else:
        _print(console, done)
    return 0


def _slice_us(text: str) -> int:
    try:
        slice_us = parse_duration(text)
    except ValueError as error:
        raise ConfigError(f"--slice {text!r}: {error}") from None
    if slice_us <= 0:
        raise ConfigError(f"--slice {text!r}: give a time above 0")
    return slice_us


def _as_json(done: Replayed) -> dict[str, Any]:
    inputs = {
        each.name: {
            "rows": each.rows,
            "without_arrival": each.rows - each.arrivals,
            **(
                {
                    "out_of_order": late.out_of_order,
                    "beyond_lateness": late.beyond,
                    "latest_seconds": late.most_us / 1e6,
                }
                if (late := done.lateness.get(each.name)) is not None
                else {}
            ),
        }
        for each in done.plan.inputs
    }
    return {"inputs": inputs, "slices": done.slices, "dead_letters": done.dead, "finished_before": done.before}


def _print(console: Console, done: Replayed) -> None:
    if done.before:
        console.print("this replay is over: an earlier run has sent all of it; to replay again, begin with other state")
        return
    numbers = ("rows", "out of order", "latest by", "beyond allowed lateness")
    table = Listing("replayed", [Column("input"), *(Column(name, "number") for name in numbers)])
    for each in done.plan.inputs:
        late = done.lateness[each.name]
        most = f"{late.most_us / 1e6:,.3f} s" if late.most_us else ""
        table.add(each.name, f"{each.rows:,}", f"{late.out_of_order:,}", most, f"{late.beyond:,}")
    table.print(console)
    for each in done.plan.inputs:
        if missing := each.rows - each.arrivals:
            console.print(
                f"warning: {each.name}: {missing:,} rows have no {each.arrival}, and were sent as if they had arrived "
                "at their event time: nothing of them is late here, and features are as fresh as they can be"
            )
    said = "no dead letters" if not done.dead else f"{done.dead:,} dead letters; `dovetail dead-letters` shows them"
    console.print(f"{done.slices:,} slices, {said}")
