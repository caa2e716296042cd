"""Commands that bring rows in. As in ``main.py``, only their arguments."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dovetail.cli.options import JsonOption, ProjectOption
from dovetail.platform.errors import ConfigError

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the commands to ``app``."""
    app.command()(send)
    app.command()(replay)


def send(
    topic: Annotated[
        str,
        typer.Argument(
            help="A stream, `requests` (`requests.NAME` of a scene), a kind of labels, or the topic of one."
        ),
    ],
    file: Annotated[
        str | None, typer.Argument(help="JSON lines, CSV, Parquet or Arrow; `-` reads standard input.")
    ] = None,
    form: Annotated[
        str | None, typer.Option("--format", help="jsonl, csv, parquet or arrow; by the file's name if left out.")
    ] = None,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Send the good rows although others are bad.")] = False,
    watermark: Annotated[
        str | None, typer.Option(help="After the rows, announce that nothing older than this time (UTC) follows.")
    ] = None,
    idempotency_key: Annotated[
        str | None, typer.Option(help="Name this call: sent again under its name, its rows are the same events.")
    ] = None,
    project: ProjectOption = Path(),
    as_json: JsonOption = False,
) -> None:
    """Send the rows of a file to a topic, once each of them has been checked as the agents would."""
    from dovetail.cli.doors.send import run

    if file is None and watermark is None:
        raise ConfigError("FILE: say which rows to send, or give --watermark")
    raise typer.Exit(run(project, topic, file, form, watermark, idempotency_key, skip_bad=skip_bad, as_json=as_json))


def replay(
    requests: Annotated[
        str | None,
        typer.Option(help="The requests: a file, or a DuckDB query over files; may be left out beside --scene."),
    ] = None,
    stream: Annotated[
        list[str] | None, typer.Option("--stream", help="NAME=FILE: the events of a stream. May be repeated.")
    ] = None,
    labels: Annotated[
        list[str] | None, typer.Option("--labels", help="KIND=FILE: labels of a kind. May be repeated.")
    ] = None,
    scene: Annotated[
        list[str] | None, typer.Option("--scene", help="NAME=FILE: the requests of a scene. May be repeated.")
    ] = None,
    arrival: Annotated[str, typer.Option(help="The column that says when a row arrived, if a file has it.")] = (
        "arrival_time"
    ),
    slice_: Annotated[str, typer.Option("--slice", help="The most event time sent in one step.")] = "15m",
    until_idle: Annotated[
        bool, typer.Option("--until-idle", help="At the end, release what waits for later labels.")
    ] = False,
    project: ProjectOption = Path(),
    as_json: JsonOption = False,
) -> None:
    """Replay a historic log from Parquet, CSV or JSON lines in event time; the same command goes on after a crash."""
    from dovetail.cli.doors.replay import run

    if requests is None and not scene:
        raise ConfigError("there are no requests to replay: give --requests FILE, or --scene NAME=FILE for a scene's")
    asked = {} if requests is None else {"requests": requests}
    asked |= {f"requests.{name}": file for name, file in _pairs("--scene", scene or []).items()}
    files = asked | _pairs("--stream", stream or []) | _pairs("--labels", labels or [])
    if len(files) != (requests is not None) + len(scene or []) + len(stream or []) + len(labels or []):
        raise ConfigError("--scene, --stream, --labels: a name is given twice; put the rows together with a query")
    raise typer.Exit(run(project, files, arrival, slice_, until_idle=until_idle, as_json=as_json))


def _pairs(option: str, texts: list[str]) -> dict[str, str]:
    pairs = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not (name and equals and value):
            raise ConfigError(f"{option} {text!r}: write NAME=FILE")
        pairs[name] = value
    return pairs
