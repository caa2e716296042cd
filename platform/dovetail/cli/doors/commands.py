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


def send(
    topic: Annotated[str, typer.Argument(help="A stream, `requests`, a kind of labels, or the topic of one.")],
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
    project: ProjectOption = Path(),
    as_json: JsonOption = False,
) -> None:
    """Send the rows of a file to a topic, once each of them has been checked as the agents would."""
    from dovetail.cli.doors.send import run

    if file is None and watermark is None:
        raise ConfigError("FILE: say which rows to send, or give --watermark")
    raise typer.Exit(run(project, topic, file, form, watermark, skip_bad=skip_bad, as_json=as_json))
