"""Commands over what is stored, from backfill to quality. As in ``main.py``, only their arguments."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from dovetail.cli.options import EngineOption, MasterOption, ProjectOption, SceneOption, folder_target
from dovetail.cli.times import duration_us_of, time_us_of
from dovetail.platform.errors import ConfigError

__all__ = ["Visibility", "register"]


def register(app: typer.Typer) -> None:
    """Add the commands to ``app``."""
    for command in (backfill, bootstrap, consistency, labels, quality):
        app.command()(command)


class Visibility(StrEnum):
    """The events that a past request may see."""

    event_time = "event_time"
    as_served = "as_served"


def backfill(
    features: Annotated[str, typer.Argument(help="The feature set: a file of sql/, without .sql.")],
    out: Annotated[
        str, typer.Option(help="Folder (or fsspec URL) that gets day=YYYY-MM-DD/….parquet.", callback=folder_target)
    ],
    requests: Annotated[str, typer.Option(help="Past requests: `archive`, or a Parquet file or folder.")] = "archive",
    samples: Annotated[
        str | None, typer.Option(help="Add the columns to these samples: `archive`, or a Parquet file or folder.")
    ] = None,
    columns: Annotated[str, typer.Option(help="Comma-separated columns; all if left out.")] = "",
    visibility: Annotated[
        Visibility, typer.Option(help="Every event up to the request, or those it had been able to see.")
    ] = Visibility.event_time,
    first: Annotated[str | None, typer.Option("--from", help="First day, YYYY-MM-DD.")] = None,
    last: Annotated[str | None, typer.Option("--to", help="Last day, YYYY-MM-DD.")] = None,
    events: Annotated[
        list[str] | None, typer.Option(help="STREAM=PATH: read a stream's events there, not from the archive.")
    ] = None,
    threads: Annotated[
        int | None, typer.Option(help="Threads of DuckDB; all cores if left out.", min=1, max=1_024)
    ] = None,
    memory: Annotated[
        int, typer.Option(help="MiB that DuckDB may hold; beyond, it uses files.", min=64, max=2**32)
    ] = 1024,
    engine: EngineOption = None,
    master: MasterOption = None,
    explain: Annotated[bool, typer.Option("--explain", help="Print the SQL that would run, and stop.")] = False,
    scene: SceneOption = "",
    project: ProjectOption = Path(),
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Features for past requests, by day; what is done already is not done again."""
    from dovetail.app.jobs import BackfillRequest
    from dovetail.cli.stored.backfill import run
    from dovetail.features.batch.pieces import Limits

    asked = BackfillRequest(
        features,
        out,
        requests,
        samples,
        [name.strip() for name in columns.split(",") if name.strip()],
        visibility.value,
        _pairs("--events", events or []),
        Limits(memory_bytes=memory << 20, threads=threads),
    )
    for option, day in (("--from", first), ("--to", last)):
        _require_day(option, day)
    where = None if engine is None else engine.value
    choices = {"first": first, "last": last, "engine": where, "master": master}
    code = run(project, asked, explain=explain, as_json=as_json, scene=scene, **choices)
    raise typer.Exit(code)


