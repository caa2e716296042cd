"""``dovetail.toml``: what runs, where it reads and where it keeps things.

Definitions of features are SQL (``sql/``); this file declares what SQL cannot say: topics, event-time columns,
lateness, schedules, label policy, model inputs, and the URLs of broker and stores. It is read once, before anything
starts; a wrong key or value is refused with its place and, for a misspelt key, the nearest known one.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, model_validator

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
from dovetail.platform.config.policy import LabelConfig, PolicyConfig
from dovetail.platform.config.quality.rules import QualityConfig
from dovetail.platform.config.redis import RedisConfig
from dovetail.platform.config.refusals.wording import explained
from dovetail.platform.config.request import RequestConfig
from dovetail.platform.config.section import Name, Section
from dovetail.platform.config.served.api import ApiConfig
from dovetail.platform.config.served.console import ConsoleConfig
from dovetail.platform.config.served.experiments import Experiments
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


#: What the parser says of a section that is declared again.
_TWICE = re.compile(r"Cannot declare \('(.*?)',?\) twice")
#: What Kafka takes as a topic's name.
_TOPIC = re.compile(r"(?!\.{1,2}\Z)[A-Za-z0-9._-]{1,249}")


class StorageConfig(Section):
    """URLs of the broker and the stores. Empty means embedded, below ``state``."""

    state: Path = Path(".dovetail")
    broker: str = ""
    online_store: str = ""
    label_store: str = ""
    registry: str = ""
    offline_store: str = ""

    def url(self, kind: Literal["broker", "online_store", "label_store", "registry", "offline_store"]) -> str:
        """The URL of ``kind``, with the embedded default filled in."""
        given: str = getattr(self, kind)
        if given:
            return given
        if kind == "broker":
            return f"embedded://{self.state / 'log.sqlite'}"
        if kind == "offline_store":
            return str(self.state / "offline")
        return f"sqlite:///{self.state / (kind + '.sqlite')}"

    @property
    def local(self) -> bool:
        """Whether the broker and all stores are files, so that nothing waits for a server."""
        given = (self.broker, self.online_store, self.label_store, self.registry, self.offline_store)
        return all("://" not in url or url.startswith(("embedded://", "sqlite:///", "file://")) for url in given)


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
    archive: ArchiveConfig = ArchiveConfig()
    batch: BatchConfig = BatchConfig()
    quality: QualityConfig = QualityConfig()
    openlineage: OpenLineageConfig = OpenLineageConfig()
    worker: WorkerConfig = WorkerConfig()
    api: ApiConfig | None = None
    console: ConsoleConfig | None = None
    root: Path = Field(default=Path(), exclude=True)

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
    def _topics_are_distinct(self) -> Config:
        self.trainer.require_fit(self.model)
        self.topics()
        return self

    def made_of(self, stream: str) -> list[RekeyedConfig]:
        """The streams that are re-keyed from ``stream``, and from these."""
        first = {name: declared for name, declared in self.rekeyed.items() if declared.stream == stream}
        return [*first.values(), *(more for name in first for more in self.made_of(name))]

    def topics(self) -> dict[str, int]:
        """Every topic and its number of partitions; derived topics have as many as what they derive from.

        But for re-keyed streams, which say how many they have.
        """
        request, labels = self.request, self.labels
        declared = [(f"[streams.{name}]", s.topic or name, s.partitions) for name, s in self.streams.items()]
        declared += [(f"[rekeyed.{name}]", s.topic or name, s.partitions) for name, s in self.rekeyed.items()]
        declared += [(f"[labels.streams.{name}]", s.topic or name, s.partitions) for name, s in labels.streams.items()]
        declared += [
            ("[request] topic", request.topic, request.partitions),
            ("[request] snapshots_topic", request.snapshots_topic, request.partitions),
            ("the dead letters of the project", self.dead_letter_topic, 1),
            *(("[request] reply_topics", topic, request.partitions) for topic in request.reply_topics),
        ]
        for name, policy in labels.every_target().items():
            where = f"[labels.targets.{name}]" if name else "[labels]"
            declared.append((f"{where} samples_topic", policy.samples_topic, request.partitions))
            held = ((f"the held rows of {where}", topic, request.partitions) for topic in policy.held_topics)
            declared += held
        if self.model is not None and self.model.topic:
            declared.append(("[model] topic", self.model.topic, 1))
        if self.model is not None:
            declared += [("[trainer] shards", *topic) for topic in self.trainer.topics(self.model.name).items()]
        if self.api is not None:
            declared.append(("[api] reply_topic", self.api.reply_topic, 1))
        if labels.order is not None:
            declared.append(("[labels.order]", labels.training_topic, request.partitions))
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

    @model_validator(mode="after")
    def _the_model_has_its_label(self) -> Config:
        model, labels = self.model, self.labels
        if model is None or (model.label == "label" and model.loss == "logistic"):
            return self
        known = ("label", *labels.value_columns)
        if model.label not in known:
            raise ValueError(
                f"model.label: {model.label!r} is no number of a sample; write one of {', '.join(known)}, or declare "
                "it in values of [labels.streams.KIND]"
            )
        if labels.policy != "delayed" or labels.corrections is not None:
            how = "delayed with corrections" if labels.policy == "delayed" else labels.policy
            raise ValueError(
                f"model.loss: {model.loss} of {model.label} needs each sample once, and policy {how} sends some "
                f"several times, with weights that correct the rate of {labels.positive}; write policy = "
                '"delayed" without corrections'
            )
        return self

    @model_validator(mode="after")
    def _snapshots_outlive_their_wait(self) -> Config:
        keep = self.broker.retention.snapshots
        if keep is None or keep == FOREVER_MS:
            return self
        for needed, why in (
            (self._wait_ms, "wait in their topic for their labels"),
            (self._repeated_ms, "answer requests that are repeated (request.unique_within)"),
        ):
            if keep < needed:
                raise ValueError(
                    f"broker.retention.snapshots: it is {render_duration(keep * 1_000)}, but snapshots {why}, "
                    f"{render_duration(needed * 1_000)}; make it as long"
                )
        return self

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
        kept, wait = self.broker.retention, self._wait_ms
        kinds = dict.fromkeys(self.topics(), Retention(kept.inputs))
        kinds[self.dead_letter_topic] = Retention(kept.dead_letters)
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
    text, data = _read(file)
    data = _merged(data, overrides)
    data["root"] = file.parent
    try:
        config = Config.model_validate(data)
    except ValidationError as error:
        raise ConfigError("\n".join(explained(Config, file, text, problem) for problem in error.errors())) from error
    return config


def _read(file: Path) -> tuple[str, dict[str, Any]]:
    """The text of ``file``, and its sections.

    Raises:
        ConfigError: it is not there, cannot be read, or is not TOML.
    """
    try:
        text = file.read_text(encoding="utf-8")
        return text, tomllib.loads(text)
    except FileNotFoundError:
        raise ConfigError(f"{file}: no such file; run `dovetail init DIR` for a new project") from None
    except OSError as error:
        raise ConfigError(f"{file}: it cannot be read: {error.strerror}; make it a file that may be read") from error
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise ConfigError(f"{file}:{line}: not valid TOML: it is not UTF-8; write it as UTF-8") from error
    except (ValueError, RecursionError) as error:  # numbers of thousands of digits, lists in a thousand lists
        where = re.search(r" \(at (?:line (\d+), column \d+|end of document)\)", str(error))
        what = str(error).replace(where[0], "") if where else str(error)
        what = _TWICE.sub(r"[\1] is there twice", what).replace("', '", ".")
        if what == "Cannot overwrite a value" and where and where[1]:
            key = text.splitlines()[int(where[1]) - 1].partition("=")[0].strip()
            what = f"the key {key} is there twice"
        at = f"{file}:{where[1] or text.count(chr(10)) + 1}" if where else f"{file}"
        remedy = 'write sections as [name] and settings as key = value, texts in "quotes"'
        raise ConfigError(f"{at}: not valid TOML: {what}; {remedy}") from error


def _merged(data: dict[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(data)
    for key, value in overrides.items():
        before = merged.get(key)
        merged[key] = _merged(before, value) if isinstance(before, dict) and isinstance(value, Mapping) else value
    return merged
