"""``dovetail.toml``: what runs, where it reads and where it keeps things.

Definitions of features are SQL (``sql/``); this file declares what SQL cannot say: topics, event-time columns,
lateness, schedules, label policy, model inputs, and the URLs of broker and stores. It is read once, before anything
starts; a wrong key or value is refused with its place and, for a misspelt key, the nearest known one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field, PrivateAttr, ValidationError, model_validator

from dovetail.platform.config.archive import ArchiveConfig
from dovetail.platform.config.broker import FOREVER_MS, BrokerConfig, Retention
from dovetail.platform.config.durations import DurationUs, parse_duration, render_duration
from dovetail.platform.config.features import BatchConfig, BatchViewConfig, FeaturesConfig, TableConfig
from dovetail.platform.config.model import (
    EvaluationConfig,
    GateConfig,
    ModelConfig,
    ModelInput,
    OptimizerConfig,
    ScorerConfig,
    SlotConfig,
    TrainerConfig,
)
from dovetail.platform.config.openlineage import OpenLineageConfig
from dovetail.platform.config.order import OrderConfig
from dovetail.platform.config.policy import LabelConfig, PolicyConfig, Reach
from dovetail.platform.config.quality.rules import QualityConfig
from dovetail.platform.config.redis import RedisConfig
from dovetail.platform.config.refusals.reading import merged, read_sections
from dovetail.platform.config.refusals.wording import explained
from dovetail.platform.config.request import RequestConfig
from dovetail.platform.config.section import Name, Section
from dovetail.platform.config.served.api import ApiConfig
from dovetail.platform.config.served.console import ConsoleConfig
from dovetail.platform.config.served.experiments import Experiments
from dovetail.platform.config.served.scenes import SceneRequest, Scenes, in_scene
from dovetail.platform.config.storage.urls import StorageConfig
from dovetail.platform.config.stream import LabelStreamConfig, RekeyedConfig, StreamConfig
from dovetail.platform.config.worker import WorkerConfig
from dovetail.platform.errors import ConfigError

__all__ = [
    "ArchiveConfig",
    "BatchConfig",
    "BatchViewConfig",
    "BrokerConfig",
    "Config",
    "DurationUs",
    "EvaluationConfig",
    "FeaturesConfig",
    "GateConfig",
    "LabelConfig",
    "LabelStreamConfig",
    "ModelConfig",
    "ModelInput",
    "OptimizerConfig",
    "OrderConfig",
    "PolicyConfig",
    "RedisConfig",
    "RekeyedConfig",
    "RequestConfig",
    "ScorerConfig",
    "SlotConfig",
    "StorageConfig",
    "StreamConfig",
    "TableConfig",
    "TrainerConfig",
    "WorkerConfig",
    "load_config",
    "parse_duration",
]


#: What Kafka takes as a topic's name.
_TOPIC = re.compile(r"(?!\.{1,2}\Z)[A-Za-z0-9._-]{1,249}")


class Config(Section):
    """All of ``dovetail.toml``; relative paths are relative to ``root``, the folder the file is in."""

    name: Name = "dovetail"
    sql: Path = Path("sql")
    storage: StorageConfig = StorageConfig()
    redis: RedisConfig = RedisConfig()
    broker: BrokerConfig = BrokerConfig()
    streams: dict[Name, StreamConfig]
    rekeyed: dict[Name, RekeyedConfig] = Field(default_factory=dict)
    tables: dict[Name, TableConfig] = Field(default_factory=dict)
    batch_views: dict[Name, BatchViewConfig] = Field(default_factory=dict)
    features: FeaturesConfig = FeaturesConfig()
    request: RequestConfig = RequestConfig()
    labels: LabelConfig
    model: ModelConfig | None = None
    trainer: TrainerConfig = TrainerConfig()
    scorer: ScorerConfig | None = None
    experiments: Experiments = Field(default_factory=dict)
    scenes: Scenes = Field(default_factory=dict)
    archive: ArchiveConfig = ArchiveConfig()
    batch: BatchConfig = BatchConfig()
    quality: QualityConfig = QualityConfig()
    openlineage: OpenLineageConfig = OpenLineageConfig()
    worker: WorkerConfig = WorkerConfig()
    api: ApiConfig | None = None
    console: ConsoleConfig | None = None
    root: Path = Field(default=Path(), exclude=True)
    #: The scene whose requests, labels and model these are: the one without a name, if empty.
    _scene: str = PrivateAttr("")
    #: The configuration that this is a scene of; None for that of the project.
    _whole: Config | None = PrivateAttr(None)
    #: By scene, the needs of snapshots that were made under other settings, see :meth:`reaching`.
    _reaches: Mapping[str, Reach] = PrivateAttr(default_factory=dict)

    @model_validator(mode="after")
    def _rekeyed_are_of_streams(self) -> Config:
        for name, declared in self.rekeyed.items():
            if name in self.streams:
                raise ValueError(f"rekeyed.{name}: there is a stream of this name; give it another name")
            known = sorted({*self.streams, *self.rekeyed} - {name})
            if declared.stream not in known:
                raise ValueError(
                    f"rekeyed.{name}.stream: {declared.stream!r} is not declared; write one of {', '.join(known)}"
                )
        return self

    @model_validator(mode="after")
    def _scenes_hold_together(self) -> Config:
        models = {} if self.model is None else {self.model.name: "[model]"}
        for name, declared in self.scenes.items():
            if name in self.labels.targets:
                raise ValueError(f"scenes.{name}: there is a target of this name; give the scene another name")
            if self.labels.attributed:
                kind = next(iter(self.labels.attributed))
                raise ValueError(
                    f"labels.streams.{kind}.attribute: labels that name no request are attributed in projects of one "
                    "scene; remove it, and let them name their request"
                )
            try:
                self.of_scene(name)
            except ValueError as error:
                what, _, remedy = str(error).rpartition("; ")
                if what.startswith("streams."):  # it is said where they are declared
                    raise ValueError(f"labels.{what}, in scene {name}; {remedy}") from None
                raise ValueError(f"scenes.{name}.labels.{what}; {remedy}") from None
            if declared.model is None:
                continue
            if self.trainer.sharded:
                raise ValueError(
                    f"scenes.{name}.model: models of scenes are trained by one process each; remove [trainer] shards"
                )
            if (other := models.get(declared.model.name)) is not None:
                raise ValueError(
                    f"scenes.{name}.model.name: {other} has {declared.model.name!r}, and each model has a folder and "
                    "checkpoints of its own; give it another name"
                )
            models[declared.model.name] = f"[scenes.{name}.model]"
        return self

    @model_validator(mode="after")
    def _topics_are_distinct(self) -> Config:
        self.trainer.require_fit(self.model)
        self.topics()
        return self

    def made_of(self, stream: str) -> list[RekeyedConfig]:
        """The streams that are re-keyed from ``stream``, and from these."""
        first = {name: declared for name, declared in self.rekeyed.items() if declared.stream == stream}
        return [*first.values(), *(more for name in first for more in self.made_of(name))]

    @property
    def scene(self) -> str:
        """The scene whose requests, labels and model these are; empty for the one without a name."""
        return self._scene

    @property
    def whole(self) -> Config:
        """The configuration of the project, with all scenes."""
        return self if self._whole is None else self._whole

    def in_scene(self, what: str) -> str:
        """The name of a scope or dataset of this scene: of the scene without a name it is ``what``."""
        return in_scene(what, self._scene)

    def of_scene(self, name: str) -> Config:
        """The configuration as a scene has it: its own requests, labels and model, and all that scenes share.

        Experiments, scorer and shards are of the scene without a name.

        Raises:
            ConfigError: there is no such scene.
        """
        if name == self._scene:
            return self
        if name not in self.scenes:
            known = ", ".join(self.scenes) or "none but the one without a name"
            raise ConfigError(f"there is no scene {name!r}; [scenes] has {known}")
        declared = self.scenes[name]
        own: dict[str, Any] = {
            "request": declared.request_of(name),
            "labels": declared.labels_of(name, self.labels).reaching(self._reaches.get(name, Reach())),
            "model": declared.model,
            "scenes": {},
            "experiments": {},
            "scorer": None,
            "trainer": TrainerConfig(),
        }
        mine = self.model_copy(update=own)
        mine._scene, mine._whole = name, self  # noqa: SLF001 - its own
        return mine

    def every_scene(self) -> list[Config]:
        """The configuration as each scene has it, this one first."""
        return [self, *map(self.of_scene, self.scenes)]

    def reaching(self, labels: LabelConfig, scenes: Mapping[str, Reach]) -> Config:
        """This configuration with ``labels``, and labels and held topics of ``scenes`` for rows of other settings."""
        mine = self.model_copy(update={"labels": labels})
        mine._reaches = scenes  # noqa: SLF001 - its own
        return mine

    @property
    def request_table(self) -> str:
        """The table in ``sql/`` that declares the requests of this scene."""
        return self.request.table if isinstance(self.request, SceneRequest) else "request"

    def section(self, name: str) -> str:
        """The heading in the file of the ``request``, ``labels`` or ``model`` of this scene."""
        return f"[scenes.{self._scene}.{name}]" if self._scene else f"[{name}]"

    def topics(self) -> dict[str, int]:
        """Every topic and its number of partitions; derived topics have as many as what they derive from.

        But for re-keyed streams, which say how many they have.
        """
        labels = self.labels
        declared = [(f"[streams.{name}]", s.topic or name, s.partitions) for name, s in self.streams.items()]
        declared += [(f"[rekeyed.{name}]", s.topic or name, s.partitions) for name, s in self.rekeyed.items()]
        declared += [(f"[labels.streams.{name}]", s.topic or name, s.partitions) for name, s in labels.streams.items()]
        declared += [topic for scene in self.every_scene() for topic in scene._own_topics()]  # noqa: SLF001 - its own
        topics: dict[str, int] = {}
        owners: dict[str, str] = {}
        for where, topic, partitions in declared:
            if topic in topics:
                raise ValueError(
                    f"topic {topic!r} is declared twice, by {owners[topic]} and by {where}, and each needs one of "
                    f"its own; give {where} another"
                )
            if not _TOPIC.fullmatch(topic):
                raise ValueError(
                    f"topic {topic!r}, of {where}, is no name that Kafka takes; write 1 to 249 letters, digits, "
                    "dots, _ and -"
                )
            topics[topic], owners[topic] = partitions, where
        return topics

    def _own_topics(self) -> list[tuple[str, str, int]]:
        """The topics of this scene alone: by whom, the topic, and its partitions."""
        request, labels = self.request, self.labels
        of_request, of_labels = self.section("request"), self.section("labels")
        declared = [
            (f"{of_request} topic", request.topic, request.partitions),
            (f"{of_request} snapshots_topic", request.snapshots_topic, request.partitions),
            *([] if self._scene else [("the dead letters of the project", self.dead_letter_topic, 1)]),
            *((f"{of_request} reply_topics", topic, request.partitions) for topic in request.reply_topics),
        ]
        for name, policy in labels.every_target().items():
            where = self.section(f"labels.targets.{name}") if name else of_labels
            declared.append((f"{where} samples_topic", policy.samples_topic, request.partitions))
            held = ((f"the held rows of {where}", topic, request.partitions) for topic in policy.held_topics)
            declared += held
        if self.model is not None and self.model.topic:
            declared.append((f"{self.section('model')} topic", self.model.topic, 1))
        if self.model is not None:
            declared += [("[trainer] shards", *topic) for topic in self.trainer.topics(self.model.name).items()]
        if self.api is not None and not self._scene:
            declared.append(("[api] reply_topic", self.api.reply_topic, 1))
        if labels.order is not None:
            declared.append((self.section("labels.order"), labels.training_topic, request.partitions))
        return declared

    @model_validator(mode="after")
    def _models_have_their_labels(self) -> Config:
        for scene in self.every_scene():
            scene._require_label(scene.section("model").strip("[]"))  # noqa: SLF001 - its own
        return self

    def _require_label(self, where: str) -> None:
        """Refuse a model of this scene, declared in the section ``where``, that has no label."""
        model, labels = self.model, self.labels
        if model is None or (model.label == "label" and model.loss == "logistic"):
            return
        known = ("label", *labels.value_columns)
        if model.label not in known:
            raise ValueError(
                f"{where}.label: {model.label!r} is no number of a sample; write one of {', '.join(known)}, or declare "
                "it in values of [labels.streams.KIND]"
            )
        if labels.policy != "delayed" or labels.corrections is not None:
            how = "delayed with corrections" if labels.policy == "delayed" else labels.policy
            raise ValueError(
                f"{where}.loss: {model.loss} of {model.label} needs each sample once, and policy {how} sends some "
                f"several times, with weights that correct the rate of {labels.positive}; write policy = "
                '"delayed" without corrections'
            )

    @model_validator(mode="after")
    def _snapshots_outlive_their_wait(self) -> Config:
        keep = self.broker.retention.snapshots
        if keep is None or keep == FOREVER_MS:
            return self
        needs = [need for scene in self.every_scene() for need in scene._waits()]  # noqa: SLF001 - its own
        for needed, why in needs:
            if keep < needed:
                raise ValueError(
                    f"broker.retention.snapshots: it is {render_duration(keep * 1_000)}, but snapshots {why}, "
                    f"{render_duration(needed * 1_000)}; make it as long"
                )
        return self

    def _waits(self) -> list[tuple[int, str]]:
        """How long snapshots of this scene must be kept, in milliseconds, and why."""
        repeated = f"answer requests that are repeated ({self.section('request').strip('[]')}.unique_within)"
        return [(self._wait_ms, "wait in their topic for their labels"), (self._repeated_ms, repeated)]

    @property
    def _wait_ms(self) -> int:
        """How long a snapshot may wait for its labels, in milliseconds."""
        return (self.labels.longest_us + self.labels.allowed_lateness + self.labels.idle_timeout) // 1_000

    @property
    def _repeated_ms(self) -> int:
        """How long after a request it may be repeated, in milliseconds."""
        return (self.request.unique_within or 0) // 1_000

    def retention(self) -> dict[str, Retention]:
        """How long each topic of :meth:`topics` is kept, and must be."""
        kinds = dict.fromkeys(self.topics(), Retention(self.broker.retention.inputs))
        kinds[self.dead_letter_topic] = Retention(self.broker.retention.dead_letters)
        for scene in self.every_scene():
            kinds |= scene._own_retention()  # noqa: SLF001 - its own
        return kinds

    def _own_retention(self) -> dict[str, Retention]:
        """How long the topics of this scene alone are kept that have no rows from outside."""
        kept, wait, kinds = self.broker.retention, self._wait_ms, {}
        kinds[self.request.snapshots_topic] = Retention(kept.snapshots, max(wait, self._repeated_ms))
        for policy in self.labels.every_target().values():
            kinds[policy.samples_topic] = Retention(kept.samples)
            kinds |= dict.fromkeys(policy.held_topics, Retention(kept.snapshots, wait))
        kinds[self.labels.training_topic] = Retention(kept.samples)
        if self.model is not None and self.model.topic:
            kinds[self.model.topic] = Retention(kept.models)
        if self.model is not None:
            kinds |= self.trainer.retention(self.model.name, kept.samples)
        return kinds

    @property
    def reply_topics(self) -> tuple[str, ...]:
        """The topics in which requests may be answered: the declared ones, and that of the HTTP API."""
        return (*self.request.reply_topics, *(() if self.api is None else (self.api.reply_topic,)))

    @property
    def dead_letter_topic(self) -> str:
        """Where malformed messages go, with reason and source position."""
        return f"{self.name}-dead-letters"

    def path(self, relative: str | Path) -> Path:
        """``relative`` resolved against the project's folder."""
        return self.root / relative


def load_config(path: str | Path, **overrides: Any) -> Config:
    """Read and check ``dovetail.toml`` (or the one in the folder ``path``).

    ``overrides`` replace values of the file, section by section: ``labels={"window": "1h"}`` leaves other keys alone.

    Raises:
        ConfigError: missing file, bad TOML, unknown key (naming the nearest known one) or bad value; all that is
            wrong, a line each: file and line, section and key, what, and what to write.
    """
    file = Path(path)
    if file.is_dir():
        file = file / "dovetail.toml"
    text, data = read_sections(file)
    data = merged(data, overrides)
    data["root"] = file.parent
    try:
        config = Config.model_validate(data)
    except ValidationError as error:
        raise ConfigError("\n".join(explained(Config, file, text, problem) for problem in error.errors())) from error
    return config
