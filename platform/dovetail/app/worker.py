"""The worker: configuration and definitions in, stages on a Faust app out.

``dovetail worker`` and ``faust -A dovetail.app worker`` run what :func:`assemble` puts together; so does the
demo, in its own process. This is the one place that knows every package.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from dovetail.app.broker import broker_app
from dovetail.app.datasets import datasets, label_intake, request_intake, stream_intake
from dovetail.app.gates import opened_gate
from dovetail.app.jobs import batch_versions
from dovetail.app.label_meanings import in_force
from dovetail.app.quality.live import sketched
from dovetail.app.roles import ROLES, group_of, roles_of
from dovetail.app.scoring import scoring_of
from dovetail.app.storage import Stores, open_stores
from dovetail.app.tracing.phases import Phases, TimedFeatures, TimedModel
from dovetail.app.tracing.spans import Spans
from dovetail.app.tracing.traced_stage import TracedStage
from dovetail.app.trainer_stage import gradient_stages, kept_metrics, shard_stages, sharding_of, trainer_stages
from dovetail.features.at_events.kept_views import KeptViews
from dovetail.features.plan.definitions import Stream, StreamView
from dovetail.features.plan.request import flatten_requests
from dovetail.features.project import Project, load
from dovetail.features.serving.feature_agent import FeatureStage
from dovetail.features.serving.online_features import OnlineFeatures
from dovetail.features.serving.rekeying import RekeyStage
from dovetail.features.stored.fingerprints import mark_of
from dovetail.features.stored.registration import as_registered, register
from dovetail.joiners.attribution import Attribution
from dovetail.joiners.contracts import FeatureServer
from dovetail.joiners.label_agent import LabelStage
from dovetail.joiners.meanings.judging import rules_for
from dovetail.joiners.meanings.known import Meanings
from dovetail.joiners.meanings.registered import register_labels
from dovetail.joiners.order import OrderStage
from dovetail.joiners.progress import (
    Retirement,
    forget_requests,
    label_clocks,
    label_watermark,
    newest_label_ms,
    request_clocks,
    request_watermark,
    retire_labels,
    sample_lanes,
)
from dovetail.joiners.sample_agent import LabelClock, SampleStage, SampleTarget
from dovetail.joiners.snapshot_agent import Ranking, Remembering, RequestTopic, SnapshotStage
from dovetail.joiners.snapshots.messages import Answers
from dovetail.joiners.watermark import SilentPartitions
from dovetail.platform.archive.writer import ArchiveStage
from dovetail.platform.clock import Clock, SystemClock
from dovetail.platform.errors import DovetailError
from dovetail.platform.process.probing import ChildProber
from dovetail.platform.rows.accounts import Account
from dovetail.platform.runtime.runner import App, Runtime
from dovetail.platform.runtime.signal import Signal
from dovetail.platform.runtime.trial import Trial
from dovetail.platform.stage import Gather, Observer, Stage
from dovetail.platform.stores.progress_view import ProgressView
from dovetail.platform.transports.coalescing import CoalescingConsumer
from dovetail.platform.transports.topic_reader import TopicReader
from dovetail.trainer.models.mirror import ModelMirror
from dovetail.trainer.sharded.stages.kept_stage import KeptStage
from dovetail.trainer.training import Trained, TrainerListeners, TrainerStage

__all__ = [
    "ROLES",
    "Worker",
    "assemble",
    "configured_app",
    "features_of",
    "label_watermark",
]


@dataclass(frozen=True, slots=True)
class Worker:
    """A worker put together and not yet started."""

    project: Project
    stores: Stores
    runtime: Runtime
    stages: Mapping[str, Stage]
    roles: tuple[str, ...]

    @property
    def samples(self) -> list[SampleStage]:
        """The sample stages of this worker: every lane of every target."""
        return [stage for stage in self.stages.values() if isinstance(stage, SampleStage)]

    @property
    def trainer(self) -> TrainerStage | None:
        """The trainer stage, when this worker has it."""
        stage = self.stages.get("trainer")
        return stage if isinstance(stage, TrainerStage) else None

    def accounts(self) -> list[Account]:
        """All accounts of all stores, and the trainer's."""
        return self.stores.accounts() + (self.trainer.accounts() if self.trainer is not None else [])


