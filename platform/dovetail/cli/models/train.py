"""``dovetail train``: a model from stored samples, published to a folder or laid down for the worker to go on from."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dovetail.app.datasets import samples_dataset
from dovetail.app.modelling import encoder_of, optimizer_of, recipe_of
from dovetail.app.openlineage.emitting import lineage_run
from dovetail.app.openlineage.named_datasets import archived_datasets, dataset_at
from dovetail.app.openlineage.run_events import LineageDataset
from dovetail.app.storage import resolved
from dovetail.cli.models.report import metrics_dict, print_metrics
from dovetail.cli.models.samples import (
    Samples,
    find_model,
    find_samples,
    label_of,
    model_of,
    project_config,
)
from dovetail.cli.models.succession import Positions, Successor, checkpoints_of
from dovetail.cli.output import print_json, terminal
from dovetail.platform.config.load import Config
from dovetail.platform.errors import ConfigError, ModelError
from dovetail.platform.stores.offline import OfflineStore
from dovetail.trainer.batch_training import Schedule, train_passes
from dovetail.trainer.learner import Learner
from dovetail.trainer.models.carrying import Carried, carry
from dovetail.trainer.models.exporting import import_weights
from dovetail.trainer.models.publish import Model, ModelDirectory
from dovetail.trainer.optimizers import DelayCompensated, Optimizer, optimizer_named
from dovetail.trainer.samples.encoding import Encoder
from dovetail.trainer.settings import Recipe

__all__ = ["Options", "run"]


@dataclass(frozen=True, slots=True)
class Options:
    """The arguments of ``dovetail train``."""

    project: Path
    samples: list[str]
    format: str
    first: str | None
    last: str | None
    newest: int | None
    schedule: Schedule
    start: str | None
    out: Path | None
    seed_checkpoint: bool
    adopt: bool
    optimizer: str | None
    hyperparameters: list[str]
    bits: int
    compensation: float
    json: bool
    scene: str = ""


def run(options: Options) -> int:
    """Train, publish or lay down, and show the metrics."""
    if options.compensation and not options.schedule.batch:
        raise ConfigError(
            f"--compensation {options.compensation:g} is of mini-batches; say how many rows one has: --batch 1024"
        )
    if options.seed_checkpoint and options.adopt:
        raise ConfigError(
            "--seed is for a trainer without checkpoints, --adopt for one that has some; give one of them"
        )
    config = project_config(options.project, needed=options.seed_checkpoint or options.adopt, scene=options.scene)
    name = config.model.name if config is not None and config.model is not None else "model"
    with lineage_run(config, f"train.{name}", "TRAIN", _read(config, options)) as told:
        code = _run(options, config)
        if options.out is not None:
            told.outputs.append(dataset_at(str(options.out)))
        if (options.seed_checkpoint or options.adopt) and config is not None:
            told.outputs.append(dataset_at(str(checkpoints_of(config))))
    return code


def _read(config: Config | None, options: Options) -> list[LineageDataset]:
    """The samples that are trained on: those named, or else the archived ones."""
    if options.samples or config is None:
        return [dataset_at(name) for name in options.samples]
    store = OfflineStore(resolved(config, config.storage.url("offline_store")))
    return archived_datasets(store, [samples_dataset("", config.scene)])


def _run(options: Options, config: Config | None) -> int:
    successor = _successor(options, config)
    found = find_samples(
        config, options.samples, format_=options.format, first=options.first, last=options.last, newest=options.newest
    )
    learner, carried = _learner(config, options, found)
    _require_a_place(options)
    counted = Positions()
    seen = Counter[int]()
    ((_, first), *scopes), losses = train_passes(learner, lambda: counted.watch(found.tables()), options.schedule, seen)
    by_slice = [(scope, metrics) for scope, metrics in scopes if scope.startswith("slice:")]
    if not first.samples and (options.first or options.last or options.newest):
        raise ConfigError("no sample is of the days that were chosen")
    answer: dict[str, Any] = {
        "samples": first.samples, "passes": options.schedule.passes, "loss_by_pass": losses,
        "metrics": metrics_dict(first), "groups": {scope: metrics_dict(metrics) for scope, metrics in by_slice},
        "non_zero_weights": len(learner.weights().slots),
        "optimizer": learner.optimizer.describe(),
    }  # fmt: skip
    if options.schedule.shards:
        answer["staleness"] = {str(lacked): batches for lacked, batches in sorted(seen.items())}
    if carried is not None:
        answer["started_with"] = {"kept": carried.kept, "added": carried.added, "removed": carried.removed}
    if successor is not None:  # refused before anything is published
        answer["checkpoint"] = successor.place(learner, counted, found)
    if options.out is not None:
        directory = ModelDirectory(options.out)
        answer["version"] = directory.latest() + 1
        answer["published_to"] = str(options.out)
        directory.publish(answer["version"], Model.of(learner))
    if options.json:
        print_json(answer)
        return 0
    console = terminal()
    print_metrics(console, "predicted, then trained on; first pass", [("total", first), *by_slice])
    if len(losses) > 1:
        console.print(
            ("log-loss" if first.rmse is None else "loss") + " by pass: " + ", ".join(f"{loss:.4f}" for loss in losses)
        )
    console.print(f"{answer['non_zero_weights']:,} weights that are not zero")
    if seen:
        lacked = sum(number * batches for number, batches in seen.items()) / seen.total()
        console.print(
            f"on {options.schedule.shards} shards; the weights of the slowest lacked {lacked:.1f} batches on average"
        )
    if carried is not None:
        named = {"kept": carried.kept, "new": carried.added, "gone": carried.removed}
        told = "; ".join(f"{what} {', '.join(inputs)}" for what, inputs in named.items() if inputs)
        console.print(f"started from {options.start}: {told}")
    for what in ("published_to", "checkpoint"):
        if what in answer:
            console.print(f"{what.replace('_', ' ')}: {answer[what]}")
    return 0


def _successor(options: Options, config: Config | None) -> Successor | None:
    if config is None or not (options.seed_checkpoint or options.adopt):
        return None
    return Successor(config, "--adopt" if options.adopt else "--seed")


def _require_a_place(options: Options) -> None:
    """Refuse a training that nothing would remain of; last, so that it hides no other wrong argument."""
    if options.out is None and not options.seed_checkpoint and not options.adopt:
        raise ConfigError(
            "nothing would remain of this training: give --out DIR, or --seed or --adopt for the project's worker"
        )


def _learner(config: Config | None, options: Options, found: Samples) -> tuple[Learner, Carried | None]:
    model = config.model if config is not None else None
    encoder = encoder_of(model_of(config)) if found.inputs is None else Encoder(found.inputs, options.bits)
    optimizer = _optimizer(config, options)
    if found.inputs is not None and model is not None and model.loss != "logistic":
        raise ConfigError(f"--format: labels of text are read as 0 and 1, the project's model is of {model.loss} loss")
    recipe = Recipe(encoder, optimizer)
    if model is not None and found.inputs is None:
        # Text formats know nothing of the project's columns; neither do its rules about them.
        recipe = replace(recipe_of(model), encoder=encoder, optimizer=optimizer)
        first = next(iter(found.tables()), None)
        columns = [] if first is None else first.column_names
        if first is not None and (lost := sorted({*model.evaluation.slices} - {*columns})):
            raise ConfigError(
                f"[model.evaluation] slices: the samples have no column {', '.join(lost)}; they have "
                f"{', '.join(sorted(columns))}"
            )
        known = "request_id" if "request_id" in columns else None
        reach = max(recipe.ranking.reach, options.schedule.shuffle_rows)
        recipe = replace(recipe, ranking=replace(recipe.ranking, request=known, reach=reach))
        if "request_time" not in columns:
            recipe = replace(recipe, groups=recipe.groups.anew(time=None))
    records = carried = None
    if options.start is not None:
        try:
            start, theirs = _start(config, options.start)
            carried = carry(start.moments, theirs, encoder)
        except (ConfigError, ModelError) as error:
            raise ConfigError(f"--start {options.start}: {error}") from None
        records = optimizer.hot_start(start.dense())
    label, absent = label_of(None if found.inputs is not None else config)
    learner = Learner(
        encoder, optimizer, label=label, weight="weight", absent=absent, records=records,
        moments=None if carried is None else carried.moments,
        slots=recipe.slots, groups=recipe.groups, ranking=recipe.ranking, evaluation=recipe.evaluation,
        holdout=recipe.holdout,
    )  # fmt: skip
    return learner, carried


def _start(config: Config | None, name: str) -> tuple[Model, Encoder]:
    path = Path(name)
    if path.is_file():
        model = import_weights(path)
        return model, Encoder.from_description(model.encoder or {})
    _, _, model, encoder = find_model(config, name)
    return model, encoder


def _optimizer(config: Config | None, options: Options) -> Optimizer:
    given: dict[str, float] = {}
    for text in options.hyperparameters:
        name, _, value = text.partition("=")
        try:
            given[name] = float(value)
        except ValueError:
            raise ConfigError(f"--set {text}: write NAME=NUMBER, such as alpha=0.1") from None
    if options.optimizer is not None or config is None or config.model is None:
        optimizer = optimizer_named(options.optimizer or "ftrl", given)
    elif given:
        own = config.model.optimizer.model_dump(exclude_none=True)
        optimizer = optimizer_named(own.pop("name"), {**own, **given})
    else:
        optimizer = optimizer_of(config.model)
    return DelayCompensated(optimizer, options.compensation) if options.compensation else optimizer
