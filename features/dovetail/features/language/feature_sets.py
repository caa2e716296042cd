"""``SELECT … FROM request LEFT JOIN view USING (…)``, read as a :class:`FeatureSet`."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Literal

import pyarrow as pa
from sqlglot import exp

from dovetail.features.duck.binding import Binder
from dovetail.features.duck.parsing import BindError, syntax_tree
from dovetail.features.expressions.compile import compile_expression
from dovetail.features.language.remedies import remedy_of
from dovetail.features.language.source import (
    Source,
    Span,
    nearest,
    quoted,
)
from dovetail.features.language.streaming_views import from_table, relation_name
from dovetail.features.plan.definitions import (
    BatchView,
    FeatureColumn,
    FeatureSet,
    JoinedView,
    StreamView,
)
from dovetail.features.plan.feature_types import feature_type
from dovetail.features.plan.request import CANDIDATES, REQUEST, request_schema
from dovetail.platform.rows.schema import TableSchema

__all__ = ["parse_feature_set", "request_table_of"]

Origin = Literal["key", "request", "streaming", "batch"]

_CLAUSES = {"expressions", "from_", "from", "joins", "kind"}
_KEYS = ("request_id", "item_id")


def request_table_of(source: Source, requests: Mapping[str, TableSchema]) -> TableSchema | None:
    """The table of ``requests`` that the statement reads ``FROM``, which makes it a feature set; None for another."""
    table = from_table(source)
    return None if table is None else {name.lower(): one for name, one in requests.items()}.get(table.name.lower())


def parse_feature_set(
    name: str,
    source: Source,
    request: TableSchema,
    stream_views: Mapping[str, StreamView],
    batch_views: Mapping[str, BatchView],
    reserved: Collection[str] = (),
) -> FeatureSet:
    """The plan of a feature set over ``request``, as declared; ``reserved`` are names that no output has.

    Raises:
        DefinitionError: anything outside the supported language, with the line and what to write instead.
    """
    return _FeatureSetReader(name, source, request, {**stream_views, **batch_views}, reserved).feature_set()


class _FeatureSetReader:
    def __init__(
        self,
        name: str,
        source: Source,
        request: TableSchema,
        views: Mapping[str, StreamView | BatchView],
        reserved: Collection[str],
    ) -> None:
        self.reserved = reserved
        self.name, self.source, self.request = name, source, request_schema(request)
        self.table = request.name
        self.shared = tuple(column for column in request.arrow.names if column != CANDIDATES)
        self.views = {key.lower(): view for key, view in views.items()}
        #: Relation names as the statement uses them, lower case: None is the request.
        self.relations: dict[str, StreamView | BatchView | None] = {}
        self.request_columns = {column.lower(): column for column in self.request.names}

    def feature_set(self) -> FeatureSet:
        source, select = self.source, self.source.select
        for clause, value in select.args.items():
            if value and clause not in _CLAUSES:
                raise source.refuse(
                    value[0] if isinstance(value, list) else value,
                    f"{clause.strip('_').upper()} in a feature set",
                    "a feature set is SELECT expressions FROM request LEFT JOIN views: one row per candidate",
                )
        self.relations[relation_name(source).lower()] = None
        joins = tuple(self._join(join) for join in select.args.get("joins") or [])
        inputs = self._inputs(joins)
        binder = Binder({"request_rows": inputs})
        pairs = zip(select.expressions, source.items(), strict=True)
        columns = tuple(self._column(node, span, inputs, binder) for node, span in pairs)
        self._check_outputs(columns)
        self._bind_whole(joins)
        at = (source.file, source.line(select), source.text)
        return FeatureSet(self.name, *at, joins, columns, inputs, self.shared, self.table)

    def _join(self, join: exp.Join) -> JoinedView:
        source, table = self.source, join.this
        kind = " ".join(filter(None, (join.args.get("method"), join.side, join.kind))).upper()
        using = [identifier.name.lower() for identifier in join.args.get("using") or []]
        if kind not in ("LEFT", "LEFT OUTER") or not using or not isinstance(table, exp.Table):
            raise source.refuse(
                join, f"{kind or 'INNER'} JOIN {'' if using else 'without USING'}".strip(), "write LEFT JOIN view USING"
            )
        view = self.views.get(table.name.lower())
        if view is None:
            raise source.refuse(table, f"no view named {table.name}", nearest(table.name, [*self._names()]))
        if table.alias_or_name.lower() in self.relations or view in self.relations.values():
            raise source.refuse(table, f"view {view.name} is joined twice", "join it once")
        if set(using) != {column.lower() for column in view.entity}:
            raise source.refuse(
                join,
                f"{view.name} is keyed by ({', '.join(view.entity)}), not by ({', '.join(using)})",
                f"write USING ({', '.join(view.entity)})",
            )
        for column, type_ in zip(view.entity, view.entity_types, strict=True):
            self._check_key(join, view, column, type_)
        self.relations[table.alias_or_name.lower()] = view
        streaming = isinstance(view, StreamView)
        return JoinedView(view.name, "streaming" if streaming else "batch", view.entity)

    def _check_key(self, join: exp.Join, view: StreamView | BatchView, column: str, type_: pa.DataType) -> None:
        if column not in self.request.names:
            raise self.source.refuse(
                join,
                f"view {view.name} is keyed by {column}, which {self.table} does not have",
                f"add {column} to CREATE TABLE {self.table}",
            )
        found = self.request.field(column).type
        if found != type_:
            raise self.source.refuse(
                join,
                f"{column} is {found} in {self.table} and {type_} in view {view.name}",
                "declare the same type in both",
            )

    def _names(self) -> list[str]:
        return [view.name for view in self.views.values()]

    def _inputs(self, joins: tuple[JoinedView, ...]) -> pa.Schema:
        """The flat rows expressions read: request columns, then every joined view's as ``view.column``."""
        fields = list(self.request)
        for join in joins:
            view = self.views[join.view.lower()]
            fields += [pa.field(f"{view.name}.{field.name}", field.type) for field in view.output_schema]
        names = [field.name.lower() for field in fields]
        doubled = next((name for name in names if names.count(name) > 1), None)
        if doubled is not None:
            raise self.source.refuse(
                self.source.select,
                f"{doubled} is a column of {self.table}, or of one view, and a view's column, written with a dot",
                f"rename the column {doubled}",
            )
        return pa.schema(fields)

    def _column(self, node: exp.Expr, span: Span, inputs: pa.Schema, binder: Binder) -> FeatureColumn:
        source, expression = self.source, node.unalias()
        self._refuse_several(node, span)
        if not node.alias_or_name:
            raise source.refuse(node, f"{source.cut(span)} has no name", "name it with AS")
        references: dict[tuple[str, str], None] = {}

        def name(column: exp.Column) -> tuple[str, int]:
            relation, found, parts = self._resolve(column)
            references[relation, found] = None
            flat = found if relation == REQUEST else f"{relation}.{found}"
            return quoted(flat, simple=relation == REQUEST), parts

        resolved = source.rewrite(span, expression, name)
        type_ = self._bind(node, resolved, binder)
        compiled = compile_expression(syntax_tree(resolved), inputs)
        lane: Literal["compiled", "duckdb"] = (
            "compiled" if compiled is not None and compiled.type == type_ else "duckdb"
        )
        return FeatureColumn(
            name=node.alias_or_name,
            sql=source.cut(span),
            line=source.line(node),
            references=tuple(references),
            origin=self._origin(node, tuple(references), expression),
            lane=lane,
            type=type_,
            resolved=resolved,
        )

    def _refuse_several(self, node: exp.Expr, span: Span) -> None:
        """Refuse what gives several rows or columns for a candidate, or a value of several candidates."""
        source, broken = self.source, self.source.not_row_by_row(span)
        if broken is None:
            return
        if broken.kind == "columns":
            raise source.refuse(node, "SELECT *" if broken.name == "*" else broken.name, "list the columns")
        if broken.kind == "rows":
            raise source.refuse(
                node,
                f"{broken.name} in a feature set makes several rows of a candidate's one",
                "select the list itself, an element like x[1], or a number of it like len(x) or list_sum(x)",
            )
        raise source.refuse(
            node, "an aggregate, window or subquery in a feature set", "aggregate in a view and join it"
        )

    def _bind_whole(self, joins: tuple[JoinedView, ...]) -> None:
        """Let DuckDB bind the statement as it stands: what it runs is what is meant."""
        schemas = {self.table: self.request}
        for join in joins:
            view = self.views[join.view.lower()]
            keys = [pa.field(column, type_) for column, type_ in zip(view.entity, view.entity_types, strict=True)]
            schemas[view.name] = pa.schema([*keys, *view.output_schema])
        try:
            Binder(schemas).describe(self.source.cut(self.source.whole))
        except BindError as error:
            raise self.source.refuse(self.source.select, str(error), remedy_of(error)) from error

    def _bind(self, node: exp.Expr, resolved: str, binder: Binder) -> pa.DataType:
        try:
            type_ = binder.describe(f"SELECT {resolved}\n AS value FROM request_rows").field(0).type
        except BindError as error:
            raise self.source.refuse(node, str(error), remedy_of(error)) from error
        found = feature_type(type_)
        if found is None:
            raise self.source.refuse(
                node,
                f"a feature of type {type_}",
                "make it a number, VARCHAR, BOOLEAN, DATE or TIMESTAMP, or a list, map or struct of these: CAST it",
            )
        return found

    def _resolve(self, column: exp.Column) -> tuple[str, str, int]:
        """(relation, declared column, leading parts that say so); further parts are members of a struct."""
        parts = [part.name for part in column.parts]
        if len(parts) > 1 and parts[0].lower() in self.relations:
            view = self.relations[parts[0].lower()]
            return (*self._in_relation(column, view, parts[1]), 2)
        owners: list[StreamView | BatchView | None] = [
            view for view in self.relations.values() if parts[0].lower() in self._columns_of(view)
        ]
        if not owners:
            known = (
                [*self.relations]
                if len(parts) > 1
                else [c for v in self.relations.values() for c in self._columns_of(v)]
            )
            raise self.source.refuse(column, f"no column {'.'.join(parts)}", nearest(parts[0], known))
        if len(owners) > 1:
            names = [view.name if view is not None else self.table for view in owners]
            raise self.source.refuse(
                column, f"{parts[0]} is a column of {' and of '.join(names)}", f"write {names[0]}.{parts[0]}"
            )
        return (*self._in_relation(column, owners[0], parts[0]), 1)

    def _columns_of(self, view: StreamView | BatchView | None) -> Mapping[str, str]:
        if view is None:
            return self.request_columns
        return {name.lower(): name for name in view.output_schema.names}

    def _in_relation(self, column: exp.Column, view: StreamView | BatchView | None, name: str) -> tuple[str, str]:
        relation = REQUEST if view is None else view.name
        known = self._columns_of(view)
        if view is not None and name.lower() in {key.lower() for key in view.entity}:
            raise self.source.refuse(
                column, f"{relation}.{name} is the key the view is joined by", f"write {self.table}.{name}"
            )
        if name.lower() not in known:
            raise self.source.refuse(column, f"{relation} has no column {name}", nearest(name, list(known.values())))
        return relation, known[name.lower()]

    def _origin(self, node: exp.Expr, references: tuple[tuple[str, str], ...], expression: exp.Expr) -> Origin:
        kinds = {type(self.views[relation.lower()]) for relation, _ in references if relation != REQUEST}
        if len(kinds) > 1:
            raise self.source.refuse(
                node,
                f"{node.alias_or_name} mixes batch and streaming views",
                "split into two columns: batch features are looked up again when the sample is made",
            )
        if kinds:
            return "streaming" if StreamView in kinds else "batch"
        key = isinstance(expression, exp.Column) and references in [((REQUEST, column),) for column in _KEYS]
        return "key" if key and node.alias_or_name in _KEYS else "request"

    def _check_outputs(self, columns: tuple[FeatureColumn, ...]) -> None:
        seen: set[str] = set()
        for column in columns:
            if column.name.lower() in seen:
                raise self.source.refuse(column.line, f"two outputs named {column.name}", "rename one with AS")
            seen.add(column.name.lower())
            as_it_is = column.name.lower() == "request_time" and column.references == ((REQUEST, "request_time"),)
            if column.name.startswith("_") or (
                column.name.lower() in self.reserved and not (as_it_is and column.resolved.strip('"') == "request_time")
            ):
                raise self.source.refuse(
                    column.line,
                    f"an output named {column.name}, which snapshots and samples have a column of their own for",
                    f"rename it with AS, like {column.name.strip('_') or 'x'}_feature",
                )
        for key in _KEYS:
            if not any(c.name == key and c.origin == "key" for c in columns):
                raise self.source.refuse(
                    self.source.select,
                    f"the feature set does not select {key}",
                    f"add {key}: labels and samples are found by it",
                )
