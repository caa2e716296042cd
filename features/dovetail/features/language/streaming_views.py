"""A SELECT of window aggregates over a stream, read as a :class:`~dovetail.features.plan.definitions.StreamView`."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from typing import cast

import pyarrow as pa
from sqlglot import TokenType, exp

from dovetail.features.duck.binding import Binder
from dovetail.features.duck.parsing import BindError
from dovetail.features.duck.row_by_row import not_row_by_row
from dovetail.features.language.calls import MACROS_OF_AGGREGATES
from dovetail.features.language.cleaned import JOINED
from dovetail.features.language.element_wise import ELEMENT_WISE, ElementReader
from dovetail.features.language.relations import read_relation, reads_stream
from dovetail.features.language.remedies import remedy_of
from dovetail.features.language.source import (
    Call,
    Source,
    Span,
    nearest,
    quoted,
)
from dovetail.features.plan.definitions import (
    Aggregate,
    Branch,
    Derived,
    Stream,
    StreamView,
)
from dovetail.platform.errors import DefinitionError

__all__ = ["from_table", "is_streaming", "parse_stream_view", "relation_name"]

_CLAUSES = {"expressions", "with_", "with", "from_", "from", "where", "windows", "kind"}
#: A row's validity for every input is one bit of a 64-bit word.
_MAX_INPUTS = 63


def is_streaming(source: Source, streams: Collection[str]) -> bool:
    """Whether the statement reads one of the ``streams``, by name."""
    return reads_stream(source, streams)


def from_table(source: Source) -> exp.Table | None:
    """The plain table of the outermost FROM, None when there is none or it is something else."""
    clause = source.select.args.get("from_") or source.select.args.get("from")
    return clause.this if clause is not None and isinstance(clause.this, exp.Table) else None


def relation_name(source: Source) -> str:
    """The name that the statement gives to the table of its outermost FROM."""
    clause = source.select.args.get("from_") or source.select.args.get("from")
    return str(clause.this.alias_or_name) if clause is not None else ""


def parse_stream_view(
    name: str, source: Source, streams: Mapping[str, Stream], binder: Binder, *, strictly_before: bool = False
) -> StreamView:
    """The plan of a streaming view; with ``strictly_before`` its value at T is that of a microsecond before T.

    Raises:
        DefinitionError: anything outside the supported language, with the line and what to write instead.
    """
    branches, stream = read_relation(source, streams)
    rows = Binder({stream.name: stream.schema.arrow}) if branches else binder
    view = _ViewReader(name, source, stream, rows, branches).view()
    try:  # a definition runs in DuckDB as it is, also the parts of it that nothing reads
        binder.describe(source.cut(source.whole))
    except BindError as error:
        raise source.refuse(source.select, str(error), remedy_of(error)) from error
    if strictly_before:
        windows = tuple(window.strictly_before() for window in view.windows)
        return dataclasses.replace(view, windows=windows, strictly_before=True)
    return view


class _ViewReader:
    def __init__(self, name: str, source: Source, stream: Stream, binder: Binder, branches: tuple[Branch, ...]) -> None:
        self.branches = branches
        self.name, self.source, self.binder = name, source, binder
        self.stream = stream
        self.relation = relation_name(source)
        self.columns: dict[str, str] = {column.lower(): column for column in self.stream.schema.arrow.names}
        self.aggregates: list[Aggregate] = []
        self.derived: list[Derived] = []
        self.reader = ElementReader(source, stream, binder, self._resolve, self._text)

    def view(self) -> StreamView:
        source, select = self.source, self.source.select
        for clause, value in select.args.items():
            if value and clause not in _CLAUSES:
                raise source.refuse(
                    value[0] if isinstance(value, list) else value,
                    f"{clause.strip('_').upper()} in a streaming view",
                    JOINED
                    if clause == "joins"
                    else "a streaming view has SELECT, FROM a stream, WHERE and WINDOW only; "
                    "join and compute in the feature set",
                )
        where = self._where()
        entity = self._entity()
        outputs, selected = [], []
        for node, span in zip(select.expressions, source.items(), strict=True):
            if isinstance(node.unalias(), exp.Column):
                selected.append(self._entity_column(node, entity))
            else:
                outputs.append(self._output(node, span))
        missing = [column for column in entity if column not in selected]
        if missing:
            raise source.refuse(select, f"entity column {missing[0]} is not selected", f"add {missing[0]} to SELECT")
        self._unique([*selected, *outputs])
        if len(self.reader.inputs) > _MAX_INPUTS:
            raise source.refuse(
                select,
                f"{len(self.reader.inputs)} different arguments and filters; a view keeps at most {_MAX_INPUTS}",
                "split the view in two",
            )
        return StreamView(
            name=self.name,
            file=source.file,
            line=source.line(select),
            sql=source.text,
            stream=self.stream,
            entity=entity,
            where=where,
            windows=tuple(self.reader.windows),
            inputs=tuple(self.reader.inputs),
            aggregates=tuple(self.aggregates),
            derived=tuple(self.derived),
            outputs=tuple(outputs) if self.derived else (),
            branches=self.branches,
        )

    def _unique(self, outputs: list[str]) -> None:
        seen: set[str] = set()
        for output in outputs:
            if output.startswith("_"):
                raise self.source.refuse(
                    self.source.select,
                    f"an output named {output}",
                    "rename it with AS: names of its own begin with _",
                )
            if output.lower() in seen:
                raise self.source.refuse(self.source.select, f"two outputs named {output}", "rename one with AS")
            seen.add(output.lower())

    def _where(self) -> str | None:
        clause = self.source.select.args.get("where")
        if clause is None:
            return None
        span = self.source.clause(TokenType.WHERE, (TokenType.WINDOW,))
        broken = self.source.not_row_by_row(span)
        if broken is not None:
            what = "an aggregate or subquery" if broken.kind not in ("rows", "columns") else broken.name
            raise self.source.refuse(clause, f"{what} in WHERE", "filter on the event's own columns")
        text = self._text(clause.this, span)
        self._bind(clause, f"SELECT 1 FROM {quoted(self.stream.name)} WHERE {text}")
        return text

    def _entity(self) -> tuple[str, ...]:
        """PARTITION BY, the same for every window."""
        found: tuple[str, ...] | None = None
        for window in self.source.select.find_all(exp.Window):
            if window.args.get("alias") is not None and not window.args.get("partition_by"):
                continue  # OVER name; the named window is visited too
            parts = window.args.get("partition_by") or []
            if not parts or not all(isinstance(part, exp.Column) for part in parts):
                raise self.source.refuse(
                    window,
                    "a window without PARTITION BY columns" if not parts else "PARTITION BY an expression",
                    "PARTITION BY the entity's columns, as declared on the stream",
                )
            entity = tuple(self._resolve(part) for part in parts)
            if found is not None and entity != found:
                raise self.source.refuse(
                    window,
                    f"windows of one view partition by ({', '.join(found)}) and by ({', '.join(entity)})",
                    "a view has one entity; make a view for each",
                )
            found = entity
        if found is None:
            raise self.source.refuse(
                self.source.select,
                f"a plain SELECT over stream {self.stream.name}",
                "a streaming view aggregates OVER a window; for batch features read an offline table",
            )
        self._check_entity_types(found)
        return found

    def _check_entity_types(self, entity: tuple[str, ...]) -> None:
        if len(set(entity)) < len(entity):
            raise self.source.refuse(self.source.select, "PARTITION BY names a column twice", "name it once")
        for column in entity:
            type_ = self.stream.schema.arrow.field(column).type
            if pa.types.is_floating(type_) or pa.types.is_nested(type_):
                raise self.source.refuse(
                    self.source.select,
                    f"entity column {column} is {type_}, which makes no key",
                    "partition by integers, VARCHAR, DATE, TIMESTAMP, BOOLEAN or DECIMAL",
                )

    def _entity_column(self, node: exp.Expr, entity: tuple[str, ...]) -> str:
        column = self._resolve(cast("exp.Column", node.unalias()))
        if column not in entity:
            raise self.source.refuse(
                node,
                f"{column} is neither an entity column nor an aggregate",
                f"select ({', '.join(entity)}) and aggregates; a view has one row per entity",
            )
        if isinstance(node, exp.Alias) and node.alias.lower() != column.lower():
            raise self.source.refuse(node, f"entity column {column} renamed to {node.alias}", "keep its name")
        return column

    def _output(self, node: exp.Expr, span: Span) -> str:
        """One output column: an aggregate, or an expression over aggregates, which is finished after them."""
        source = self.source
        calls = source.calls(span, MACROS_OF_AGGREGATES)
        if not calls:
            raise self._no_aggregate(node)
        if not isinstance(node, exp.Alias):
            raise source.refuse(node, f"{source.cut(span)} has no name", "name it with AS")
        if len(calls) == 1 and calls[0].span == span and calls[0].macro not in ELEMENT_WISE:
            self.aggregates.append(self.reader.read(calls[0], node.alias))
            return str(node.alias)
        text, after = "", span[0]
        for call in calls:
            text += source.text[after : call.span[0]] + self._read(call, f"_{node.alias}_{len(self.aggregates)}")
            after = call.span[1]
        text = (text + source.text[after : span[1]]).strip()
        self._only_aggregates(node, calls)
        self._one_value(node, text)
        schema = pa.schema([pa.field(a.output, a.type) for a in self.aggregates])
        try:
            type_ = Binder({"aggregates": schema}).describe(f"SELECT {text}\n AS value FROM aggregates").field(0).type
        except BindError as error:
            raise source.refuse(node, str(error), remedy_of(error)) from error
        self.derived.append(Derived(node.alias, text, type_, source.line(node)))
        return str(node.alias)

    def _read(self, call: Call, output: str) -> str:
        """The SQL that stands for ``call`` where aggregates are finished; what it reads is called ``output``…."""
        if call.macro not in ELEMENT_WISE:
            return quoted(self._hidden(self.reader.read(call, output)))
        arrays, places = self.reader.read_each(call, output)
        listed = ", ".join(quoted(self._hidden(place)) for place in places)
        return f"CASE WHEN {quoted(self._hidden(arrays))} > 0 THEN [{listed}] END"

    def _hidden(self, aggregate: Aggregate) -> str:
        """The name of an aggregate that only an expression reads; one that is there already serves again."""
        for known in self.aggregates:
            if dataclasses.replace(known, output=aggregate.output) == aggregate:
                return known.output
        self.aggregates.append(aggregate)
        return aggregate.output

    def _one_value(self, node: exp.Expr, text: str) -> None:
        """Refuse what makes several values of an entity's one, or one of several entities'."""
        try:
            broken = not_row_by_row(text)
        except BindError as error:
            raise self.source.refuse(node, str(error), remedy_of(error)) from error
        if broken is None:
            return
        if broken.kind in ("rows", "columns"):
            raise self.source.refuse(
                node,
                f"{broken.name} makes several rows of an entity's one",
                "keep the list as it is, and take what is needed of it in the feature set: x[1], list_slice, len",
            )
        raise self.source.refuse(
            node,
            f"{broken.name} around an aggregate puts entities together",
            "write one aggregate OVER a window per value, and compute with the values: +, /, greatest, list_max",
        )

    def _only_aggregates(self, node: exp.Expr, calls: list[Call]) -> None:
        """Refuse columns beside the aggregates: a view has a value per entity, not per event."""
        for column in node.find_all(exp.Column):
            start = column.parts[0].meta["start"]
            if not any(call.span[0] <= start < call.span[1] for call in calls):
                raise self.source.refuse(
                    node,
                    f"{column.sql(dialect='duckdb')} beside an aggregate",
                    "compute with aggregates only; use the event's own columns inside them",
                )

    def _no_aggregate(self, node: exp.Expr) -> DefinitionError:
        text = node.unalias().sql(dialect="duckdb")
        if node.find(exp.Star):
            return self.source.refuse(node, "SELECT *", "list the entity columns and aggregates")
        return self.source.refuse(
            node, f"{text} is neither an entity column nor an aggregate", "write the expression in the feature set"
        )

    def _resolve(self, column: exp.Column) -> str:
        """The stream's column that is meant, by its declared name."""
        parts = [part.name for part in column.parts]
        if len(parts) > 1 and parts[0].lower() == self.relation.lower():
            parts = parts[1:]
        if parts[0].lower() not in self.columns:
            raise self.source.refuse(
                column,
                f"stream {self.stream.name} has no column {parts[0]}",
                nearest(parts[0], list(self.stream.schema.arrow.names)),
            )
        return self.columns[parts[0].lower()]

    def _text(self, node: exp.Expr, span: Span) -> str:
        """The slice, with columns by their declared names and without the relation's."""

        def name(column: exp.Column) -> tuple[str, int]:
            qualified = len(column.parts) > 1 and column.parts[0].name.lower() == self.relation.lower()
            return quoted(self._resolve(column), simple=True), 2 if qualified else 1

        return self.source.rewrite(span, node, name)

    def _bind(self, node: exp.Expr, sql: str) -> pa.Schema:
        try:
            return self.binder.describe(sql)
        except BindError as error:
            raise self.source.refuse(node, str(error), remedy_of(error)) from error
