"""A SELECT of window aggregates over a stream, read as a :class:`~dovetail.features.plan.StreamView`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import pyarrow as pa
from sqlglot import TokenType, exp

from dovetail.features.batch.binding import Binder, BindError
from dovetail.features.plan import Aggregate, AggregateFunction, Input, Stream, StreamView, Window
from dovetail.features.source import Source, Span, nearest, quoted
from dovetail.features.windows import read_window
from dovetail.platform.errors import DefinitionError

__all__ = ["from_table", "is_streaming", "parse_stream_view", "relation_name"]

_FUNCTIONS: Mapping[type[exp.Expr], AggregateFunction] = {
    exp.Count: "count",
    exp.Sum: "sum",
    exp.Avg: "avg",
    exp.Min: "min",
    exp.Max: "max",
}
_CLAUSES = {"expressions", "from_", "from", "where", "windows", "kind"}
#: A row's validity for every input is one bit of a 64-bit word.
_MAX_INPUTS = 63
_MAX_DIGITS = 18


def is_streaming(source: Source, streams: Mapping[str, Stream]) -> bool:
    """Whether the statement reads a declared stream."""
    table = from_table(source)
    return table is not None and table.name.lower() in {name.lower() for name in streams}


def from_table(source: Source) -> exp.Table | None:
    """The plain table of the outermost FROM, None when there is none or it is something else."""
    clause = source.select.args.get("from_") or source.select.args.get("from")
    return clause.this if clause is not None and isinstance(clause.this, exp.Table) else None


def relation_name(source: Source) -> str:
    """What the outermost FROM's table is called in the statement."""
    table = from_table(source)
    return str(table.alias_or_name) if table is not None else ""


def parse_stream_view(name: str, source: Source, streams: Mapping[str, Stream], binder: Binder) -> StreamView:
    """The plan of a streaming view.

    Raises:
        DefinitionError: anything outside the supported language, with the line and what to write instead.
    """
    table = from_table(source)
    stream = next(s for key, s in streams.items() if table is not None and key.lower() == table.name.lower())
    return _Reader(name, source, stream, binder).view()


