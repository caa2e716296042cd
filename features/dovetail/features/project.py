"""A project: ``dovetail.toml`` and ``sql/`` together, loaded and checked as one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, Self

import pyarrow as pa

from dovetail.features.language.catalogue import load_definitions
from dovetail.features.language.source import nearest
from dovetail.features.plan.advice import advice_on
from dovetail.features.plan.definitions import (
    BatchView,
    Definitions,
    FeatureSet,
    StreamView,
)
from dovetail.features.plan.request import request_schema
from dovetail.features.plan.reserved import OF_EXPERIMENTS
from dovetail.features.stream.footprint import state_of
from dovetail.platform.config.load import Config, load_config
from dovetail.platform.config.model import EvaluationConfig, ModelConfig
from dovetail.platform.config.refusals.wording import line_of_key
from dovetail.platform.errors import ConfigError

__all__ = ["Description", "Project", "load"]


@dataclass(frozen=True, slots=True)
class Description:
    """One definition as ``dovetail check`` shows it."""

    name: str
    kind: str
    file: str
    line: int
    entity: tuple[str, ...]
    details: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Project(Definitions):
    """Everything declared, by name, consistent with itself: the definitions, and the configuration that they serve.

    It is the project as one of its scenes has it: as loaded, the one without a name.
    """

    config: Config

    def scene(self, name: str) -> Self:
        """The project as the scene ``[scenes.NAME]`` has it: its own requests, feature set, label policy and model.

        All else is shared. What takes a project takes it, too: ``Reader(project.scene("feed"))``.

        Raises:
            ConfigError: there is no such scene.
        """
        config = self.config.of_scene(name)
        return replace(self, config=config, request=self.requests[config.request_table])

    @property
    def whole(self) -> Self:
        """The project with all its scenes, of which this may be one."""
        return replace(self, config=self.config.whole, request=self.requests[self.config.whole.request_table])

    @property
    def scenes(self) -> tuple[Self, ...]:
        """The project as each of its scenes has it, the one without a name first."""
        return (self, *(self.scene(name) for name in self.config.scenes))

    @property
    def request_schema(self) -> pa.Schema:
        """The flat request: one row per candidate."""
        return request_schema(self.request)

    @property
    def feature_set(self) -> FeatureSet:
        """The feature set that requests are answered with."""
        return self.answering[self.config.request.feature_set]

    def evaluate(
        self,
        feature_set: str | None,
        requests: pa.Table,
        events: Mapping[str, pa.Table],
        *,
        engine: Literal["batch", "stream"] = "batch",
        visibility: Literal["event_time", "as_served"] = "event_time",
        tables: Mapping[str, pa.Table] | None = None,
    ) -> pa.Table:
        """The columns of ``feature_set`` (None: the one that serves), one row per candidate, in the order given.

        Args:
            requests: as declared by ``CREATE TABLE request``, or already one row per candidate.
            events: by stream, each in order of arrival, with the declared columns; position columns (``_partition``,
                ``_offset``, ``_row``) if they have them, else they are one partition. A re-keyed stream that is not
                given is made of the one that it is declared from.
            engine: ``batch`` is DuckDB. ``stream`` replays the events through the engine that serves: the same bits,
                NULL in every column but request_id and item_id where a request is older than the state can answer
                (never with requests in order of time).
            visibility: ``event_time`` sees all events up to the request's time, by ``stream`` only those that come
                within ``allowed_lateness``; ``as_served`` those before the positions in the request's
                ``_seen_<view>`` (list<int64> by partition; of a UNION ALL by source, see ``sources.py``).
            tables: the offline tables that batch views read, by name.

        Raises:
            ConfigError: an unknown feature set or engine, or a stream or table that is not given.
            WireError, StateError: a value that has no meaning; the message names the expression and the row.
        """
        from dovetail.features.evaluation import (
            evaluate,  # numba, which a command that only reads definitions need not import
        )

        name = feature_set or self.config.request.feature_set
        return evaluate(self, name, requests, events, engine=engine, visibility=visibility, tables=tables)

    def describe(self) -> list[Description]:
        """Each definition: kind, entity, windows, lanes, and the state a streaming view keeps per key."""
        return [
            *(_describe_stream_view(view, self.config) for view in self.stream_views.values()),
            *(_describe_batch_view(view) for view in self.batch_views.values()),
            *(_describe_feature_set(features) for features in self.feature_sets.values()),
        ]


def load(path: str | Path, **overrides: Any) -> Project:
    """Load the project in folder ``path`` (or whose ``dovetail.toml`` it is). ``overrides`` as in ``load_config``.

    Raises:
        ConfigError: ``dovetail.toml`` is wrong, or names a feature set or model input that does not exist.
        DefinitionError: a file in ``sql/`` is wrong or outside the supported language.
    """
    config = load_config(path, **overrides)
    found = load_definitions(config.path(config.sql), config)
    project = Project(**{field.name: getattr(found, field.name) for field in fields(found)}, config=config)
    for scene in project.scenes:
        if (name := scene.config.scene) in project.stream_views:
            raise ConfigError(
                f"{_place(scene.config)}: a streaming view has this name, and over HTTP /v1/features/{name} "
                "gives its values; give the scene another name"
            )
        _check_names(scene)
    return project


def _place(config: Config, key: str = "") -> str:
    """Where a ``key`` of this scene, or the scene, is declared: ``FILE: KEY``, with the line where one is named."""
    file = config.root / "dovetail.toml"
    if not config.scene:
        return f"{file}: {key}"
    whole = f"scenes.{config.scene}.{key}".rstrip(".")
    return f"{file}:{line_of_key(file.read_text(encoding='utf-8') if file.is_file() else '', whole)}: {whole}"


def _check_names(project: Project) -> None:
    config, wanted = project.config, project.config.request.feature_set
    if wanted not in project.answering:
        where, over = _place(config, "request.feature_set"), project.feature_sets.get(wanted)
        if over is not None:
            raise ConfigError(
                f"{where}: feature set {wanted!r} is over {over.over}, and these requests are declared by "
                f"{project.request.name}; {nearest(wanted, list(project.answering))}"
            )
        raise ConfigError(f"{where}: there is no feature set {wanted!r}; {nearest(wanted, list(project.answering))}")
    if config.model is not None:
        _check_inputs(config, config.model, project.feature_set)
        _check_slices(config, config.model.evaluation, project.feature_set)


def _check_inputs(config: Config, model: ModelConfig, features: FeatureSet) -> None:
    schema = features.schema
    for number, declared in enumerate(model.inputs):
        where = _place(config, f"model.inputs.{number}")
        for column in declared.columns or (declared.column,):
            if column not in schema.names:
                hint = nearest(column, schema.names)
                raise ConfigError(f"{where}: {column!r} is not an output of feature set {features.name}; {hint}")
            _check_kind(where, declared.kind, column, schema.field(column).type)


def _check_slices(config: Config, evaluation: EvaluationConfig, features: FeatureSet) -> None:
    """Refuse to slice by a column that no sample has, or by one whose values are no names."""
    schema = features.schema
    own = config.labels.sample_columns(config.labels.streams, config.labels.value_columns)
    arms = OF_EXPERIMENTS if config.experiments else ()
    known = list(dict.fromkeys([*schema.names, *own, *arms]))
    for column in evaluation.slices:
        where = _place(config, "model.evaluation.slices")
        if column not in known:
            raise ConfigError(
                f"{where}: {column!r} is neither an output of feature set {features.name} nor another column of its "
                f"samples; {nearest(column, known)}"
            )
        if column in schema.names and pa.types.is_nested(type_ := schema.field(column).type):
            raise ConfigError(f"{where}: {column!r} is {type_}, which has no values to slice by; select a member of it")


def _check_kind(where: str, kind: str, column: str, type_: pa.DataType) -> None:
    """Refuse what an input of this kind cannot read, before the first sample says so."""
    remedy = None
    if pa.types.is_map(type_):
        remedy = f'select map_entries({column}), a list of names and numbers, and declare it kind = "list"'
    elif pa.types.is_struct(type_):
        remedy = "select its members"
    elif pa.types.is_list(type_) and kind != "list":
        remedy = f'declare kind = "list" and its length, or select a number like len({column})'
    elif kind == "list" and not pa.types.is_list(type_):
        remedy = 'declare it "categorical" or "numeric", or select a list'
    if remedy is not None:
        raise ConfigError(f"{where}: {column!r} is {type_}, which an input of kind {kind!r} cannot read; {remedy}")


def _describe_stream_view(view: StreamView, config: Config) -> Description:
    lateness = view.stream.allowed_lateness_us
    return Description(
        view.name,
        "streaming",
        view.file,
        view.line,
        view.entity,
        {
            "streams": [branch.stream.name for branch in view.reads],
            "windows": [
                {
                    "name": w.name,
                    # As written: of a view strictly before the request, both ends are a microsecond earlier.
                    "size_s": (w.size_us - view.strictly_before) / 1e6 if w.bounded_us else None,
                    "step_s": None if w.step_us is None else w.step_us / 1e6,
                    "end_s": (w.end_us - view.strictly_before) / 1e6,
                    "rows": w.rows,
                    "skip": w.skip,
                }
                for w in view.windows
            ],
            "strictly_before": view.strictly_before,
            "aggregates": len(view.aggregates),
            "inputs": len(view.inputs),
            "derived": [{"name": d.output, "type": str(d.type)} for d in view.derived],
            "states": _states_per_key(view, config),
            "advice": advice_on(view),
            **state_of(view, lateness),
        },
    )


def _states_per_key(view: StreamView, config: Config) -> int:
    """In how many sources a key's events may be, each with a state of its own: one where the stream has the key."""
    topics = config.topics()
    return sum(1 if branch.stream.key in view.entity else topics[branch.stream.topic] for branch in view.reads)


def _describe_batch_view(view: BatchView) -> Description:
    details = {
        "tables": [table.schema.name for table in view.tables],
        "every_s": view.every_us / 1e6,
        "columns": view.output_schema.names,
    }
    return Description(view.name, "batch", view.file, view.line, view.entity, details)


def _describe_feature_set(features: FeatureSet) -> Description:
    details = {
        "joins": [join.view for join in features.joins],
        "columns": [
            {"name": c.name, "type": str(c.type), "origin": c.origin, "lane": c.lane} for c in features.columns
        ],
    }
    return Description(features.name, "feature set", features.file, features.line, ("request_id", "item_id"), details)
