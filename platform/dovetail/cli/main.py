"""Command line: what there is to say about arguments, output and exit codes; the doing is elsewhere.

Exit codes: 0 done, 1 the check failed (or the worker did), 2 misuse: a bad argument, configuration or definition. A
worker has more of them: :mod:`dovetail.platform.process.lifecycle`.
"""

from __future__ import annotations

import atexit
import gc
import sys
import traceback
from pathlib import Path
from types import TracebackType
from typing import Annotated

import typer
from rich.text import Text

from dovetail.cli.doors import commands as doors
from dovetail.cli.looking import commands as looking
from dovetail.cli.models import commands as models
from dovetail.cli.options import (
    EngineOption,
    JsonOption,
    MasterOption,
    ProjectOption,
    SceneOption,
    file_target,
    folder_target,
)
from dovetail.cli.output import errors
from dovetail.cli.stored import commands as stored
from dovetail.platform.errors import ConfigError, DefinitionError, DovetailError
from dovetail.platform.masking import masked
from dovetail.sdk import __version__

__all__ = ["app", "main", "unforeseen"]

app = typer.Typer(
    name="dovetail",
    help="Training samples you can trust: features as served, labels by key, models trained as samples appear.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


def _show_version(asked: bool) -> None:
    if asked:
        print(f"dovetail {__version__}")
        raise typer.Exit


@app.callback()
def options(
    _version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    """The options of ``dovetail`` itself, before a command's name."""


@app.command()
def demo(
    data: Annotated[
        Path | None, typer.Option(help="A recorded log to replay; the built-in simulator if left out.")
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write the result to this file.", callback=file_target)
    ] = None,
    keep: Annotated[
        Path | None, typer.Option(help="Keep all state here; the same command goes on from it.", callback=folder_target)
    ] = None,
    requests: Annotated[int | None, typer.Option(help="Simulator: how many requests.", min=1, max=10_000_000)] = None,
    seed: Annotated[int | None, typer.Option(help="Simulator: the seed.", min=0, max=2**32 - 1)] = None,
) -> None:
    """Run the whole flow, embedded, on a real log or the built-in simulator."""
    from dovetail.cli.demo import run  # imports numba and DuckDB: seconds that --help need not take

    if data is not None and (requests is not None or seed is not None):
        raise ConfigError("--requests and --seed are for the simulator; leave them out with --data")
    raise typer.Exit(run(data, json_file, keep, requests, seed))


@app.command()
def init(
    folder: Annotated[Path, typer.Argument(help="The new project's folder.", callback=folder_target)],
    minimal: Annotated[bool, typer.Option("--minimal", help="Five small files, and no more than it takes.")] = False,
) -> None:
    """Start a new project: dovetail.toml, sql/, one sample of each kind of definition."""
    from dovetail.cli.init import run

    raise typer.Exit(run(folder, minimal=minimal))


@app.command()
def check(
    project: ProjectOption = Path(),
    as_json: JsonOption = False,
    diff: Annotated[bool, typer.Option("--diff", help="Compare with what is registered, and what it made.")] = False,
) -> None:
    """Validate every definition; show kind, entity, lanes and the state kept per key."""
    from dovetail.cli.check import run, run_diff

    raise typer.Exit(run_diff(project, as_json=as_json) if diff else run(project, as_json=as_json))


TargetOption = Annotated[str, typer.Option(help="One of labels.targets; the primary one if left out.")]


@app.command()
def join(
    project: ProjectOption = Path(),
    out: Annotated[
        str | None,
        typer.Option(
            help="Folder (or fsspec URL) that gets the samples, as Parquet by request day.", callback=folder_target
        ),
    ] = None,
    target: TargetOption = "",
    scene: SceneOption = "",
    compare: Annotated[bool, typer.Option("--compare", help="Compare with the stream's; exit 1 if different.")] = False,
    engine: EngineOption = None,
    master: MasterOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make the samples in batch, from archived snapshots and label logs."""
    from dovetail.cli.stored.join import run

    where = None if engine is None else engine.value
    code = run(project, out, target, compare=compare, as_json=as_json, engine=where, master=master, scene=scene)
    raise typer.Exit(code)


@app.command()
def audit(
    project: ProjectOption = Path(),
    target: TargetOption = "",
    scene: SceneOption = "",
    keys: Annotated[
        Path | None, typer.Option(help="Write every row with its outcome to this Parquet file.", callback=file_target)
    ] = None,
    outcome: Annotated[str, typer.Option("--list", help="List every row with this outcome, like dead_letter.")] = "",
    as_json: JsonOption = False,
) -> None:
    """Account for every row of a stopped worker: each label and snapshot by outcome, sums that must agree."""
    from dovetail.cli.stored.audit import run

    raise typer.Exit(run(project, target, keys, as_json=as_json, outcome=outcome, scene=scene))


@app.command()
def worker(
    project: ProjectOption = Path(),
    agents: Annotated[str, typer.Option(help="Comma-separated roles of this worker; all if left out.")] = "",
    health_host: Annotated[str | None, typer.Option(help="Address of the health server.")] = None,
    health_port: Annotated[
        int | None, typer.Option(help="Its port; 0 takes a free one and says which.", min=0, max=65_535)
    ] = None,
    stop_timeout: Annotated[str | None, typer.Option(help="From a signal to the end, at most: 30s.")] = None,
    watchdog_timeout: Annotated[str | None, typer.Option(help="Stand still this long with data waiting: 5m.")] = None,
    session_timeout: Annotated[str | None, typer.Option(help="Silent this long, out of the Kafka group: 20s.")] = None,
    log_level: Annotated[str | None, typer.Option(help="debug, info, warning or error.")] = None,
    log_json: Annotated[bool | None, typer.Option("--log-json/--log-text", help="Log JSON, one object a line.")] = None,
    until_idle: Annotated[
        bool,
        typer.Option("--until-idle", help="Release what waits for later labels, and end when everything is done."),
    ] = False,
    serve_api: Annotated[
        bool, typer.Option("--api/--no-api", help="Serve the HTTP API of a project that has an api section.")
    ] = True,
) -> None:
    """Run a worker until it is told to stop (SIGINT or SIGTERM). Options replace those of the worker section."""
    from dovetail.cli.worker import run

    given = {
        "health_host": health_host,
        "health_port": health_port,
        "stop_timeout": stop_timeout,
        "watchdog_timeout": watchdog_timeout,
        "session_timeout": session_timeout,
        "log_level": log_level,
        "log_json": log_json,
    }
    options = {name: value for name, value in given.items() if value is not None}
    named = [role.strip() for role in agents.split(",") if role.strip()]
    run(project, named, options, until_idle=until_idle, serve_api=serve_api)


@app.command()
def serve(
    project: ProjectOption = Path(),
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[
        int | None, typer.Option(help="Port; 0 takes a free one and says which.", min=0, max=65_535)
    ] = None,
) -> None:
    """Serve the HTTP API of a project whose broker is Kafka; workers run beside it. Options replace those of `api`."""
    from dovetail.cli.serve import run

    given = {"host": host, "port": port}
    run(project, {name: value for name, value in given.items() if value is not None})


@app.command()
def console(
    project: ProjectOption = Path(),
    kept: Annotated[
        Path | None, typer.Option("--run", help="The folder of a demo's run, instead of a project.")
    ] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[
        int | None, typer.Option(help="Port; 0 takes a free one and says which.", min=0, max=65_535)
    ] = None,
    tokens_file: Annotated[
        Path | None, typer.Option(help="Tokens as for the API; needed where other machines can reach it.")
    ] = None,
) -> None:
    """Show a project in a browser: definitions, any request down to its events, the flow, the model. It only reads."""
    from dovetail.cli.console import run

    given = {"host": host, "port": port, "tokens_file": tokens_file}
    run(project, kept, {name: value for name, value in given.items() if value is not None})


doors.register(app)
looking.register(app)
stored.register(app)
models.register(app)


def unforeseen(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Write the traceback of an exception that nobody raised on purpose, without passwords."""
    sys.stderr.write(masked("".join(traceback.format_exception(kind, error, trace))))


def main() -> None:
    """Entry point of the ``dovetail`` command."""
    sys.excepthook = unforeseen
    # Looking for garbage in all that was imported, as a process does when it ends, takes a tenth of a short command's
    # time.
    atexit.register(gc.freeze)
    try:
        app()
    except (ConfigError, DefinitionError) as error:
        _say("error", error)
        sys.exit(2)
    except DovetailError as error:
        _say(type(error).__name__, error)
        sys.exit(1)
    except KeyboardInterrupt:
        errors.print("interrupted; the same command goes on from here if its state was kept")
        sys.exit(130)


def _say(kind: str, error: Exception) -> None:
    """Write an error as it is: nothing of its text is taken for markup, emoji or a number to colour."""
    errors.print(Text.assemble((f"{kind}:", "bold red"), f" {error}"), highlight=False, soft_wrap=True)
