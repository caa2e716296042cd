"""The stages of one scene: its requests answered, its samples made, its model trained.

All scenes of a worker share streams, states of views, labels and stores; what a scene has of its own is in the project
as the scene has it (:meth:`~dovetail.features.project.Project.scene`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from dovetail.app.datasets import Gate, request_intake
from dovetail.app.scoring import scoring_of
from dovetail.app.storage import Stores, stores_of
from dovetail.app.tracing.phases import Phases, TimedFeatures, TimedModel
from dovetail.app.tracing.spans import Spans
from dovetail.app.tracing.traced_stage import TracedStage
from dovetail.app.trainer_stage import gradient_stages, kept_metrics, shard_stages, trainer_stages
from dovetail.features.plan.request import flatten_requests
from dovetail.features.project import Project
from dovetail.features.serving.online_features import OnlineFeatures
from dovetail.joiners.contracts import FeatureServer
from dovetail.joiners.meanings.judging import rules_for
from dovetail.joiners.meanings.known import Meanings
from dovetail.joiners.order import OrderStage
from dovetail.joiners.progress import EndOffset, label_watermark, sample_lanes
from dovetail.joiners.sample_agent import LabelClock, SampleStage, SampleTarget
from dovetail.joiners.snapshot_agent import Ranking, Remembering, RequestTopic, SnapshotStage
from dovetail.joiners.snapshots.messages import Answers
from dovetail.joiners.watermark import SilentPartitions
from dovetail.platform.runtime.signal import Signal
from dovetail.platform.stage import Stage
from dovetail.platform.stores.progress_view import ProgressView
from dovetail.platform.transports.coalescing import CoalescingConsumer
from dovetail.platform.transports.topic_reader import TopicReader
from dovetail.trainer.models.mirror import ModelMirror
from dovetail.trainer.training import Trained, TrainerListeners

__all__ = ["SceneStages", "Shared"]


@dataclass(frozen=True, slots=True)
class Shared:
    """All that the scenes of a worker share.

    ``moved`` is signalled when labels have moved, ``label_progress`` says how far; ``silent`` speaks for silent
    partitions of labels. ``retire`` lets label rows go that no scene needs, ``on_blocked`` is told when samples wait.
    ``consumer`` and ``ends`` are there when stages run.
    """

    stores: Stores
    gate: Gate
    moved: Signal
    label_progress: ProgressView
    silent: SilentPartitions
    retire: Callable[[], None]
    on_blocked: Callable[[], None]
    consumer: Callable[[], CoalescingConsumer]
    ends: Callable[[], EndOffset]
    on_trained: Callable[[Trained], None] | None
    load_beside: bool
    spans: Spans | None


class SceneStages:
    """Makes the stages of a scene, which share its features."""

    def __init__(self, project: Project, labels: Meanings, features: OnlineFeatures, shared: Shared) -> None:
        """``project`` is as the scene has it, ``labels`` are the scene's."""
        self._project, self._config = project, project.config
        self._labels, self._features, self._shared = labels, features, shared
        self._stores = stores_of(project.config, shared.stores)

    def snapshots(self) -> list[Stage]:
        """The stage that answers requests."""
        shared, request = self._shared, self._config.request
        scoring = scoring_of(self._project, self._stores, beside=shared.load_beside)
        warm = [self._features.warm, *scoring.warm]
        attributed, phases = bool(self._config.labels.attributed), Phases()
        features: FeatureServer = self._features
        if shared.spans is not None:
            features, scoring = TimedFeatures(features, phases), scoring.each(lambda model: TimedModel(model, phases))
        stage = SnapshotStage(
            RequestTopic(request.topic, request_intake(self._project, shared.gate), flatten_requests),
            Ranking(
                features,
                scoring.serving,
                scoring.shadow,
                scoring.experiment,
                feature_set=self._project.feature_set.name,
                meaning=self._labels.current.fingerprint,
                warm=warm,
            ),
            Answers(
                request.snapshots_topic,
                self._config.dead_letter_topic,
                reply_topics=self._config.reply_topics,
                max_message_bytes=self._config.broker.max_message_bytes,
            ),
            self._stores.registry,
            remembering=Remembering(request.allowed_lateness, shared.moved) if attributed else None,
            snapshots=TopicReader(shared.consumer, request.snapshots_topic),
            unique_within_us=request.unique_within,
            scene=self._config.scene,
        )
        if shared.spans is None:
            return [stage]
        return [TracedStage(stage, shared.spans, phases, root="request", last="snapshot")]

    def samples(self) -> list[Stage]:
        """The stages that make samples, and the one that orders them, if they are to be."""
        shared, labels = self._shared, self._config.labels
        watermark = partial(label_watermark, self._config, shared.label_progress)
        clock = LabelClock(watermark, shared.moved, shared.silent.announcements)
        stages: list[Stage] = [
            SampleStage(
                SampleTarget(lane, declared.samples_topic, rules_for(self._labels, lane.target)),
                self._stores.labels,
                self._features,
                clock,
                on_blocked=shared.on_blocked,
                on_released=shared.retire,
            )
            for lane, declared in sample_lanes(self._config)
        ]
        if (order := labels.order) is not None:
            repair = OrderStage(
                labels.samples_topic,
                labels.training_topic,
                self._stores.registry,
                block_rows=order.block_rows,
                max_delay_us=order.max_delay,
                seed=order.seed,
            )
            stages.append(repair)
        return stages

    def trainer(self) -> list[Stage]:
        """The stages that train; none without a model."""
        if self._config.model is None:
            return []
        keep = kept_metrics(self._config.model.name, self._stores)
        on_trained = None if self._config.scene else self._shared.on_trained
        listeners = TrainerListeners(on_trained=on_trained, on_evaluated=keep)
        topic = TopicReader(self._shared.consumer, self._config.labels.training_topic)
        return trainer_stages(self._project, self._stores, listeners, topic.bounds)

    def shards(self) -> list[Stage]:
        """The stages of the shards of a model that is on some."""
        return shard_stages(self._project, self._stores)

    def gradients(self) -> list[Stage]:
        """The stages that work out the gradients of a model that is trained by samples."""
        return gradient_stages(self._project, self._stores)

    def models(self) -> list[Stage]:
        """The stage that takes models from their topic."""
        model = self._config.model
        return [ModelMirror(model.topic, self._stores.models)] if model is not None and model.topic else []