def bootstrap(
    view: Annotated[str, typer.Argument(help="The streaming view: a file of sql/, without .sql.")],
    replace: Annotated[bool, typer.Option("--replace", help="Build the state again where the view has some.")] = False,
    events: Annotated[
        list[str] | None,
        typer.Option(help="STREAM=PATH: archive a stream's past from there first, of before its own rows."),
    ] = None,
    before: Annotated[
        str | None, typer.Option(help="With --events: leave out its rows from this time on, like 2024-02-29T12:00:00Z.")
    ] = None,
    engine: EngineOption = None,
    master: MasterOption = None,
    project: ProjectOption = Path(),
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Fill a view's online state from the archived event log; the stream then goes on from there."""
    from dovetail.cli.stored.bootstrap import run

    if before is not None and not events:
        raise ConfigError("--before: it cuts the rows of --events STREAM=PATH; give those, or leave it out")
    before_us = None if before is None else time_us_of("--before", before)
    past, where = _pairs("--events", events or []), None if engine is None else engine.value
    code = run(project, view, past, before_us, replace=replace, as_json=as_json, engine=where, master=master)
    raise typer.Exit(code)


def consistency(
    days: Annotated[list[str] | None, typer.Option("--day", help="Only this day, YYYY-MM-DD; may be repeated.")] = None,
    threads: Annotated[
        int | None, typer.Option(help="Threads of DuckDB; all cores if left out.", min=1, max=1_024)
    ] = None,
    memory: Annotated[
        int, typer.Option(help="MiB that DuckDB may hold; beyond, it uses files.", min=64, max=2**32)
    ] = 1024,
    witness: Annotated[
        int,
        typer.Option(
            help="Served rows to compute by the definitions' own text, too, in plain DuckDB.", min=0, max=2**53
        ),
    ] = 0,
    engine: EngineOption = None,
    master: MasterOption = None,
    scene: SceneOption = "",
    project: ProjectOption = Path(),
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Recompute every stored snapshot; exit code 1 when a value is not the one that was served."""
    from dovetail.cli.stored.consistency import run
    from dovetail.features.batch.pieces import Limits

    for day in days or []:
        _require_day("--day", day)
    limits = Limits(memory_bytes=memory << 20, threads=threads)
    where = None if engine is None else engine.value
    code = run(project, days, limits, witness=witness, as_json=as_json, engine=where, master=master, scene=scene)
    raise typer.Exit(code)


def labels(
    target: Annotated[str, typer.Option(help="One of labels.targets; the primary one if left out.")] = "",
    scene: SceneOption = "",
    share: Annotated[float, typer.Option(help="The share of labels that a window shall catch.")] = 0.95,
    windows: Annotated[list[str] | None, typer.Option("--window", help="A window to judge, repeatable: 15m.")] = None,
    slices: Annotated[list[str] | None, typer.Option("--slice", help="A feature to slice by, repeatable.")] = None,
    since: Annotated[str, typer.Option(help="From where time counts: request, or a kind of label.")] = "request",
    horizon: Annotated[
        str | None, typer.Option(help="The longest delay; as long as a tenth of the rows were watched if left out.")
    ] = None,
    project: ProjectOption = Path(),
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """How long labels take, what each window would catch and cost, and which one to take."""
    from dovetail.cli.stored.labels import run

    windows_us = [duration_us_of("--window", text) for text in windows or []]
    horizon_us = None if horizon is None else duration_us_of("--horizon", horizon)
    code = run(
        project,
        target,
        since=since,
        slices=slices or [],
        windows_us=windows_us,
        wanted=share,
        horizon_us=horizon_us,
        as_json=as_json,
        scene=scene,
    )
    raise typer.Exit(code)


def quality(
    first: Annotated[str | None, typer.Option("--from-day", help="First day to judge, YYYY-MM-DD, UTC.")] = None,
    last: Annotated[str | None, typer.Option("--to-day", help="Last day to judge, included.")] = None,
    project: ProjectOption = Path(),
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Judge the archived data, window by window, by the quality section; exit code 1 when an alert is an error."""
    from dovetail.cli.stored.quality import run

    _require_day("--from-day", first)
    _require_day("--to-day", last)
    raise typer.Exit(run(project, first=first, last=last, as_json=as_json))


def _pairs(option: str, texts: Sequence[str]) -> dict[str, str]:
    pairs = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not (name and equals and value):
            raise ConfigError(f"{option} {text!r}: write NAME=PATH")
        pairs[name] = value
    return pairs


def _require_day(option: str, day: str | None) -> None:
    try:
        if day is not None:
            date.fromisoformat(day)
    except ValueError:
        raise ConfigError(f"{option} {day!r}: write a day like 2024-02-29") from None
