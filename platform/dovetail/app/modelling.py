"""The configured model as the trainer's own objects: what worker and command line both train and score with."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from dovetail.features.plan.reserved import OF_EXPERIMENTS
from dovetail.platform.config.load import Config, ModelConfig
from dovetail.platform.errors import ConfigError, ModelError
from dovetail.trainer.metrics.groups import Groups
from dovetail.trainer.metrics.progressive import Evaluation
from dovetail.trainer.metrics.rankings import RankingPolicy
from dovetail.trainer.metrics.telemetry import ModelMetrics
from dovetail.trainer.models.beside import Loadable, LoadedBeside
from dovetail.trainer.models.gate import Gate
from dovetail.trainer.models.publish import Model, ModelDirectory
from dovetail.trainer.models.scorer import Scorer
from dovetail.trainer.optimizers import Optimizer, optimizer_named
from dovetail.trainer.samples.encoding import Encoder, InputSpec
from dovetail.trainer.samples.holdout import COLUMN as HELD_OUT
from dovetail.trainer.samples.holdout import Holdout
from dovetail.trainer.settings import Checkpointing, Publication, Recipe, SampleTopic
from dovetail.trainer.slots import SlotPolicy

__all__ = [
    "checkpointing_of",
    "encoder_of",
    "encoder_of_stored",
    "optimizer_of",
    "publication_of",
    "recipe_of",
    "sample_topic_of",
    "scorers_of",
    "trained_rows",
    "warm_scorer",
]


def encoder_of(model: ModelConfig) -> Encoder:
    """The encoder that the configured model's trainer and scorer share."""
    return Encoder([InputSpec(**declared.model_dump()) for declared in model.inputs], model.bits, model.loss)


def encoder_of_stored(model: Model, declared: ModelConfig | None) -> Encoder:
    """The encoder that ``model`` was trained with: the one it holds, or, of one that holds none, ``declared``'s.

    Raises:
        ModelError: it holds none, and what is declared has other inputs or is nothing.
    """
    if model.encoder is not None:
        return Encoder.from_description(model.encoder)
    if declared is None:
        raise ModelError("the model does not say how its inputs are encoded; name the project that it belongs to")
    encoder = encoder_of(declared)
    if encoder.fingerprint != model.fingerprint:
        raise ModelError("the model was trained with other inputs than the project's model has")
    return encoder


def optimizer_of(model: ModelConfig) -> Optimizer:
    """The optimizer that the configured model is trained with.

    Raises:
        ConfigError: it does not have one of the hyperparameters given.
    """
    given = model.optimizer.model_dump(exclude_none=True)
    try:
        return optimizer_named(given.pop("name"), given)
    except ConfigError as error:
        raise ConfigError(f"[model.optimizer]: {error}") from error


def trained_rows(model: ModelConfig, features: pa.Schema) -> pa.Schema:
    """The columns of samples that the configured trainer reads; ``features`` are the feature set's."""
    read = {name for spec in encoder_of(model).inputs for name in spec.reads} | {*model.evaluation.slices}
    fields = {field.name: field for field in features if field.name in read}
    for name in model.evaluation.slices:
        fields.setdefault(name, pa.field(name, pa.string()))  # one of the join's own columns
    for name, type_ in (
        ("request_id", pa.string()),
        ("request_time", pa.timestamp("us")),
        (model.label, pa.int8()),
        ("weight", pa.float32()),
    ):
        fields[name] = pa.field(name, type_, nullable=False)
    return pa.schema(fields.values())


def sample_topic_of(config: Config, model: ModelConfig, features: pa.Schema) -> SampleTopic:
    """The samples that the configured model is trained on; ``features`` are the feature set's."""
    return SampleTopic(
        config.labels.training_topic,
        label=model.label,
        schema=trained_rows(model, features),
        absent=model.absent_label or "refuse",
    )


def recipe_of(model: ModelConfig, *, mixed: int = 0) -> Recipe:
    """How the configured model is learnt, from samples of which each ``mixed`` in a row may be in any order.

    Raises:
        ConfigError: a hyperparameter, rule or column of metrics contradicts another.
    """
    evaluation = model.evaluation
    return Recipe(
        encoder_of(model),
        optimizer_of(model),
        slots=SlotPolicy(**model.slots.model_dump()),
        evaluation=Evaluation(evaluation.window, evaluation.windows, model.loss),
        groups=Groups(
            time="request_time",
            window_us=evaluation.time_window,
            windows=evaluation.time_windows,
            slices=(*evaluation.slices, *((HELD_OUT,) if evaluation.holdout else ())),
            values=evaluation.slice_values,
            loss=model.loss,
            optional=OF_EXPERIMENTS,
        ),
        ranking=RankingPolicy("request_id", evaluation.ranking_at, max(evaluation.ranking_reach, mixed)),
        holdout=Holdout.of(evaluation.holdout),
    )


def scorers_of(
    model: ModelConfig, models: ModelDirectory, *, beside: bool
) -> tuple[Scorer | LoadedBeside, Scorer | LoadedBeside | None]:
    """The scorer of the configured model, and of its shadow where it has one; ``beside``: they load beside serving."""
    encoder = encoder_of(model)
    serving = Scorer(models, encoder, on_damaged=ModelMetrics(model.name).damaged)
    shadow = Scorer(models, encoder, role="shadow") if model.shadow else None
    if not beside:
        return serving, shadow
    return LoadedBeside(serving), None if shadow is None else LoadedBeside(shadow)


def warm_scorer(scorer: Loadable | LoadedBeside, rows: pa.Schema) -> None:
    """Compile what scoring ``rows`` runs and load the model, so that a damaged file is said before the first request.

    Raises:
        ModelError: as :meth:`~dovetail.trainer.models.scorer.Scorer.refresh`.
    """
    scorer.warm(rows)
    scorer.refresh()


def checkpointing_of(model: ModelConfig, folder: Path) -> Checkpointing:
    """When the configured model's trainer keeps its state in ``folder``."""
    return Checkpointing(folder, model.checkpoint_every, model.checkpoint_delay)


def publication_of(model: ModelConfig, directory: ModelDirectory, max_message_bytes: int) -> Publication:
    """The publication of the configured model: its versions go to ``directory`` and, if it has one, to its topic."""
    return Publication(
        directory,
        every=model.publish_every,
        full_every=model.full_every,
        topic=model.topic or None,
        max_message_bytes=max_message_bytes,
        gate=Gate(**model.gate.model_dump()),
        delay_us=model.publish_delay,
    )
