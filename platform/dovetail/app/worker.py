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
from dovetail.app.datasets import datasets, label_intake, stream_intake
from dovetail.app.gates import opened_gate
from dovetail.app.jobs import batch_versions
from dovetail.app.label_meanings import in_force
from dovetail.app.quality.live import sketched
from dovetail.app.roles import ROLES, group_of, roles_of
from dovetail.app.scenes.scene_stages import SceneStages, Shared
from dovetail.app.storage import Stores, open_stores
from dovetail.app.tracing.phases import Phases
from dovetail.app.tracing.spans import Spans
from dovetail.app.tracing.traced_stage import TracedStage
from dovetail.app.trainer_stage import sharding_of
from dovetail.features.at_events.kept_views import KeptViews
from dovetail.features.plan.definitions import Stream, StreamView
from dovetail.features.project import Project, load
from dovetail.features.serving.feature_agent import FeatureStage
from dovetail.features.serving.online_features import OnlineFeatures
from dovetail.features.serving.rekeying import RekeyStage
from dovetail.features.serving.versions import BatchVersions
from dovetail.features.stored.fingerprints import mark_of
from dovetail.features.stored.registration import as_registered, register
from dovetail.joiners.attribution import Attribution
from dovetail.joiners.label_agent import LabelStage
from dovetail.joiners.meanings.known import Meanings
from dovetail.joiners.meanings.registered import register_labels
from dovetail.joiners.progress import (
    Retirement,
    forget_requests,
    label_clocks,
    label_watermark,
    newest_label_ms,
    request_clocks,
    request_watermark,
    retire_labels,
)
from dovetail.joiners.sample_agent import SampleStage
from dovetail.joiners.watermark import SilentPartitions
from dovetail.platform.archive.writer import ArchiveStage
from dovetail.platform.clock import Clock, SystemClock
from dovetail.platform.errors import ConfigError, DovetailError
from dovetail.platform.process.probing import ChildProber
from dovetail.platform.rows.accounts import Account
from dovetail.platform.runtime.runner import App, Runtime
from dovetail.platform.runtime.signal import Signal
from dovetail.platform.runtime.trial import Trial
from dovetail.platform.stage import Gather, Observer, Stage
from dovetail.platform.stores.progress_view import ProgressView
from dovetail.platform.transports.coalescing import CoalescingConsumer
from dovetail.trainer.sharded.stages.kept_stage import KeptStage
from dovetail.trainer.training import Trained, TrainerStage

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
        """The sample stages of this worker: every lane of every target of every scene."""
        return [stage for stage in self.stages.values() if isinstance(stage, SampleStage)]

    @property
    def trainer(self) -> TrainerStage | None:
        """The trainer stage of the scene without a name, when this worker has it."""
        stage = self.stages.get("trainer")
        return stage if isinstance(stage, TrainerStage) else None

    def accounts(self) -> list[Account]:
        """All accounts of all stores, and the trainers'."""
        trainers = [stage for stage in self.stages.values() if isinstance(stage, TrainerStage)]
        return [*self.stores.accounts(), *(account for trainer in trainers for account in trainer.accounts())]


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
        ConfigError: an unknown role, a role that the configuration has nothing for, or one scene of a project alone.
        DefinitionError: a definition that has data means something else now.
    """
    if project.config.scene:
        raise ConfigError(f"a worker runs all scenes; give the project that {project.config.scene} is a scene of")
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
    for scene in config.every_scene():
        if scene.model is None:
            continue
        # Each process has its own directory of models; the trainer's state is one, whatever the partitions.
        app.shared |= frozenset({scene.model.topic} - {""})
        one = "trainer" in roles and not scene.trainer.sharded
        app.whole |= frozenset({scene.labels.training_topic} if one else ())
        if scene.trainer.sharded:
            app.shared |= {sharding_of(scene, scene.model).topics.credits}
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
        self.spans = spans
        self.project, self.config, self.stores, self.app = project, project.config, stores, app
        self.runtime: Runtime | None = None
        self.moved = Signal()
        self.label_progress = ProgressView(stores.labels.progress)
        self.gate = opened_gate(project, stores, clock)
        self.labels = labels
        shared = Shared(
            stores,
            self.gate,
            self.moved,
            self.label_progress,
            self._silent_labels(),
            Retirement(self._retire, SystemClock()),
            self._notify,
            self._consumer,
            self._ends,
            on_trained,
            load_beside,
            spans,
        )
        versions = batch_versions(project, stores)
        self.scenes = [
            SceneStages(scene, labels.of_scene(scene.config.scene), features_of(scene, stores, versions), shared)
            for scene in project.scenes
        ]

    def make(self, role: str) -> list[Stage]:
        """The stages of one role."""
        makers: dict[str, Callable[[], list[Stage]]] = {
            "rekey": self._rekey,
            "features": self._features,
            "snapshots": partial(self._of_scenes, SceneStages.snapshots),
            "labels": self._labels,
            "samples": partial(self._of_scenes, SceneStages.samples),
            "trainer": partial(self._of_scenes, SceneStages.trainer),
            "shards": partial(self._of_scenes, SceneStages.shards),
            "gradients": partial(self._of_scenes, SceneStages.gradients),
            "models": partial(self._of_scenes, SceneStages.models),
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

    def _of_scenes(self, make: Callable[[SceneStages], list[Stage]]) -> list[Stage]:
        return [stage for scene in self.scenes for stage in make(scene)]

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
        if self.spans is None:
            return stages
        return [TracedStage(stage, self.spans, Phases(), root="event", last="state") for stage in stages]

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

    def _archive(self) -> list[Stage]:
        archive = self.config.archive
        make = partial(ArchiveStage, max_rows=archive.max_rows, max_delay_us=archive.max_delay)
        kept = datasets(self.project, self.gate)
        if self.config.quality.live:
            kept = [sketched(self.project, dataset) for dataset in kept]
        return [make(dataset, self.stores.registry, self.stores.offline) for dataset in kept]

    def _silent_labels(self) -> SilentPartitions:
        return SilentPartitions(
            lambda: label_clocks(self.config, self.label_progress, self._ends()),
            allowed_lateness_us=self.config.labels.allowed_lateness,
            idle_timeout_us=self.config.labels.idle_timeout,
        )

    def _retire(self) -> None:
        config = in_force(self.project, self.labels).config
        retire_labels(config, self.stores.labels, self.stores.registry, self._ends())

    def _notify(self) -> None:
        if self.runtime is not None:
            self.runtime.notify()

    def _consumer(self) -> CoalescingConsumer:
        assert self.runtime is not None  # noqa: S101 - stages that run have one
        return self.runtime.consumer

    def _ends(self) -> Callable[[str, int], int | None]:
        return self.runtime.ends() if self.runtime is not None else lambda _topic, _number: None


def features_of(project: Project, stores: Stores, versions: BatchVersions | None = None) -> OnlineFeatures:
    """The features as agents have them: served from the online store, batch features looked up as of the request.

    ``versions``: those of batch views, where others read them, too.
    """
    versions = versions or batch_versions(project, stores)
    views = as_registered(project, stores.registry).stream_views
    return OnlineFeatures(project.feature_set, views, stores.online, versions)


def configured_app() -> App:
    """The Faust app of the project in ``$DOVETAIL_PROJECT``, or else in the working directory."""
    return assemble(load(os.environ.get("DOVETAIL_PROJECT", ".")), load_beside=True).runtime.app
