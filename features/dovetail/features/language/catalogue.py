"""From ``sql/*.sql`` and ``dovetail.toml`` to plans: which file is what, and whether the two agree.

A file holds ``CREATE TABLE`` statements, or exactly one SELECT that is named after the file. What kind of definition a
SELECT is, is read off it: FROM a stream → streaming view; FROM request → feature set; otherwise → batch view.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
from sqlglot import exp

from dovetail.features.duck.binding import Binder
from dovetail.features.duck.parsing import BindError, functions_called
from dovetail.features.duck.stability import unstable_functions
from dovetail.features.language.batch_views import parse_batch_view
from dovetail.features.language.feature_sets import parse_feature_set, request_table_of
from dovetail.features.language.rekeyed_streams import with_rekeyed
from dovetail.features.language.remedies import remedy_of
from dovetail.features.language.source import Source, nearest
from dovetail.features.language.streaming_views import is_streaming, parse_stream_view
from dovetail.features.plan.definitions import (
    BatchView,
    Definitions,
    Stream,
    Table,
)
from dovetail.features.plan.id_columns import check_event_id
from dovetail.features.plan.label_values import check_value
from dovetail.features.plan.request import (
    CANDIDATES,
    REQUEST,
    check_request,
)
from dovetail.features.plan.reserved import reserved_outputs
from dovetail.platform.config.load import Config
from dovetail.platform.errors import DefinitionError
from dovetail.platform.rows.schema import (
    TableSchema,
    line_of,
    parse_statements,
    parse_table,
    tokens_in,
)

__all__ = ["load_definitions"]

_TIMESTAMP = pa.timestamp("us")


def load_definitions(sql_dir: Path, config: Config) -> Definitions:
    """Read and check every ``*.sql`` in ``sql_dir``, in order of their names.

    Raises:
        DefinitionError: the first thing that is wrong or unsupported, with file, line and remedy.
    """
    schemas, sources = _read(sql_dir)
    declared = _Declared(sql_dir, config, schemas)
    streams, tables, requests = declared.streams(), declared.tables(), declared.requests()
    labels = declared.labels(requests[REQUEST])
    declared.refuse_undeclared()
    for name, source in sources.items():
        if name in schemas:
            raise source.refuse(source.select, f"{name} is a table and a view", "rename the file")
        _refuse_unstable(source)
    over = {name: request_table_of(source, requests) for name, source in sources.items()}
    sets = {name: request for name, request in over.items() if request is not None}
    over_streams = {name for name, source in sources.items() if is_streaming(source, {*streams, *config.rekeyed})}
    batch_binder = Binder({name: table.schema.arrow for name, table in tables.items()})
    others = [*schemas, *sources]
    batch_views = {
        name: parse_batch_view(name, source, tables, others, declared.every_us(name), batch_binder)
        for name, source in sources.items()
        if name not in over_streams and name not in sets
    }
    declared.refuse_unknown_batch_views(batch_views)
    of_streams = {name: source for name, source in sources.items() if name in over_streams}
    streams, enriching = with_rekeyed(config, streams, batch_views, of_streams, declared.wrong)
    stream_binder = Binder({name: stream.schema.arrow for name, stream in streams.items()})
    before = config.features.strictly_before
    stream_views = {
        name: enriching.get(name) or parse_stream_view(name, source, streams, stream_binder, strictly_before=before)
        for name, source in of_streams.items()
    }
    reserved = reserved_outputs(labels, config.labels.value_columns, experiments=bool(config.experiments))
    feature_sets = {
        name: parse_feature_set(name, sources[name], request, stream_views, batch_views, reserved)
        for name, request in sets.items()
    }
    return Definitions(streams, tables, requests[REQUEST], labels, stream_views, batch_views, feature_sets, requests)


def _read(sql_dir: Path) -> tuple[dict[str, TableSchema], dict[str, Source]]:
    files = sorted(sql_dir.glob("*.sql")) if sql_dir.is_dir() else []
    if not files:
        raise DefinitionError(
            "no definitions here", file=sql_dir, line=1, remedy="run `dovetail init DIR` for a project with examples"
        )
    schemas: dict[str, TableSchema] = {}
    sources: dict[str, Source] = {}
    for file in files:
        text = file.read_text(encoding="utf-8")
        tokens = tokens_in(file, text)
        statements = parse_statements(file, text, tokens)
        tables = [s for s in statements if isinstance(s, exp.Create) and s.kind == "TABLE"]
        if tables and len(tables) == len(statements):
            for statement in tables:
                _add_schema(schemas, statement, file)
        else:
            sources[file.stem] = Source(file, text, (tokens, statements))
    return schemas, sources


def _add_schema(schemas: dict[str, TableSchema], statement: exp.Create, file: Path) -> None:
    schema = parse_table(statement, file)
    if schema.name in schemas:
        other = schemas[schema.name]
        raise DefinitionError(
            f"table {schema.name} is declared twice, first in {other.file}:{other.line}",
            file=file,
            line=line_of(statement),
            remedy="keep one",
        )
    lowered = [name.lower() for name in schema.arrow.names]
    for name in schema.arrow.names:
        if name.startswith("_") or lowered.count(name.lower()) > 1:
            why = "a reserved column" if name.startswith("_") else "two columns named"
            raise DefinitionError(
                f"table {schema.name} has {why} {name}",
                file=file,
                line=line_of(statement),
                remedy="rename the column; names starting with _ are positions",
            )
    schemas[schema.name] = schema


def _refuse_unstable(source: Source) -> None:
    """Refuse what is not a function of the rows: the same events must give the same values."""
    current = next((n for n in source.select.walk() if type(n).__name__.startswith(("Current", "Localtime"))), None)
    try:
        called = functions_called(source.text)
    except BindError as error:
        raise source.refuse(source.select, str(error), remedy_of(error)) from error
    unstable = sorted(called & unstable_functions())
    if current is None and not unstable:
        return
    name = unstable[0] if unstable else current.sql(dialect="duckdb") if current is not None else ""
    node = current if current is not None else _first_call(source, name)
    raise source.refuse(
        node, f"{name} gives another value each time it is asked", "use the row's own columns, like request_time"
    )


def _first_call(source: Source, name: str) -> exp.Expr | int:
    line = next((i for i, text in enumerate(source.text.splitlines(), 1) if name in text.lower()), None)
    return line if line is not None else source.select


def _item_type(request: TableSchema) -> pa.DataType:
    return request.arrow.field(CANDIDATES).type.value_type.field("item_id").type


class _Declared:
    """What ``dovetail.toml`` declares, matched with the schemas in ``sql/``."""

    def __init__(self, sql_dir: Path, config: Config, schemas: Mapping[str, TableSchema]) -> None:
        self._sql_dir, self._config, self._schemas = sql_dir, config, schemas
        self._toml = config.root / "dovetail.toml"

    def streams(self) -> dict[str, Stream]:
        for name in self._config.rekeyed:
            if name in self._schemas:
                raise DefinitionError(
                    f"{name} is stream {self._config.rekeyed[name].stream} re-keyed, and has its columns",
                    file=self._schemas[name].file,
                    line=self._schemas[name].line,
                    remedy=f"remove CREATE TABLE {name}, or [rekeyed.{name}] from {self._toml.name}",
                )
        return {name: self._stream(name) for name in self._config.streams}

    def _stream(self, name: str) -> Stream:
        declared, schema = self._config.streams[name], self._schema(name, f"streams.{name}")
        self._timestamp(schema, declared.event_time, f"stream {name}")
        schema.field(declared.key, wanted_by=f"the key of stream {name}")
        check_event_id(schema, declared.event_id, f"streams.{name}")
        return Stream(
            schema=schema,
            topic=declared.topic or name,
            event_time=declared.event_time,
            key=declared.key,
            allowed_lateness_us=declared.allowed_lateness,
            max_ahead_us=declared.max_ahead,
        )

    def tables(self) -> dict[str, Table]:
        found = {}
        for name, declared in self._config.tables.items():
            schema = self._schema(name, f"tables.{name}")
            self._timestamp(schema, declared.available_at, f"offline table {name}")
            found[name] = Table(schema, declared.path, declared.available_at)
        return found

    def requests(self) -> dict[str, TableSchema]:
        """The tables of requests by name: that of the scene without a name, and those that other scenes name."""
        found = {REQUEST: self._request()}
        for name, scene in self._config.scenes.items():
            schema = self._schema(scene.request.table, f"scenes.{name}.request")
            if schema.name in {*self._config.streams, *self._config.tables, *self._config.labels.streams}:
                raise self.wrong(f"scenes.{name}.request", f"table {schema.name} declares rows that are no requests",
                                 "name a table of its own")  # fmt: skip
            if schema.name not in found:
                check_request(schema)
                self._same_ids(schema, found[REQUEST])
            found[schema.name] = schema
        return found

    def _same_ids(self, schema: TableSchema, request: TableSchema) -> None:
        """Labels are of any scene, and found by request and item."""
        for column, mine, theirs in (
            ("request_id", schema.arrow.field("request_id").type, request.arrow.field("request_id").type),
            ("candidates.item_id", _item_type(schema), _item_type(request)),
        ):
            if mine != theirs:
                raise DefinitionError(
                    f"{schema.name}.{column} is {mine}, request's is {theirs}",
                    file=schema.file,
                    line=schema.line,
                    remedy="declare the same type in both: labels are found by it, whatever the scene",
                )

    def _request(self) -> TableSchema:
        schema = self._schema(REQUEST, "request")
        check_request(schema)
        for name, experiment in self._config.experiments.items():
            self._check_split(f"experiments.{name}", schema, experiment.by)
        return schema

    def _check_split(self, section: str, request: TableSchema, column: str) -> None:
        outside = [name for name in request.arrow.names if name not in (CANDIDATES, "request_id", "request_time")]
        if column not in outside:
            known = ", ".join(outside) or "none yet"
            raise self.wrong(section, f"by = {column!r} is no column of a request that users can be split by",
                             f"{nearest(column, outside)}; outside the candidates there are: {known}")  # fmt: skip
        type_ = request.arrow.field(column).type
        if not (pa.types.is_string(type_) or pa.types.is_integer(type_)):
            raise self.wrong(section, f"by = {column!r} is {type_}, and a user is split by a text or a whole number",
                             "name another column")  # fmt: skip

    def labels(self, request: TableSchema) -> dict[str, TableSchema]:
        item = _item_type(request)
        found = {}
        for name, stream in self._config.labels.streams.items():
            schema = self._schema(name, f"labels.streams.{name}")
            self._timestamp(schema, "event_time", f"label stream {name}")
            key = "request_id" if stream.attribute is None else "user_id"
            of_request = request.field(key, wanted_by=f"label stream {name}").type
            for column, type_ in ((key, of_request), ("item_id", item)):
                field = schema.field(column, wanted_by=f"label stream {name}")
                if field.type != type_:
                    raise DefinitionError(
                        f"{name}.{column} is {field.type}, request's is {type_}",
                        file=schema.file,
                        line=schema.line,
                        remedy="declare the same type in both: labels are found by it",
                    )
                if field.nullable:
                    raise DefinitionError(
                        f"{name}.{column} may be NULL",
                        file=schema.file,
                        line=schema.line,
                        remedy=f"declare {column} NOT NULL: labels are found by it",
                    )
            for column, aggregate in stream.values.items():
                check_value(schema, name, column, aggregate)
            check_event_id(schema, stream.event_id, f"labels.streams.{name}")
            found[name] = schema
        return found

    def every_us(self, name: str) -> int:
        """The schedule of a batch view; a day when ``dovetail.toml`` says nothing."""
        declared = self._config.batch_views.get(name)
        return declared.every if declared is not None else 86_400_000_000

    def refuse_undeclared(self) -> None:
        tables = {scene.request.table for scene in self._config.scenes.values()}
        used = {REQUEST, *tables, *self._config.streams, *self._config.tables, *self._config.labels.streams}
        for name, schema in self._schemas.items():
            if name not in used:
                raise DefinitionError(
                    f"nothing in {self._toml.name} uses table {name}",
                    file=schema.file,
                    line=schema.line,
                    remedy=f"declare [streams.{name}], [tables.{name}] or [labels.streams.{name}], write "
                    f'table = "{name}" in [scenes.NAME.request] if these are requests of a scene, or remove it',
                )

    def refuse_unknown_batch_views(self, batch_views: Mapping[str, BatchView]) -> None:
        for name, declared in self._config.batch_views.items():
            if name not in batch_views:
                raise self.wrong(
                    f"batch_views.{name}",
                    f"there is no batch view {name}",
                    f"{nearest(name, list(batch_views))}; a batch view is {self._sql_dir / (name + '.sql')}",
                )
            if declared.every <= 0:
                raise self.wrong(f"batch_views.{name}", "every is 0", 'write a period like every = "1d"')

    def _schema(self, name: str, section: str) -> TableSchema:
        if name not in self._schemas:
            raise self.wrong(section, f"no CREATE TABLE {name} in {self._sql_dir}", nearest(name, list(self._schemas)))
        return self._schemas[name]

    def _timestamp(self, schema: TableSchema, column: str, wanted_by: str) -> None:
        field = schema.field(column, wanted_by=wanted_by)
        if field.type != _TIMESTAMP or field.nullable:
            raise DefinitionError(
                f"{schema.name}.{column} is {field.type}{' and may be NULL' if field.nullable else ''}",
                file=schema.file,
                line=schema.line,
                remedy=f"declare {column} TIMESTAMP NOT NULL",
            )

    def wrong(self, section: str, what: str, remedy: str) -> DefinitionError:
        """An error at the section's line of ``dovetail.toml``."""
        text = self._toml.read_text(encoding="utf-8") if self._toml.is_file() else ""
        lines = enumerate(text.splitlines(), 1)
        line = next((number for number, content in lines if content.strip().startswith(f"[{section}")), 1)
        return DefinitionError(f"[{section}] {what}", file=self._toml, line=line, remedy=remedy)
