"""The arguments of ``dovetail train``, ``evaluate``, ``staleness`` and ``model``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dovetail.cli.options import (
    EngineOption,
    JsonOption,
    MasterOption,
    ProjectOption,
    SceneOption,
    file_target,
    folder_target,
)
from dovetail.cli.times import duration_us_of
from dovetail.platform.errors import ConfigError

__all__ = ["plot_target", "register"]


def plot_target(path: Path | None) -> Path | None:
    """Callback of an option that names a plot to write.

    Raises:
        ConfigError: it cannot be written, or not as a plot.
    """
    from dovetail.trainer.metrics.plots import check_plot

    if path is not None:
        check_plot(path)
    return path


_Samples = Annotated[
    list[str] | None, typer.Argument(help="Files, folders or URLs; the project's archived samples if left out.")
]
_SamplesOption = Annotated[
    list[str] | None,
    typer.Option("--samples", help="File, folder or URL, repeatable; the project's archived samples if left out."),
]
_Format = Annotated[str, typer.Option("--format", help="parquet, libsvm or vw (Vowpal Wabbit text).")]
_First = Annotated[str | None, typer.Option("--from-day", help="First day of request_time, YYYY-MM-DD, UTC.")]
_Last = Annotated[str | None, typer.Option("--to-day", help="Last day of request_time, included.")]
_Plot = Annotated[
    Path | None,
    typer.Option(
        "--plot", help="Write plots to this .html, .svg or .png file; needs the extra plots.", callback=plot_target
    ),
]
_Name = Annotated[str | None, typer.Argument(help="DIR, DIR@VERSION or @VERSION; the project's newest if left out.")]

# The bodies import what takes seconds to import (numba, DuckDB), so that --help need not.

_model = typer.Typer(help="List, show, export, explain, roll back and compare published models.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Add the commands to ``app``."""
    app.command()(train)
    app.command()(evaluate)
    app.command()(staleness)
    app.command()(experiment)
    app.add_typer(_model, name="model")