def assemble(
    project: Project,
    *,
    roles: Sequence[str] = (),
    on_trained: Callable[[Trained], None] | None = None,
    on_step: Callable[[str, str], None] | None = None,
    observer: Observer | None = None,
    clock: Clock | None = None,
    load_beside: bool = False,
    beside: Sequence[Stage] = (),
    spans: Spans | None = None,
) -> Worker:
    """Put a worker together: stores opened, stages made, attached to a Faust app that is not started.

    ``roles``: all that the configuration has something for when left out. They name the consumer group, see
    :func:`~dovetail.app.roles.group_of`. ``clock``: the machine's own when left out; by it messages from
    the future are refused. ``load_beside``: models are loaded beside serving, so no request waits for one; without it
    a version is taken up between two polls, and a run is the same every time. ``beside`` are further
    stages, of this process alone: it reads all of their topics. ``spans``: where messages that bring a trace are told.

    Raises:
        ConfigError: an unknown role, or a role that the configuration has nothing for.
        DefinitionError: a definition that has data means something else now.
    """
    roles = roles_of(project.config, roles)
    stores = open_stores(project.config)
    try:
        register(project, stores.registry, stores.online)
        labels = register_labels(project.config, project.label_schemas, stores.registry, stores.labels)
        project = in_force(as_registered(project, stores.registry), labels)
        config = project.config
        app = broker_app(config, group_of(config, roles), **config.worker.faust_settings())
    except DovetailError:
        stores.close()
        raise
    if config.model is not None:
        # Each process has its own directory of models; the trainer's state is one, whatever the partitions.
        app.shared |= frozenset({config.model.topic} - {""})
        one = "trainer" in roles and not config.trainer.sharded
        app.whole = frozenset({config.labels.training_topic} if one else ())
        if config.trainer.sharded:
            app.shared |= {sharding_of(config, config.model).topics.credits}
    parts = _Parts(
        project, stores, app, labels, on_trained, clock or SystemClock(), load_beside=load_beside, spans=spans
    )
    app.shared |= {topic for stage in beside for topic in stage.topics}
    stages = [*(stage for role in roles for stage in parts.make(role)), *beside]
    grace_s = config.worker.stop_timeout / 1_000_000 / 2
    prober = ChildProber([sys.executable, "-m", "dovetail.app.probed_stage"], project)
    trial = Trial(config.path(config.storage.state) / "trial", prober)
    local = config.storage.local
    runtime = Runtime(app, stages, on_step=on_step, observer=observer, grace_s=grace_s, trial=trial, local=local)
    parts.runtime = runtime
    return Worker(project, stores, runtime, {stage.name: stage for stage in stages}, roles)


