"""The running experiment of a project, with a scorer for the model of each arm."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pyarrow as pa

from dovetail.app.modelling import encoder_of_stored, warm_scorer
from dovetail.app.storage import Stores
from dovetail.features import Project
from dovetail.joiners.contracts import ServingModel
from dovetail.joiners.snapshots.arms import Experiment, Split
from dovetail.platform.config.load import Config, ScorerConfig
from dovetail.platform.config.served.experiments import ExperimentConfig, running
from dovetail.platform.errors import ConfigError, ModelError
from dovetail.trainer.metrics.telemetry import ModelMetrics
from dovetail.trainer.models.beside import Loadable, LoadedBeside
from dovetail.trainer.models.publish import ModelDirectory
from dovetail.trainer.models.scorer import Scorer

__all__ = ["absent_models", "experiment_of", "split_of", "without_experiments"]


def without_experiments(project: Project) -> Project:
    """The project for a reader of what is stored, who scores nothing: the models of arms need not be there any more."""
    return replace(project, config=project.config.model_copy(update={"experiments": {}}))


def absent_models(config: Config) -> Iterator[str]:
    """Tells of the models of the running experiment's arms that are not there now: a worker would not start.

    Files are looked for, not read, and nothing is made.
    """
    found = running(config.experiments)
    if found is None:
        return
    for arm, declared in found[1].arms.items():
        folder, _, version = declared.model.partition("@")
        if declared.model == "serving":
            continue
        path = config.path(folder or config.storage.state / "models" / (config.model.name if config.model else ""))
        if declared.model.endswith(".onnx"):
            there = path.is_file()
        else:
            versions = ModelDirectory(path).versions() if path.is_dir() else []
            there = int(version) in versions if version else bool(versions)
        if not there:
            yield (
                f"[experiments.{found[0]}.arms.{arm}] model = {declared.model!r}: it is not at {path}, and a worker "
                "does not start without it; put it there, or name another model"
            )


def split_of(name: str, declared: ExperimentConfig) -> Split:
    """The split that experiment ``name`` declares."""
    arms = declared.arms
    return Split(declared.by, declared.salt or name, tuple(arms), tuple(arm.share for arm in arms.values()))


def experiment_of(
    project: Project, stores: Stores, serving: ServingModel, *, beside: bool
) -> tuple[Experiment, tuple[Callable[[], None], ...]] | None:
    """The running experiment, and what prepares its models before the first request; None where none runs.

    ``serving`` is the model that serves without one; ``beside``: the others are loaded beside serving.

    Raises:
        ConfigError: an arm's model is not there, or reads what the feature set does not make.
    """
    found = running(project.config.experiments)
    if found is None:
        return None
    name, declared = found
    models: list[ServingModel] = []
    warm: list[Callable[[], None]] = []
    for arm, config in declared.arms.items():
        if config.model == "serving":
            models.append(serving)
            continue
        where = f"[experiments.{name}.arms.{arm}] model = {config.model!r}"
        try:
            scorer, rows = _scorer(project, stores, config.model, arm)
        except ModelError as error:
            raise ConfigError(f"{where}: {error}") from None
        missing = [field for field in rows.names if field not in project.feature_set.schema.names]
        if missing:
            raise ConfigError(
                f"{where}: the model reads {', '.join(missing)}, which the feature set {project.feature_set.name} does "
                "not make; add it, or name another model"
            )
        model = LoadedBeside(scorer) if beside else scorer
        models.append(model)
        warm.append(partial(warm_scorer, model, rows))
    return Experiment(name, split_of(name, declared), models), tuple(warm)


def _scorer(project: Project, stores: Stores, model: str, arm: str) -> tuple[Loadable, pa.Schema]:
    """The scorer of an arm, and the columns it reads."""
    config, features = project.config, project.feature_set.schema
    if model.endswith(".onnx"):
        from dovetail.onnx import OnnxFile, OnnxScorer  # an extra, asked for by such an arm alone

        declared = config.scorer or ScorerConfig(onnx=Path(model))
        if not config.path(model).is_file():
            raise ModelError("there is no such file")
        file = OnnxFile(config.path(model), declared.inputs, declared.output, declared.missing)
        kept = config.path(config.storage.state) / "models" / "onnx" / f"arm-{arm}.onnx"
        told = ModelMetrics(f"onnx.{arm}").damaged
        return OnnxScorer(file, features, kept=kept, judge=None, on_damaged=told), features
    folder, _, version = model.partition("@")
    directory = ModelDirectory(config.path(folder)) if folder else stores.models
    number = int(version) if version else directory.latest()
    if number not in directory.versions():
        there = ", ".join(map(str, directory.versions())) or "none"
        raise ModelError(f"{directory.path} has no such version; there are: {there}")
    encoder = encoder_of_stored(directory.load(number), config.model)
    reads = dict.fromkeys(column for spec in encoder.inputs for column in spec.reads)
    rows = pa.schema(features.field(column) if column in features.names else (column, pa.null()) for column in reads)
    return Scorer(directory, encoder, version=int(version) if version else None), rows
