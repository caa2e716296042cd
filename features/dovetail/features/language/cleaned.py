"""``SELECT … FROM rows WHERE …`` between a stream and the view that reads it: what is made of each event.

Row by row, so that a row gives at most one, which keeps its position: expressions, CASE, casts and WHERE, no aggregates
and no joins. Such SELECTs may follow each other; each is kept as it is written and evaluated by itself, so that every
column has the type it has in DuckDB and nothing is evaluated for a row that an earlier WHERE removed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa
from sqlglot import TokenType, exp

from dovetail.features.duck.binding import Binder
from dovetail.features.duck.parsing import BindError
from dovetail.features.language.remedies import remedy_of
from dovetail.features.language.source import (
    Source,
    Span,
    nearest,
    quoted,
)
from dovetail.features.plan.definitions import Branch, Cleaning

__all__ = ["JOINED", "Relation", "cleaned"]

_CLAUSES = {"expressions", "from_", "from", "where", "kind"}
_ROWS = "rows"
#: What to write instead of a JOIN with a stream.
JOINED = (
    'for a table\'s columns as of each event declare [rekeyed.NAME] enrich = ["batch_view"] in dovetail.toml, and read '
    "FROM NAME; for "
    "two streams write UNION ALL, and an aggregate FILTER (WHERE …) of each"
)


@dataclass(frozen=True, slots=True)
class Relation:
    """The rows that a FROM reads: the branches they come from, and their columns.

    ``called`` is what people know it by; ``times`` names the columns that hold the event time as it came.
    """

    called: str
    branches: tuple[Branch, ...]
    schema: pa.Schema
    times: frozenset[str]


def cleaned(inner: Source, below: Relation, alias: str, names: Sequence[str] | None, binder: Binder) -> Relation:
    """The relation that ``inner`` selects from ``below``, which its FROM calls ``alias``.

    ``names`` are its columns' where they go by their place, in a later SELECT of a UNION ALL. Tables of ``binder``
    change.

    Raises:
        DefinitionError: a clause or expression that is not row by row, or the event time is changed or missing.
    """
    select = inner.select
    _refuse_several_rows(inner)
    reader = _Columns(inner, below, alias, named=names is None)
    columns: list[tuple[str, str]] = []
    for node, span in zip(select.expressions, inner.items(), strict=True):
        columns += reader.columns(node, span)
    if names is not None:
        placed = names if len(names) == len(columns) else [f"c{index}" for index in range(len(columns))]
        columns = [(name, sql) for name, (_, sql) in zip(placed, columns, strict=True)]
    where = None
    condition = select.args.get("where")
    if condition is not None:
        where = inner.rewrite(inner.clause(TokenType.WHERE, ()), condition.this, reader.name)
    if where is None and columns == [(name, quoted(name)) for name in below.schema.names]:
        return below
    same = {quoted(name) for name in below.times}
    times = frozenset(name for name, sql in columns if sql in same)
    _refuse_doubled(inner, columns)
    binder.declare(_ROWS, below.schema)
    schema = _bound(inner, columns, where, times, binder)
    if not times:
        lost = sorted(below.times)[0]
        changed = any(name.lower() in {time.lower() for time in below.times} for name, _ in columns)
        raise inner.refuse(
            select,
            f"{lost} is {'changed' if changed else 'not selected'}",
            f"select {lost} as it is: it says when things happened, for watermarks, too",
        )
    cleaning = Cleaning(tuple(columns), where, below.schema, schema)
    branches = tuple(dataclasses.replace(b, cleanings=(*b.cleanings, cleaning)) for b in below.branches)
    return Relation(below.called, branches, schema, times)


def _refuse_several_rows(inner: Source) -> None:
    """Refuse what makes a row of several, or several of one."""
    select = inner.select
    for clause, value in select.args.items():
        if value and clause not in _CLAUSES:
            node = value[0] if isinstance(value, list) else value
            what = f"{clause.strip('_').upper()} in a SELECT that cleans events"
            if clause == "joins":
                raise inner.refuse(node, what, JOINED)
            raise inner.refuse(node, what, "write SELECT expressions FROM the stream WHERE …: at most a row per event")
    spans = inner.items()
    if select.args.get("where") is not None:
        spans.append(inner.clause(TokenType.WHERE, ()))
    for span in spans:
        found = inner.not_row_by_row(span)
        if found is None or found.kind == "columns":  # stars are columns of the row
            continue
        if found.kind == "rows":
            raise inner.refuse(
                inner.line_at(span),
                f"{found.name} in a SELECT that cleans events",
                "send an event for each: at most a row per event",
            )
        raise inner.refuse(
            inner.line_at(span),
            "an aggregate or subquery in a SELECT that cleans events",
            "aggregate in the view around it",
        )


class _Columns:
    """The columns of one SELECT, by the names of those it reads."""

    def __init__(self, inner: Source, below: Relation, alias: str, *, named: bool) -> None:
        self._inner, self._below, self._alias, self._named = inner, below, alias.lower(), named
        self._names = {name.lower(): name for name in below.schema.names}

    def columns(self, node: exp.Expr, span: Span) -> list[tuple[str, str]]:
        """The columns that an item of the select list gives: one, or all of them."""
        star = node
        if isinstance(node, exp.Column) and node.table.lower() == self._alias:
            star = node.this
        if isinstance(star, exp.Star) and not any(star.args.values()):
            return [(name, quoted(name)) for name in self._below.schema.names]
        if (self._named and not isinstance(node, exp.Alias | exp.Column)) or node.find(exp.Star, exp.Columns):
            raise self._inner.refuse(node, f"{self._inner.cut(span)} has no name", "name it with AS")
        return [(node.alias_or_name, self._inner.rewrite(span, node.unalias(), self.name))]

    def name(self, column: exp.Column) -> tuple[str, int]:
        """The column by its declared name, and how many leading parts that stands for."""
        parts = [part.name.lower() for part in column.parts]
        qualified = len(parts) > 1 and parts[0] == self._alias
        wanted = parts[1] if qualified else parts[0]
        if wanted not in self._names:
            raise self._inner.refuse(
                column, f"{self._below.called} has no column {wanted}", nearest(wanted, [*self._names.values()])
            )
        return quoted(self._names[wanted]), 2 if qualified else 1


def _refuse_doubled(inner: Source, columns: list[tuple[str, str]]) -> None:
    names = [name.lower() for name, _ in columns]
    own = next((name for name in names if name.startswith("_")), None)
    if own is not None:
        raise inner.refuse(inner.select, f"a column named {own}", "rename it with AS: positions begin with _")
    doubled = next((name for name in names if names.count(name) > 1), None)
    if doubled is not None:
        raise inner.refuse(inner.select, f"two columns named {doubled}", "rename one with AS")


def _bound(
    inner: Source, columns: list[tuple[str, str]], where: str | None, times: frozenset[str], binder: Binder
) -> pa.Schema:
    """The schema that DuckDB gives the columns of ``_ROWS``."""
    listed = ", ".join(f"{sql}\n AS {quoted(name)}" for name, sql in columns)
    condition = f" WHERE {where}" if where is not None else ""
    query = f"SELECT {listed} FROM {_ROWS}{condition}"
    try:
        bound, types = binder.describe(query), binder.types(query)
    except BindError as error:
        raise inner.refuse(inner.select, str(error), remedy_of(error)) from error
    binder.declare(_ROWS, bound)
    for field, type_, kept in zip(bound, types, binder.types(f"SELECT * FROM {_ROWS}"), strict=True):
        if type_ != kept or pa.types.is_null(field.type):
            raise inner.refuse(
                inner.select,
                f"{field.name} is {type_}, which is not kept between SELECTs as it is",
                "CAST it to a type that columns are declared with, like VARCHAR, BIGINT or DECIMAL(18,2)",
            )
    return pa.schema([field.with_nullable(field.name not in times) for field in bound])