class _Parts:
    """Makes the stages of each role; they share stores, intakes and the signal that labels have moved."""

    def __init__(
        self,
        project: Project,
        stores: Stores,
        app: App,
        labels: Meanings,
        on_trained: Callable[[Trained], None] | None,
        clock: Clock,
        *,
        load_beside: bool,
        spans: Spans | None,
    ) -> None:
        self.load_beside, self.spans = load_beside, spans
        self.project, self.config, self.stores, self.app = project, project.config, stores, app
        self.on_trained = on_trained
        self.runtime: Runtime | None = None
        self.moved = Signal()
        self.label_progress = ProgressView(stores.labels.progress)
        self.gate = opened_gate(project, stores, clock)
        self.features = features_of(project, stores)
        self.labels = labels

    def make(self, role: str) -> list[Stage]:
        """The stages of one role."""
        makers: dict[str, Callable[[], list[Stage]]] = {
            "rekey": self._rekey,
            "features": self._features,
            "snapshots": self._snapshots,
            "labels": self._labels,
            "samples": self._samples,
            "trainer": self._trainer,
            "shards": lambda: shard_stages(self.project, self.stores),
            "gradients": lambda: gradient_stages(self.project, self.stores),
            "models": self._models,
            "archive": self._archive,
        }
        stages = makers[role]()
        for stage in stages:
            # What is between the shards of a model is on its way already.
            if not isinstance(stage, KeptStage):
                stage.gather = Gather(self.config.worker.gather.wait_us(role))
            if role == "snapshots":  # embedded nothing waits for servers, and a run is the same each time
                stage.by_partition = not self.config.storage.local
        return stages

    def _rekey(self) -> list[Stage]:
        streams = self.project.streams
        return [
            RekeyStage(
                streams[name],
                streams[declared.stream].topic,
                stream_intake(self.project, declared.stream, self.gate),
                self.stores.registry,
                partitions=declared.partitions,
                # One stage speaks for a stream: its feature agent, or else the first that re-keys it.
                dead_letter_topic=self.config.dead_letter_topic if name == self._speaker(declared.stream) else None,
                versions=batch_versions(self.project, self.stores) if declared.enrich else None,
                kept=self._kept_views(streams[name]),
                again=declared.stream in self.config.rekeyed,
            )
            for name, declared in self.config.rekeyed.items()
        ]

    def _kept_views(self, rekeyed: Stream) -> KeptViews | None:
        views = [view for view in rekeyed.enriched if isinstance(view, StreamView)]
        return KeptViews(rekeyed, self.stores.online, {v.name: mark_of(v) for v in views}) if views else None

    def _speaker(self, stream: str) -> str:
        """The stream whose agent sends the dead letters of ``stream``: itself, or one re-keyed from it."""
        rekeyed = [name for name, declared in self.config.rekeyed.items() if declared.stream == stream]
        return stream if self._views_of(stream) or not rekeyed else rekeyed[0]

    def _views_of(self, stream: str) -> list[StreamView]:
        return [view for view in self.project.stream_views.values() if stream in view.stream_names]

    def _features(self) -> list[Stage]:
        stages: list[Stage] = []
        for name, stream in self.project.streams.items():
            if views := self._views_of(name):
                intake = stream_intake(self.project, name, self.gate)
                dead = self.config.dead_letter_topic
                stages.append(FeatureStage(stream, views, intake, self.stores.online, dead_letter_topic=dead))
        return [self._traced(stage, Phases(), root="event", last="state") for stage in stages]

    def _traced(self, stage: Stage, phases: Phases, *, root: str, last: str) -> Stage:
        return stage if self.spans is None else TracedStage(stage, self.spans, phases, root=root, last=last)

    def _snapshots(self) -> list[Stage]:
        scoring = scoring_of(self.project, self.stores, beside=self.load_beside)
        warm = [self.features.warm, *scoring.warm]
        request = self.config.request
        attributed, phases = bool(self.config.labels.attributed), Phases()
        features: FeatureServer = self.features
        if self.spans is not None:
            features, scoring = TimedFeatures(features, phases), scoring.each(lambda model: TimedModel(model, phases))
        stage = SnapshotStage(
            RequestTopic(request.topic, request_intake(self.project, self.gate), flatten_requests),
            Ranking(
                features,
                scoring.serving,
                scoring.shadow,
                scoring.experiment,
                feature_set=self.project.feature_set.name,
                meaning=self.labels.current.fingerprint,
                warm=warm,
            ),
            Answers(
                request.snapshots_topic,
                self.config.dead_letter_topic,
                reply_topics=self.config.reply_topics,
                max_message_bytes=self.config.broker.max_message_bytes,
            ),
            self.stores.registry,
            remembering=Remembering(request.allowed_lateness, self.moved) if attributed else None,
            snapshots=TopicReader(self._consumer, request.snapshots_topic),
            unique_within_us=request.unique_within,
        )
        return [self._traced(stage, phases, root="request", last="snapshot")]

    def _labels(self) -> list[Stage]:
        labels = self.config.labels
        within = labels.attributed
        return [
            LabelStage(
                kind,
                stream.topic or kind,
                label_intake(self.project, kind, self.gate),
                self.stores.labels,
                allowed_lateness_us=labels.allowed_lateness,
                needed=partial(self.labels.needed, kind, self.project.label_schemas[kind], labels),
                dead_letter_topic=self.config.dead_letter_topic,
                moved=self.moved,
                attribution=self._attribution(within[kind]) if kind in within else None,
                on_stored=self._forget_requests if kind in within else lambda: None,
                view=self.label_progress,
            )
            for kind, stream in labels.streams.items()
        ]

    def _attribution(self, within_us: int) -> Attribution:
        silent = SilentPartitions(
            lambda: request_clocks(self.config, self.stores.registry, self._ends()),
            allowed_lateness_us=self.config.request.allowed_lateness,
            idle_timeout_us=self.config.labels.idle_timeout,
        )
        settled = partial(request_watermark, self.config, self.stores.registry)
        newest_ms = partial(newest_label_ms, self.config, self.stores.labels)
        return Attribution(self.stores.registry, settled, silent, newest_ms=newest_ms, within_us=within_us)

    def _forget_requests(self) -> None:
        forget_requests(self.config, self.stores.labels, self.stores.registry)

    def _samples(self) -> list[Stage]:
        labels = self.config.labels
        silent = SilentPartitions(
            lambda: label_clocks(self.config, self.label_progress, self._ends()),
            allowed_lateness_us=labels.allowed_lateness,
            idle_timeout_us=labels.idle_timeout,
        )
        retirement = Retirement(
            lambda: retire_labels(
                in_force(self.project, self.labels).config, self.stores.labels, self.stores.registry, self._ends()
            ),
            SystemClock(),
        )
        watermark = partial(label_watermark, self.config, self.label_progress)
        clock = LabelClock(watermark, self.moved, silent.announcements)
        stages: list[Stage] = [
            SampleStage(
                SampleTarget(lane, declared.samples_topic, rules_for(self.labels, lane.target)),
                self.stores.labels,
                self.features,
                clock,
                on_blocked=lambda: self.runtime.notify() if self.runtime is not None else None,
                on_released=retirement,
            )
            for lane, declared in sample_lanes(self.config)
        ]
        if (order := labels.order) is not None:
            repair = OrderStage(
                labels.samples_topic,
                labels.training_topic,
                self.stores.registry,
                block_rows=order.block_rows,
                max_delay_us=order.max_delay,
                seed=order.seed,
            )
            stages.append(repair)
        return stages

    def _trainer(self) -> list[Stage]:
        if self.config.model is None:
            return []
        keep = kept_metrics(self.config.model.name, self.stores)
        listeners = TrainerListeners(on_trained=self.on_trained, on_evaluated=keep)
        topic = TopicReader(self._consumer, self.config.labels.training_topic)
        return trainer_stages(self.project, self.stores, listeners, topic.bounds)

    def _models(self) -> list[Stage]:
        model = self.config.model
        return [ModelMirror(model.topic, self.stores.models)] if model is not None and model.topic else []

    def _archive(self) -> list[Stage]:
        archive = self.config.archive
        make = partial(ArchiveStage, max_rows=archive.max_rows, max_delay_us=archive.max_delay)
        kept = datasets(self.project, self.gate)
        if self.config.quality.live:
            kept = [sketched(self.project, dataset) for dataset in kept]
        return [make(dataset, self.stores.registry, self.stores.offline) for dataset in kept]

    def _consumer(self) -> CoalescingConsumer:
        assert self.runtime is not None  # noqa: S101 - stages that run have one
        return self.runtime.consumer

    def _ends(self) -> Callable[[str, int], int | None]:
        return self.runtime.ends() if self.runtime is not None else lambda _topic, _number: None


def features_of(project: Project, stores: Stores) -> OnlineFeatures:
    """The features as agents have them: served from the online store, batch features looked up as of the request."""
    versions = batch_versions(project, stores)
    views = as_registered(project, stores.registry).stream_views
    return OnlineFeatures(project.feature_set, views, stores.online, versions)


def configured_app() -> App:
    """The Faust app of the project in ``$DOVETAIL_PROJECT``, or else in the working directory."""
    return assemble(load(os.environ.get("DOVETAIL_PROJECT", ".")), load_beside=True).runtime.app
