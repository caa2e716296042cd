"""The scoring of a worker: by the project's own model, by one of a file from elsewhere, or by nothing."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from dovetail.app.datasets import newest_samples
from dovetail.app.experiments.arm_scorers import experiment_of
from dovetail.app.modelling import scorers_of, trained_rows, warm_scorer
from dovetail.app.storage import Stores
from dovetail.features import Project
from dovetail.joiners.contracts import ServingModel
from dovetail.joiners.snapshots.arms import Experiment
from dovetail.platform.config.load import ScorerConfig
from dovetail.trainer.metrics.progressive import Evaluation
from dovetail.trainer.metrics.telemetry import ModelMetrics
from dovetail.trainer.models.beside import LoadedBeside
from dovetail.trainer.models.gate import Gate
from dovetail.trainer.samples.label_columns import column_of_numbers

__all__ = ["NoModel", "Scoring", "scoring_of"]

#: A probability of exactly 0 or 1 has no log-loss.
_LEAST = 1e-7


class NoModel:
    """Scores every candidate one half, as version 0: a worker without a model still takes snapshots."""

    def refresh(self) -> None:
        """There is nothing to take over."""

    def score(self, table: pa.Table) -> tuple[int, Any]:
        """Version 0 and one half for every row."""
        return 0, pa.repeat(pa.scalar(0.5, pa.float32()), table.num_rows).to_numpy()


class Scoring(NamedTuple):
    """The model that serves, the one scored beside it, the running experiment, and what prepares them all."""

    serving: ServingModel
    shadow: ServingModel | None
    warm: tuple[Callable[[], None], ...]
    experiment: Experiment | None = None

    def each(self, wrapped: Callable[[ServingModel], ServingModel]) -> Scoring:
        """The same with another model in the place of each that answers requests."""
        experiment = self.experiment
        if experiment is not None:
            experiment = experiment._replace(models=[wrapped(model) for model in experiment.models])
        return self._replace(serving=wrapped(self.serving), experiment=experiment)


def scoring_of(project: Project, stores: Stores, *, beside: bool) -> Scoring:
    """The scoring of a project; ``beside``: models are loaded beside serving.

    Raises:
        ConfigError: a library that a model needs is not installed, or an arm of the experiment has no model.
    """
    scoring = _without_experiment(project, stores, beside=beside)
    arms = experiment_of(project, stores, scoring.serving, beside=beside)
    return scoring if arms is None else scoring._replace(experiment=arms[0], warm=(*scoring.warm, *arms[1]))


def _without_experiment(project: Project, stores: Stores, *, beside: bool) -> Scoring:
    features, model = project.feature_set.schema, project.config.model
    if project.config.scorer is not None:
        return _from_elsewhere(project, project.config.scorer, stores, beside=beside)
    if model is None:
        return Scoring(NoModel(), None, ())
    serving, shadow = scorers_of(model, stores.models, beside=beside)
    rows = trained_rows(model, features)
    return Scoring(serving, shadow, tuple(partial(warm_scorer, one, rows) for one in (serving, shadow) if one))


def _from_elsewhere(project: Project, declared: ScorerConfig, stores: Stores, *, beside: bool) -> Scoring:
    from dovetail.onnx import OnnxFile, OnnxScorer  # an extra, asked for by its section alone

    config, features = project.config, project.feature_set.schema
    kept = config.path(config.storage.state) / "models" / "onnx"

    def scorer(path: Any, name: str, *, judged: bool) -> OnnxScorer:
        gate = Gate(**declared.gate.model_dump())
        judge = partial(_reasons, stores, gate, declared.gate_samples) if judged and not gate.open else None
        told = ModelMetrics(f"onnx.{name}").damaged
        file = OnnxFile(config.path(path), declared.inputs, declared.output, declared.missing)
        return OnnxScorer(file, features, kept=kept / f"{name}.onnx", judge=judge, on_damaged=told)

    found = [scorer(declared.onnx, "serving", judged=True)]
    if declared.shadow is not None:
        found.append(scorer(declared.shadow, "shadow", judged=False))
    models = [LoadedBeside(one) for one in found] if beside else found
    warm = tuple(partial(warm_scorer, one, features) for one in models)
    return Scoring(models[0], models[1] if len(models) > 1 else None, warm)


def _reasons(
    stores: Stores, gate: Gate, samples: int, score: Callable[[pa.Table], npt.NDArray[np.float32]]
) -> list[str]:
    """Why a candidate must not serve: by its scores of the newest ``samples`` archived samples, or a few more."""
    evaluation, rows = Evaluation(), 0
    for table in newest_samples(stores):
        rows += table.num_rows
        scores = score(table)
        if scores.size and not (scores.min() >= 0 and scores.max() <= 1):
            return [f"scores in {scores.min():g}…{scores.max():g} are no probabilities, which the gate is about"]
        bounded = np.clip(scores, np.float32(_LEAST), np.float32(1 - _LEAST))
        labels, weights = (column_of_numbers(table, name, name).astype(np.float32) for name in ("label", "weight"))
        evaluation.add(bounded, labels, weights)
        if rows >= samples:
            break
    return gate.reasons(evaluation.total())
