"""``dovetail.toml``: what runs, where it reads and where it keeps things.

Definitions of features are SQL (``sql/``); this file declares what SQL cannot say: topics, event-time columns,
lateness, schedules, label policy, model inputs, and the URLs of broker and stores. It is read once, before anything
starts; a wrong key or value is refused with its place and, for a misspelt key, the nearest known one.
"""

from __future__ import annotations

import difflib
import json
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, Field, ValidationError, model_validator

from dovetail.platform.config.archive import ArchiveConfig
from dovetail.platform.config.broker import FOREVER_MS, BrokerConfig, Retention
from dovetail.platform.config.durations import DurationUs, parse_duration
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


#: Options that say where a secret is; somebody may write the secret itself there.
_SECRET = re.compile(r"password|secret|token|credential|webhook", re.IGNORECASE)


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
                raise ValueError(f"rekeyed.{name}: there is a stream of this name; choose another one")
            known = sorted({*self.streams, *self.rekeyed} - {name})
            if declared.stream not in known:
                raise ValueError(f"rekeyed.{name}: stream = {declared.stream!r} is not one of {known}")
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
                    f"topic {topic!r} is declared twice, by {owners[topic]} and by {where}: each needs a topic of its "
                    f"own, so give {where} another one"
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
                f"model.label = {model.label!r} is no number of a sample; known are {', '.join(known)} "
                "([labels.streams.KIND] values)"
            )
        if labels.policy != "delayed" or labels.corrections is not None:
            how = "delayed with corrections" if labels.policy == "delayed" else labels.policy
            raise ValueError(
                f"model: policy {how} sends a sample several times, with weights that correct the rate of "
                f'{labels.positive}; a model of {model.label} by {model.loss} loss needs policy = "delayed" without '
                "corrections"
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
                    f"broker.retention.snapshots is {keep} ms, but snapshots {why}, {needed} ms: lengthen it"
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
        ConfigError: missing file, bad TOML, unknown key (naming the nearest known one) or bad value.
    """
    file = Path(path)
    if file.is_dir():
        file = file / "dovetail.toml"
    try:
        data = tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{file}: no such file; run `dovetail init DIR` for a new project") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{file}: not valid TOML: {error}") from error
    data = _merged(data, overrides)
    data["root"] = file.parent
    try:
        config = Config.model_validate(data)
    except ValidationError as error:
        raise ConfigError("\n".join(_explain(file, problem) for problem in error.errors())) from error
    return config


def _merged(data: dict[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(data)
    for key, value in overrides.items():
        before = merged.get(key)
        merged[key] = _merged(before, value) if isinstance(before, dict) and isinstance(value, Mapping) else value
    return merged


def _explain(file: Path, problem: Any) -> str:
    location = [str(part) for part in problem["loc"]]
    where = ".".join(location) or "the file"
    if problem["type"] == "extra_forbidden":
        known = _known_keys(location[:-1])
        near = difflib.get_close_matches(location[-1], known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(sorted(known))}"
        return f"{file}: {where}: unknown key {location[-1]!r}; {hint}"
    if problem["type"] == "missing":
        return f"{file}:{_line(file, location)}: {where}: required, but missing; {_addition(location)}"
    message = _in_words(problem, where) or str(problem["msg"]).removeprefix("Value error, ")
    if not location:
        return f"{file}: {message}"
    return f"{file}: {where}: {message}{_quoted(where, problem['input'])}"


def _in_words(problem: Any, where: str) -> str | None:
    """What is wanted instead of a value of another kind, for who writes TOML; None where the check says it itself."""
    kind, given = problem["type"], problem["input"]
    if kind in ("tuple_type", "list_type", "frozenset_type"):
        plain = isinstance(given, str | int | float | bool) and not _SECRET.search(where)
        example = f"[{json.dumps(given)}]" if plain else '["…"]'
        return f"a list is wanted; write {example}"
    wanted = {
        "string_type": 'a text is wanted, in quotes like "name"',
        "string_pattern_mismatch": "a name is wanted: letters, digits and _, and no digit in front",
        "dict_type": "a section is wanted, with keys of its own",
        "model_type": "a section is wanted, with keys of its own",
        "bool_type": "true or false is wanted, without quotes",
        "bool_parsing": "true or false is wanted, without quotes",
        "int_type": "a whole number is wanted, without quotes",
        "int_parsing": "a whole number is wanted, without quotes",
        "int_from_float": "a whole number is wanted",
        "float_type": "a number is wanted, without quotes",
        "float_parsing": "a number is wanted, without quotes",
    }
    return wanted.get(kind)


def _quoted(where: str, given: object) -> str:
    """The value given, as an error may show it: no section as a whole, and nothing where a secret may stand."""
    if isinstance(given, Mapping) or _SECRET.search(where):
        return ""
    return f" (got {given!r})"


def _line(file: Path, location: list[str]) -> int:
    """The line of the innermost section of ``location`` that the file has; 1 where it has none."""
    lines = [line.strip() for line in file.read_text(encoding="utf-8").splitlines()]
    for depth in range(len(location) - 1, 0, -1):
        header = f"[{'.'.join(location[:depth])}"
        found = next((n for n, line in enumerate(lines, 1) if line.startswith((f"{header}]", f"{header}."))), None)
        if found is not None:
            return found
    return 1


def _addition(location: list[str]) -> str:
    """What to write for a key or section that is missing."""
    *parents, key = location
    examples = {
        ("streams",): 'add a section for each stream of events, like [streams.behaviour] with key = "user_id"',
        ("labels",): 'add [labels] with window = "15m", and [labels.streams.exposure] and [labels.streams.click]',
        ("labels", "streams"): "add a section for each kind of feedback, like [labels.streams.click]",
    }
    return examples.get(tuple(location), f"add {key} = … to {'[' + '.'.join(parents) + ']' if parents else 'the top'}")


def _known_keys(location: list[str]) -> list[str]:
    """The keys allowed in the section at ``location``."""
    section: Any = Config
    for part in location:
        section = _section_below(section, part)
    return [name for name in section.model_fields if name != "root"] if section is not None else []


def _section_below(section: Any, part: str) -> Any:
    if section is None or not (isinstance(section, type) and issubclass(section, BaseModel)):
        return section
    if part not in section.model_fields:
        return section
    annotation = section.model_fields[part].annotation
    for candidate in (annotation, *getattr(annotation, "__args__", ())):
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            return candidate
    return None
