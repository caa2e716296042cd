"""The trainer of a project: the stages that a worker runs, and whether it would go on from the last checkpoint."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from dovetail.app.modelling import (
    checkpointing_of,
    encoder_of,
    optimizer_of,
    publication_of,
    recipe_of,
    sample_topic_of,
)
from dovetail.app.storage import Stores
from dovetail.features import Project
from dovetail.platform.config.load import Config, ModelConfig
from dovetail.platform.errors import ConfigError, ModelError
from dovetail.platform.rows.accounts import Account
from dovetail.platform.rows.positions import Progress
from dovetail.platform.stage import Stage
from dovetail.trainer.learner import Learner
from dovetail.trainer.metrics.measures import Metrics
from dovetail.trainer.metrics.progressive import Evaluation
from dovetail.trainer.metrics.telemetry import ModelMetrics, metric_rows, ranking_rows
from dovetail.trainer.models.checkpoint import CheckpointStore
from dovetail.trainer.models.handed_over import Bounds, unbounded
from dovetail.trainer.models.state_files import StateFiles
from dovetail.trainer.optimizers import DelayCompensated, Optimizer
from dovetail.trainer.settings import SampleTopic
from dovetail.trainer.sharded.stages.gather_stage import GatherStage
from dovetail.trainer.sharded.stages.gradient_stage import GradientStage
from dovetail.trainer.sharded.stages.kept_stage import KeptStage
from dovetail.trainer.sharded.stages.laying_down import lay_down
from dovetail.trainer.sharded.stages.reduce_stage import ReduceStage
from dovetail.trainer.sharded.stages.shard_stage import ShardStage
from dovetail.trainer.sharded.stages.shard_topics import Sharding, ShardTopics
from dovetail.trainer.sharded.stages.sharded_recipe import ShardedRecipe
from dovetail.trainer.sharded.stages.split_stage import SplitStage
from dovetail.trainer.sharded.stages.version_stage import VersionStage
from dovetail.trainer.training import LEFT_OUT, TRAINED, TrainerListeners, TrainerStage

__all__ = [
    "checkpoint_refusal",
    "evaluation_of",
    "gradient_stages",
    "kept_metrics",
    "lay_down_on_shards",
    "shard_stages",
    "sharding_of",
    "trainer_of",
    "trainer_stages",
]


def trainer_of(
    project: Project,
    stores: Stores,
    listeners: TrainerListeners | None = None,
    bounds: Bounds = unbounded,
) -> TrainerStage | None:
    """The stage that trains the configured model; None for a project without one.

    ``bounds`` tells what the topic of samples has of a partition; it is asked in a thread.

    Raises:
        ModelError: the last checkpoint is corrupt, or was written under another configuration.
    """
    config = project.config
    model, order = config.model, config.labels.order
    if model is None:
        return None
    return TrainerStage(
        sample_topic_of(config, model, project.feature_set.schema),
        recipe_of(model, mixed=order.block_rows if order else 0),
        checkpointing_of(model, stores.checkpoints),
        publication_of(model, stores.models, config.broker.max_message_bytes),
        listeners=listeners,
        bounds=bounds,
        name=config.in_scene("trainer"),
    )


def sharding_of(config: Config, model: ModelConfig) -> Sharding:
    """The shards that the configured model is on, and the topics between them."""
    trainer = config.trainer
    staleness = None if isinstance(trainer.staleness, str) else trainer.staleness
    return Sharding(
        ShardTopics(*trainer.topics(model.name)),
        trainer.shards or 1,
        staleness,
        trainer.batch_rows,
        config.broker.max_message_bytes,
        trainer.gradient_workers,
    )


def trainer_stages(
    project: Project,
    stores: Stores,
    listeners: TrainerListeners,
    bounds: Bounds = unbounded,
) -> list[Stage]:
    """The stages of the role ``trainer``: one that trains, or those around the shards of a model that is on some.

    ``bounds``: as for :func:`trainer_of`.

    Raises:
        ModelError: a checkpoint is corrupt, or was written under another configuration, or with shards and without.
    """
    config, model = project.config, project.config.model
    if model is None:
        return []
    kept = checkpointing_of(model, stores.checkpoints)
    if not config.trainer.sharded:
        if StateFiles(kept.folder / "splitter").newest():
            raise ModelError(
                f"{kept.folder} has checkpoints of a model on shards, from which one without does not go on; say "
                "[trainer] shards as before, or give the model another name"
            )
        stage = trainer_of(project, stores, listeners, bounds)
        return [] if stage is None else [stage]
    if CheckpointStore(kept.folder).newest():
        raise ModelError(
            f"{kept.folder} has checkpoints of a trainer without shards, from which shards do not go on; remove "
            "[trainer] shards, or give the model another name"
        )
    sharding = sharding_of(config, model)
    recipe = _sharded_recipe(project, model)
    samples = recipe.samples
    publication = publication_of(model, stores.models, config.broker.max_message_bytes)
    return [
        GatherStage(samples, sharding, stores.registry),
        *_resumable(
            SplitStage(recipe, sharding, samples, publication, kept),
            ReduceStage(recipe, sharding, publication.gate, kept, on_evaluated=listeners.on_evaluated),
            VersionStage(encoder_of(model), sharding, publication, kept, on_publish=listeners.on_publish),
        ),
    ]


def shard_stages(project: Project, stores: Stores) -> list[Stage]:
    """The stage of the role ``shards``; none for a model that is on none.

    Raises:
        ModelError: a checkpoint is corrupt, or was written under another configuration.
    """
    config, model = project.config, project.config.model
    if model is None or not config.trainer.sharded:
        return []
    kept = checkpointing_of(model, stores.checkpoints)
    return _resumable(ShardStage(encoder_of(model), _shard_optimizer(config, model), sharding_of(config, model), kept))


def gradient_stages(project: Project, stores: Stores) -> list[Stage]:
    """The stage of the role ``gradients``; none for a model that is not by samples.

    Raises:
        ModelError: a checkpoint is corrupt, or was written under another configuration.
    """
    config, model = project.config, project.config.model
    if model is None or not config.trainer.gradient_workers:
        return []
    kept = checkpointing_of(model, stores.checkpoints)
    return _resumable(GradientStage(_sharded_recipe(project, model), sharding_of(config, model), kept))


def _sharded_recipe(project: Project, model: ModelConfig) -> ShardedRecipe:
    config, order = project.config, project.config.labels.order
    samples = sample_topic_of(config, model, project.feature_set.schema)
    return ShardedRecipe(recipe_of(model, mixed=order.block_rows if order else 0), samples)


def _shard_optimizer(config: Config, model: ModelConfig) -> Optimizer:
    """The optimizer of the shards, which may compensate delays."""
    strength = config.trainer.compensation
    return DelayCompensated(optimizer_of(model), strength) if strength else optimizer_of(model)


def lay_down_on_shards(
    config: Config, stores: Stores, learner: Learner, counted: Mapping[int, Progress], accounts: Sequence[Account]
) -> None:
    """Store a trained model as the first state of the project's model on shards.

    ``counted``: the samples that it includes, by partition; ``accounts`` are of them. All states are there at once;
    before the positions are in the registry, samples that come again are dropped, so a crash then counts none twice.

    Raises:
        ConfigError: the model has states, or a position.
        ModelError: the model has diverged.
    """
    model = config.model
    if model is None:
        raise ConfigError("the project has no [model]")
    folder, sharding = checkpointing_of(model, stores.checkpoints).folder, sharding_of(config, model)
    if (folder.exists() and any(folder.iterdir())) or stores.registry.progress(sharding.books):
        raise ConfigError(
            f"{folder}: the trainer has states of {model.name} already and would go on from them; give the model "
            "another name"
        )
    draft = folder.with_name(f".{folder.name}.laid-down")
    if draft.exists():
        shutil.rmtree(draft)  # of a call that was cut short
    kept = checkpointing_of(model, stores.checkpoints)
    kept = replace(kept, folder=draft)
    samples = SampleTopic(config.labels.training_topic, label=model.label, absent=model.absent_label or "refuse")
    recipe = ShardedRecipe(recipe_of(model), samples)
    publication = publication_of(model, stores.models, config.broker.max_message_bytes)
    encoder = encoder_of(model)
    lay_down(
        learner,
        {partition: progress.next_offset for partition, progress in counted.items()},
        sum(account.rows for account in accounts if account.outcome in (TRAINED, LEFT_OUT)),
        splitter=SplitStage(recipe, sharding, samples, publication, kept),
        reducer=ReduceStage(recipe, sharding, publication.gate, kept),
        versions=VersionStage(encoder, sharding, publication, kept),
        shards=ShardStage(encoder, _shard_optimizer(config, model), sharding, kept),
    )
    draft.rename(folder)
    for partition, progress in counted.items():
        books = [account._replace(stage=sharding.books) for account in accounts if account.partition == partition]
        stores.registry.commit(sharding.books, partition, expected=0, progress=progress, accounts=books)


def evaluation_of(stages: Mapping[str, Stage]) -> Evaluation | None:
    """The evaluation of all that these stages of a stopped worker predicted before they trained on it."""
    for stage in stages.values():
        if isinstance(stage, TrainerStage):
            return stage.learner.evaluation
        if isinstance(stage, ReduceStage):
            return stage.stored_evaluation()
    return None


def _resumable(*stages: KeptStage[Any]) -> list[Stage]:
    for stage in stages:
        stage.resume(stage.topic)
    return list(stages)


def kept_metrics(name: str, stores: Stores) -> Callable[[int, Sequence[tuple[str, Metrics]]], None]:
    """A listener that keeps the metrics of model ``name`` in the registry, and exposes the newest."""
    gauges = ModelMetrics(name)

    def keep(trained: int, metrics: Sequence[tuple[str, Metrics]]) -> None:
        stores.registry.add_metrics(metric_rows(name, trained, metrics))
        stores.registry.add_rankings(ranking_rows(name, trained, metrics))
        gauges.update(trained, metrics)

    return keep


def checkpoint_refusal(project: Project, stores: Stores) -> str | None:
    """Why trainer or shards would not go on from their last checkpoints; None where they would, or there are none."""
    try:
        trainer_stages(project, stores, TrainerListeners())
        shard_stages(project, stores)
        gradient_stages(project, stores)
    except ModelError as error:
        return str(error)
    return None