def train(
    samples: _Samples = None,
    project: ProjectOption = Path(),
    sample_format: _Format = "parquet",
    from_day: _First = None,
    to_day: _Last = None,
    last_days: Annotated[
        int | None,
        typer.Option(min=1, max=100_000, help="Instead: so many days up to the last that the project has archived."),
    ] = None,
    passes: Annotated[int, typer.Option(max=1_000_000, help="How often to go through the samples.")] = 1,
    shuffle_rows: Annotated[int, typer.Option(max=2**53, help="Shuffle each so many rows; 0 keeps the order.")] = 0,
    random_seed: Annotated[int, typer.Option(min=0, max=2**53, help="Of the shuffle.")] = 0,
    batch: Annotated[int, typer.Option(max=100_000, help="Rows per mini-batch; 0 trains example by example.")] = 0,
    threads: Annotated[int, typer.Option(max=1_024, help="Threads without locks: faster, not deterministic.")] = 0,
    shards: Annotated[
        int, typer.Option(min=0, max=255, help="Train mini-batches on so many shards, in this process; 0 is off.")
    ] = 0,
    staleness: Annotated[
        str, typer.Option(help="Batches before a batch that its weights lack on shards; async is no bound.")
    ] = "0",
    start: Annotated[
        str | None,
        typer.Option(
            help="Hot start: DIR@VERSION, or an exported .parquet/.arrow; inputs in common keep their weights."
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Publish the model into this folder, as its next version.", callback=folder_target),
    ] = None,
    seed: Annotated[bool, typer.Option("--seed", help="Lay the model down for the worker to go on from.")] = False,
    adopt: Annotated[
        bool, typer.Option("--adopt", help="Hand the model over to the running worker, which goes on from it.")
    ] = False,
    optimizer: Annotated[str | None, typer.Option(help="ftrl, ogd, adagrad or adamom; the project's.")] = None,
    hyperparameters: Annotated[list[str] | None, typer.Option("--set", help="NAME=NUMBER, repeatable.")] = None,
    bits: Annotated[int, typer.Option(min=1, max=30, help="libsvm and vw: 2^bits slots.")] = 22,
    compensation: Annotated[float, typer.Option(help="Delay compensation of mini-batches and shards; 0 is off.")] = 0.0,
    scene: SceneOption = "",
    as_json: JsonOption = False,
) -> None:
    """Train on stored samples; every sample is predicted before it is trained on."""
    from dovetail.cli.models.train import Options, run
    from dovetail.trainer.batch_training import Schedule

    schedule = Schedule(passes, shuffle_rows, random_seed, batch, threads, shards, _staleness_of(staleness))
    options = Options(
        project, samples or [], sample_format, from_day, to_day, last_days, schedule, start, out, seed, adopt,
        optimizer, hyperparameters or [], bits, compensation, as_json, scene,
    )  # fmt: skip
    raise typer.Exit(run(options))


def _staleness_of(text: str) -> int | None:
    if text == "async":
        return None
    if not text.isdecimal():
        raise ConfigError(f"--staleness {text}: write a number of batches, 0 or more, or async")
    return int(text)


def evaluate(
    samples: _Samples = None,
    model: Annotated[str | None, typer.Option("--model", "-m", help="DIR, DIR@VERSION or @VERSION.")] = None,
    project: ProjectOption = Path(),
    sample_format: _Format = "parquet",
    from_day: _First = None,
    to_day: _Last = None,
    slices: Annotated[list[str] | None, typer.Option("--slice", help="A column to slice by, repeatable.")] = None,
    window: Annotated[str, typer.Option(help="Length of the event-time windows.")] = "1h",
    at: Annotated[int, typer.Option(min=1, max=10_000, help="The k of NDCG@k and hit rate@k.")] = 10,
    engine: EngineOption = None,
    master: MasterOption = None,
    scene: SceneOption = "",
    plot: _Plot = None,
    as_json: JsonOption = False,
) -> None:
    """Evaluate a stored model on stored samples; nothing is trained."""
    from dovetail.cli.models.evaluate import run

    window_us = duration_us_of("--window", window)
    choices = {
        "format_": sample_format, "first": from_day, "last": to_day, "slices": slices or [], "window_us": window_us,
        "at": at, "engine": None if engine is None else engine.value, "master": master,
        "scene": scene,
    }  # fmt: skip
    raise typer.Exit(run(project, model, samples or [], as_json=as_json, plot=plot, **choices))


def staleness(
    samples: Annotated[
        str | None, typer.Argument(help="A file, folder or URL; the project's archived samples if left out.")
    ] = None,
    ages: Annotated[list[str] | None, typer.Option("--age", help="An age to judge, repeatable: 1h.")] = None,
    every: Annotated[str, typer.Option(help="From one version of the model to the next.")] = "1m",
    scene: SceneOption = "",
    project: ProjectOption = Path(),
    from_day: _First = None,
    to_day: _Last = None,
    plot: _Plot = None,
    as_json: JsonOption = False,
) -> None:
    """The loss of the model by its age: stored samples replayed, scored by models of each age."""
    from dovetail.cli.models.staleness import run

    ages_us = list(dict.fromkeys(duration_us_of("--age", text) for text in ages or []))
    step_us = duration_us_of("--every", every)
    chosen = {"first": from_day, "last": to_day}
    raise typer.Exit(
        run(project, samples, ages_us=ages_us, step_us=step_us, plot=plot, as_json=as_json, scene=scene, **chosen)
    )


def experiment(
    name: Annotated[str | None, typer.Argument(help="The experiment; the only one if left out.")] = None,
    project: ProjectOption = Path(),
    log: Annotated[bool, typer.Option("--log/--no-log", help="Keep the report for the console's history.")] = True,
    as_json: JsonOption = False,
) -> None:
    """The arms of an experiment, their metrics on archived samples, and how they differ from the control."""
    from dovetail.cli.models.experiment import run

    raise typer.Exit(run(project, name, as_json=as_json, log=log))


@_model.command("list")
def list_models(model: _Name = None, project: ProjectOption = Path(), as_json: JsonOption = False) -> None:
    """Versions, which one serves, and candidates refused with the reason."""
    from dovetail.cli.models import model as commands

    raise typer.Exit(commands.list_models(project, model, as_json=as_json))


@_model.command()
def show(model: _Name = None, project: ProjectOption = Path(), as_json: JsonOption = False) -> None:
    """One version: its inputs, weights and metrics."""
    from dovetail.cli.models import model as commands

    raise typer.Exit(commands.show(project, model, as_json=as_json))


@_model.command()
def export(
    out: Annotated[Path, typer.Argument(help="File to write.", callback=file_target)],
    model: _Name = None,
    project: ProjectOption = Path(),
    file_format: Annotated[str, typer.Option("--format", help="parquet, arrow or text.")] = "parquet",
    as_json: JsonOption = False,
) -> None:
    """Write the non-zero weights to a file."""
    from dovetail.cli.models import model as commands

    raise typer.Exit(commands.export(project, model, out, file_format, as_json=as_json))


@_model.command()
def rollback(
    model: _Name = None,
    project: ProjectOption = Path(),
    release: Annotated[bool, typer.Option("--release", help="Serve the newest version again.")] = False,
    experiment: Annotated[
        str | None, typer.Option(help="Instead: serve the control's model of this experiment, if --arm is worse.")
    ] = None,
    arm: Annotated[str | None, typer.Option(help="The arm whose model serves now.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Whatever the verdict on the arm is.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Serve a named version until it is released, or what the control of an experiment is scored with."""
    if (experiment is None) != (arm is None) or (experiment is not None and (model is not None or release)):
        raise ConfigError("by verdict: model rollback --experiment EXPERIMENT --arm ARM, without a model and --release")
    if experiment is not None and arm is not None:
        from dovetail.cli.models.experiment import roll_back

        raise typer.Exit(roll_back(project, experiment, arm, force=force, as_json=as_json))
    if force:
        raise ConfigError("--force is of a verdict: model rollback --experiment EXPERIMENT --arm ARM --force")
    from dovetail.cli.models import model as commands

    raise typer.Exit(commands.rollback(project, model, release=release, as_json=as_json))


@_model.command()
def promote(
    experiment: Annotated[str, typer.Argument(help="The experiment.")],
    arm: Annotated[str, typer.Argument(help="The arm whose model is to serve everybody.")],
    project: ProjectOption = Path(),
    force: Annotated[bool, typer.Option("--force", help="Whatever the verdict is.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Serve the model of an experiment's arm, if the verdict is that it is better than the control."""
    from dovetail.cli.models.experiment import promote as promoted

    raise typer.Exit(promoted(project, experiment, arm, force=force, as_json=as_json))


@_model.command()
def reshard(project: ProjectOption = Path(), as_json: JsonOption = False) -> None:
    """Place a model as the configuration says now (shards, by and workers of trainer); its workers have stopped."""
    from dovetail.cli.models import model as commands

    raise typer.Exit(commands.reshard(project, as_json=as_json))


@_model.command()
def shadow(
    model: _Name = None,
    project: ProjectOption = Path(),
    off: Annotated[bool, typer.Option("--off", help="Stop shadow scoring.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Score a version beside the serving one on live requests."""
    from dovetail.cli.models import model as commands

    raise typer.Exit(commands.shadow(project, model, off=off, as_json=as_json))


@_model.command()
def compare(
    models: Annotated[list[str] | None, typer.Argument(help="Two or more DIR, DIR@VERSION or @VERSION.")] = None,
    samples: _SamplesOption = None,
    live: Annotated[bool, typer.Option("--live", help="Serving against shadow, as both scored live.")] = False,
    project: ProjectOption = Path(),
    sample_format: _Format = "parquet",
    plot: _Plot = None,
    as_json: JsonOption = False,
) -> None:
    """Compare models on the same samples, or the shadow with the serving model on live requests."""
    from dovetail.cli.models import model as commands

    if live == bool(models):
        raise ConfigError("compare what? name two or more models, or --live for serving against shadow")
    if live:
        raise typer.Exit(commands.compare_live(project, as_json=as_json, plot=plot))
    raise typer.Exit(
        commands.compare(project, models or [], samples or [], as_json=as_json, plot=plot, format_=sample_format)
    )


@_model.command()
def explain(
    model: _Name = None,
    samples: _SamplesOption = None,
    row: Annotated[int, typer.Option(min=0, max=2**53, help="Which sample, counted from 0.")] = 0,
    project: ProjectOption = Path(),
    sample_format: _Format = "parquet",
    as_json: JsonOption = False,
) -> None:
    """Explain a model's prediction for one sample: inputs by name, with slots, weights and contributions."""
    from dovetail.cli.models.explaining import explain_row

    raise typer.Exit(explain_row(project, model, samples or [], row=row, format_=sample_format, as_json=as_json))


@_model.command()
def collisions(
    model: _Name = None,
    samples: _SamplesOption = None,
    rows: Annotated[int, typer.Option(min=0, max=2**53, help="How many samples to look at.")] = 1_000_000,
    project: ProjectOption = Path(),
    sample_format: _Format = "parquet",
    as_json: JsonOption = False,
) -> None:
    """How many values share a slot, by input."""
    from dovetail.cli.models.explaining import report_collisions

    raise typer.Exit(
        report_collisions(project, model, samples or [], rows=rows, format_=sample_format, as_json=as_json)
    )