class _Reader:
    def __init__(self, name: str, source: Source, stream: Stream, binder: Binder) -> None:
        self.name, self.source, self.binder = name, source, binder
        self.stream = stream
        self.relation = relation_name(source)
        self.columns: dict[str, str] = {column.lower(): column for column in self.stream.schema.arrow.names}
        self.windows: list[Window] = []
        self.inputs: list[Input] = []

    def view(self) -> StreamView:
        source, select = self.source, self.source.select
        for clause, value in select.args.items():
            if value and clause not in _CLAUSES:
                raise source.refuse(
                    value[0] if isinstance(value, list) else value,
                    f"{clause.strip('_').upper()} in a streaming view",
                    "a streaming view has SELECT, FROM a stream, WHERE and WINDOW only; "
                    "join and compute in the feature set",
                )
        where = self._where()
        entity = self._entity()
        aggregates, selected = [], []
        for node, span in zip(select.expressions, source.items(), strict=True):
            if isinstance(node.unalias(), exp.Column):
                selected.append(self._entity_column(node, entity))
            else:
                aggregates.append(self._aggregate(node, span))
        missing = [column for column in entity if column not in selected]
        if missing:
            raise source.refuse(select, f"entity column {missing[0]} is not selected", f"add {missing[0]} to SELECT")
        self._unique([*selected, *(a.output for a in aggregates)])
        if len(self.inputs) > _MAX_INPUTS:
            raise source.refuse(
                select,
                f"{len(self.inputs)} different arguments and filters; a view keeps at most {_MAX_INPUTS}",
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
            windows=tuple(self.windows),
            inputs=tuple(self.inputs),
            aggregates=tuple(aggregates),
        )

    def _unique(self, outputs: list[str]) -> None:
        seen: set[str] = set()
        for output in outputs:
            if output.lower() in seen:
                raise self.source.refuse(self.source.select, f"two outputs named {output}", "rename one with AS")
            seen.add(output.lower())

    def _where(self) -> str | None:
        clause = self.source.select.args.get("where")
        if clause is None:
            return None
        if clause.find(exp.Window, exp.AggFunc, exp.Query):
            raise self.source.refuse(clause, "an aggregate or subquery in WHERE", "filter on the event's own columns")
        text = self._text(clause.this, self.source.clause(TokenType.WHERE, (TokenType.WINDOW,)))
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

    def _aggregate(self, node: exp.Expr, span: Span) -> Aggregate:
        source, window = self.source, node.unalias()
        if not isinstance(window, exp.Window):
            raise self._no_aggregate(node)
        if not isinstance(node, exp.Alias):
            raise source.refuse(node, f"{node.sql(dialect='duckdb')} has no name", "name it with AS")
        call = window.this
        condition = None
        if isinstance(call, exp.Filter):
            call, condition = call.this, call.expression.this
        function = _FUNCTIONS.get(type(call))
        if function is None:
            raise self._unsupported(node, call, source.aggregate(span).function)
        inner = call.this
        if isinstance(inner, exp.Distinct):
            raise source.refuse(node, f"{function}(DISTINCT …)", "the exact stream state would be unbounded; drop it")
        extra = [name for name, value in call.args.items() if value and name not in ("this", "big_int")]
        if extra or isinstance(inner, exp.Order):
            raise source.refuse(node, f"{function} with more than one argument or ORDER BY", f"write {function}(x)")
        if any(part is not None and part.find(exp.Window, exp.AggFunc, exp.Query) for part in (inner, condition)):
            raise source.refuse(node, f"an aggregate or subquery inside {function}", "use the event's own columns")
        spans = source.aggregate(span)
        argument = None if inner is None or isinstance(inner, exp.Star) else self._text(inner, spans.argument)
        filter_ = None if condition is None or spans.filter is None else self._text(condition, spans.filter)
        if filter_ is not None:
            self._bind(node, f"SELECT 1 FROM {quoted(self.stream.name)} WHERE {filter_}")
        type_ = pa.int64() if argument is None else self._type(node, argument)
        result = self._result_type(node, function, inner, type_)
        bounds = read_window(source, window, self.stream, self.binder, self._resolve)
        return Aggregate(node.alias, function, self._input(argument, filter_, type_), self._window(bounds), result)

    def _no_aggregate(self, node: exp.Expr) -> DefinitionError:
        text = node.unalias().sql(dialect="duckdb")
        if node.find(exp.Star) and not node.find(exp.Window):
            return self.source.refuse(node, "SELECT *", "list the entity columns and aggregates")
        if node.find(exp.Window):
            return self.source.refuse(
                node, f"{text} computes with an aggregate", "write the expression in the feature set"
            )
        return self.source.refuse(
            node, f"{text} is neither an entity column nor an aggregate", "write the expression in the feature set"
        )

    def _unsupported(self, node: exp.Expr, call: exp.Expr, written: str) -> DefinitionError:
        while isinstance(call, exp.IgnoreNulls | exp.RespectNulls):
            call = call.this
        what = f"{written} over a window"
        if isinstance(call, exp.AnyValue | exp.First | exp.Last):
            what += " depends on evaluation order"
        return self.source.refuse(node, what, "use count, sum, avg, min or max")

    def _result_type(
        self, node: exp.Expr, function: AggregateFunction, argument: exp.Expr | None, type_: pa.DataType
    ) -> pa.DataType:
        if function == "count":
            return pa.int64()
        text = argument.sql(dialect="duckdb") if argument is not None else ""
        exact = pa.types.is_signed_integer(type_) or (pa.types.is_decimal(type_) and type_.precision <= _MAX_DIGITS)
        if function in ("min", "max"):
            others = (pa.bool_(), pa.float32(), pa.float64(), pa.date32(), pa.timestamp("us"))
            if exact or type_ in others:
                return type_
            raise self.source.refuse(
                node,
                f"{function}({text}) over {_sql_type(type_)} is not kept by the stream",
                "use a number of at most 18 digits, DATE, TIMESTAMP or BOOLEAN",
            )
        if pa.types.is_floating(type_):
            plain = isinstance(argument, exp.Column)
            raise self.source.refuse(
                node,
                f"{function}({text}) over {_sql_type(type_)} depends on evaluation order",
                f"declare {argument.name} DECIMAL(12,2) in {self.stream.schema.file}"
                if plain and argument is not None
                else "make the argument DECIMAL(p,s) or BIGINT",
            )
        if not exact:
            raise self.source.refuse(
                node,
                f"{function}({text}) over {_sql_type(type_)}",
                "use an integer or a DECIMAL of at most 18 digits; CAST the argument",
            )
        scale = type_.scale if pa.types.is_decimal(type_) else 0
        return pa.float64() if function == "avg" else pa.decimal128(38, scale)

    def _input(self, argument: str | None, filter_: str | None, type_: pa.DataType) -> int:
        wanted = Input(argument, filter_, type_)
        if wanted not in self.inputs:
            self.inputs.append(wanted)
        return self.inputs.index(wanted)

    def _window(self, window: Window) -> int:
        for index, known in enumerate(self.windows):
            if (known.size_us, known.step_us) == (window.size_us, window.step_us):
                return index
        self.windows.append(window)
        return len(self.windows) - 1

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

    def _type(self, node: exp.Expr, argument: str) -> pa.DataType:
        return self._bind(node, f"SELECT {argument}\n AS argument FROM {quoted(self.stream.name)}").field(0).type

    def _bind(self, node: exp.Expr, sql: str) -> pa.Schema:
        try:
            return self.binder.describe(sql)
        except BindError as error:
            raise self.source.refuse(node, str(error), "correct the expression") from error


def _sql_type(type_: pa.DataType) -> str:
    names = {pa.float64(): "DOUBLE", pa.float32(): "FLOAT", pa.string(): "VARCHAR", pa.bool_(): "BOOLEAN"}
    if pa.types.is_decimal(type_):
        return f"DECIMAL({type_.precision},{type_.scale})"
    name: str = names.get(type_, str(type_))
    return name.upper()
