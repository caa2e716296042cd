"""The trainer of a project: the stage that a worker runs, and whether it would go on from the last checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from dovetail.app.modelling import checkpointing_of, publication_of, recipe_of, sample_topic_of
from dovetail.app.storage import Stores
from dovetail.features import Project
from dovetail.platform.errors import ModelError
from dovetail.trainer.metrics.measures import Metrics
from dovetail.trainer.metrics.telemetry import ModelMetrics, metric_rows, ranking_rows
from dovetail.trainer.training import TrainerListeners, TrainerStage

__all__ = ["checkpoint_refusal", "kept_metrics", "trainer_of"]


def trainer_of(project: Project, stores: Stores, listeners: TrainerListeners | None = None) -> TrainerStage | None:
    """The stage that trains the configured model; None for a project without one.

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
    )


def kept_metrics(name: str, stores: Stores) -> Callable[[int, Sequence[tuple[str, Metrics]]], None]:
    """A listener that keeps the metrics of model ``name`` in the registry, and exposes the newest."""
    gauges = ModelMetrics(name)

    def keep(trained: int, metrics: Sequence[tuple[str, Metrics]]) -> None:
        stores.registry.add_metrics(metric_rows(name, trained, metrics))
        stores.registry.add_rankings(ranking_rows(name, trained, metrics))
        gauges.update(trained, metrics)

    return keep


def checkpoint_refusal(project: Project, stores: Stores) -> str | None:
    """Why the trainer would not go on from its last checkpoint; None where it would, or there is none."""
    try:
        trainer_of(project, stores)
    except ModelError as error:
        return str(error)
    return None
