"""Commands to look at rows. As in ``main.py``, only their arguments."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dovetail.cli.options import JsonOption, ProjectOption, SceneOption, file_target, folder_target
from dovetail.platform.errors import ConfigError

if TYPE_CHECKING:
    from dovetail.cli.looking.shown import Shown

__all__ = ["register"]

LimitOption = Annotated[
    int | None,
    typer.Option("--limit", "-n", help="At most so many rows; 20 in a table, all otherwise.", min=1, max=2**53),
]
KeyOption = Annotated[list[str] | None, typer.Option("--key", help="Only rows of this key; may be repeated.")]
WhereOption = Annotated[str | None, typer.Option(help="A condition on the columns, in DuckDB's SQL.")]
ColumnsOption = Annotated[str, typer.Option(help="Comma-separated columns; all if left out.")]
FormatOption = Annotated[str | None, typer.Option("--format", help="table, jsonl or parquet.")]
OutOption = Annotated[Path | None, typer.Option(help="The Parquet file to write.", callback=file_target)]
FollowOption = Annotated[bool, typer.Option("--follow", "-f", help="Rows as they come, from now on, until stopped.")]


def register(app: typer.Typer) -> None:
    """Add the commands to ``app``."""
    app.command()(samples)
    app.command()(snapshots)
    app.command("dead-letters")(dead_letters)
    app.command()(online)
    app.command()(export)


def samples(
    target: Annotated[str, typer.Option(help="One of labels.targets; the primary one if left out.")] = "",
    key: KeyOption = None,
    where: WhereOption = None,
    columns: ColumnsOption = "",
    limit: LimitOption = None,
    form: FormatOption = None,
    out: OutOption = None,
    follow: FollowOption = False,
    scene: SceneOption = "",
    project: ProjectOption = Path(),
) -> None:
    """Show samples, oldest first. A key is REQUEST_ID or REQUEST_ID/ITEM_ID."""
    from dovetail.cli.looking.made import run

    shown = _shown(key, where, columns, limit, form, out, follow=follow)
    raise typer.Exit(run(project, "samples", target, shown, scene))


def snapshots(
    key: KeyOption = None,
    where: WhereOption = None,
    columns: ColumnsOption = "",
    limit: LimitOption = None,
    form: FormatOption = None,
    out: OutOption = None,
    follow: FollowOption = False,
    scene: SceneOption = "",
    project: ProjectOption = Path(),
) -> None:
    """Show snapshots, oldest first: features as they were served. A key is REQUEST_ID or REQUEST_ID/ITEM_ID."""
    from dovetail.cli.looking.made import run

    shown = _shown(key, where, columns, limit, form, out, follow=follow)
    raise typer.Exit(run(project, "snapshots", "", shown, scene))


def dead_letters(
    resend: Annotated[
        bool, typer.Option("--resend", help="Send the messages of these letters again, each once, after a repair.")
    ] = False,
    key: KeyOption = None,
    where: WhereOption = None,
    columns: ColumnsOption = "",
    limit: LimitOption = None,
    form: FormatOption = None,
    out: OutOption = None,
    follow: FollowOption = False,
    as_json: Annotated[bool, typer.Option("--json", help="With --resend: print the counts as JSON.")] = False,
    project: ProjectOption = Path(),
) -> None:
    """Show what could not be used, and why. A key is that of the message."""
    from dovetail.cli.looking.letters import run, run_resend

    if resend:
        if columns or form or out or follow:
            raise ConfigError("--resend shows nothing: leave out --columns, --format, --out and --follow")
        shown = _shown(key, where, "", limit, "jsonl", None, follow=False)
        raise typer.Exit(run_resend(project, shown.asked, as_json=as_json))
    raise typer.Exit(run(project, _shown(key, where, columns, limit, form, out, follow=follow)))


def online(
    view: Annotated[str, typer.Argument(help="The streaming view: a file of sql/, without .sql.")],
    key: Annotated[
        list[str] | None, typer.Option("--key", help="A key; several columns separated by commas. May be repeated.")
    ] = None,
    at: Annotated[str | None, typer.Option(help="As of this time (UTC); the newest event's if left out.")] = None,
    where: WhereOption = None,
    columns: ColumnsOption = "",
    limit: LimitOption = None,
    form: FormatOption = None,
    out: OutOption = None,
    project: ProjectOption = Path(),
) -> None:
    """Show the values that a streaming view would serve now, or at a given time."""
    from dovetail.cli.looking.online import run

    raise typer.Exit(run(project, view, key or [], at, _shown(None, where, columns, limit, form, out, follow=False)))


def export(
    out: Annotated[
        Path, typer.Argument(help="The folder; a file for each day of request_time goes there.", callback=folder_target)
    ],
    form: Annotated[str, typer.Option("--format", help="parquet, libsvm or tfrecord.")] = "parquet",
    target: Annotated[str, typer.Option(help="One of labels.targets; the primary one if left out.")] = "",
    from_day: Annotated[str | None, typer.Option(help="First day of request_time, YYYY-MM-DD, UTC.")] = None,
    to_day: Annotated[str | None, typer.Option(help="Last day of request_time, included.")] = None,
    where: WhereOption = None,
    columns: Annotated[str, typer.Option(help="Parquet: comma-separated columns; all if left out.")] = "",
    dense: Annotated[str, typer.Option(help="Comma-separated columns of numbers.")] = "",
    sparse: Annotated[str, typer.Option(help="Comma-separated columns that are hashed.")] = "",
    sequence: Annotated[
        list[str] | None,
        typer.Option("--sequence", help="tfrecord: a list, COLUMN or COLUMN:LENGTH; repeatable."),
    ] = None,
    label: Annotated[str, typer.Option(help="The label's column; comma-separated several for tfrecord.")] = "label",
    bits: Annotated[int, typer.Option(help="Hashed values are below 2^bits.", min=1, max=30)] = 20,
    per_request: Annotated[
        bool, typer.Option("--per-request", help="Parquet: lists that candidates share in the row of the first alone.")
    ] = False,
    scene: SceneOption = "",
    project: ProjectOption = Path(),
    as_json: JsonOption = False,
) -> None:
    """Write archived samples for other trainers, a file a day; the same command goes on where it stopped."""
    from dovetail.cli.looking.export import Asked, run

    asked = Asked(
        form, target, from_day, to_day, where, columns, dense, sparse, sequence or [], label, bits, per_request
    )
    raise typer.Exit(run(project, out, asked, as_json=as_json, scene=scene))


def _shown(
    key: list[str] | None,
    where: str | None,
    columns: str,
    limit: int | None,
    form: str | None,
    out: Path | None,
    *,
    follow: bool,
) -> Shown:
    from dovetail.cli.looking.shown import shown_as

    names = [name.strip() for name in columns.split(",") if name.strip()]
    return shown_as(key or [], where, names, limit, form, out, following=follow)
