"""``FROM (SELECT … FROM stream WHERE …)``: what a view makes of each event before it aggregates.

Also written ``WITH name AS (SELECT …) SELECT … FROM name``. Row by row, so that one event gives at most one row, with
its position: expressions, CASE, casts and WHERE, no aggregates and no joins.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import cast

import pyarrow as pa
from sqlglot import TokenType, exp

from dovetail.features.batch.binding import Binder, BindError
from dovetail.features.plan import Cleaned, Stream
from dovetail.features.source import Source, nearest, quoted

__all__ = ["inner_source", "read_cleaned", "stream_of"]

_CLAUSES = {"expressions", "from_", "from", "where", "kind"}


def inner_source(source: Source) -> Source | None:
    """The SELECT inside FROM's parentheses, or the common table expression that FROM names; None without one.

    Raises:
        DefinitionError: it is a UNION, one of several, or reads another SELECT.
    """
    target = _target(source)
    if target is None or isinstance(target, exp.Table):
        return None
    if not isinstance(target, exp.Select):
        raise source.refuse(
            target,
            f"{target.key.upper()} in FROM: positions, watermarks and states are kept per stream",
            "make a view of each stream and add their features up in the feature set",
        )
    with_ = source.select.args.get("with_") or source.select.args.get("with")
    if with_ is not None and (len(with_.expressions) > 1 or with_.args.get("recursive")):
        raise source.refuse(with_, "more than one common table expression", "write one SELECT over the stream")
    if with_ is not None:
        return source.inside(source.clause(TokenType.WITH, (TokenType.SELECT,)))
    return source.inside(source.clause(TokenType.FROM, (TokenType.WHERE, TokenType.WINDOW)))


def stream_of(source: Source, streams: Mapping[str, Stream]) -> Stream | None:
    """The stream that FROM reads, itself or inside a SELECT; None when it reads none."""
    target = _target(source)
    if target is None:
        return None
    read = {table.name.lower() for table in target.find_all(exp.Table)}
    return next((stream for name, stream in streams.items() if name.lower() in read), None)


def _target(source: Source) -> exp.Expr | None:
    """What FROM reads: a table, or the query in parentheses or behind a common table expression's name."""
    clause = source.select.args.get("from_") or source.select.args.get("from")
    if clause is None:
        return None
    target: exp.Expr = clause.this
    if isinstance(target, exp.Subquery):
        return cast("exp.Expr", target.this)
    with_ = source.select.args.get("with_") or source.select.args.get("with")
    if with_ is not None and isinstance(target, exp.Table):
        return next((e.this for e in with_.expressions if e.alias.lower() == target.name.lower()), target)
    return target


def read_cleaned(inner: Source, stream: Stream, binder: Binder) -> tuple[Cleaned, Stream]:
    """What ``inner`` makes of the stream's events, and the stream as the view around it sees it.

    Raises:
        DefinitionError: a clause or expression that is not row by row, or the event time is changed or missing.
    """
    select = inner.select
    for clause, value in select.args.items():
        if value and clause not in _CLAUSES:
            node = value[0] if isinstance(value, list) else value
            what = f"{clause.strip('_').upper()} in a SELECT that cleans events"
            raise inner.refuse(node, what, "write SELECT expressions FROM the stream WHERE …: at most a row per event")
    if not isinstance(_target(inner), exp.Table):
        raise inner.refuse(
            select, "a SELECT in FROM of a SELECT that cleans events", "write one SELECT over the stream"
        )
    found = next((node for node in select.find_all(exp.AggFunc, exp.Window, exp.Subquery)), None)
    if found is not None:
        raise inner.refuse(
            found, "an aggregate or subquery in a SELECT that cleans events", "aggregate in the view around it"
        )
    reader = _Columns(inner, stream)
    columns: list[tuple[str, str]] = []
    for node, span in zip(select.expressions, inner.items(), strict=True):
        if isinstance(node, exp.Star) and not any(node.args.values()):
            columns += [(name, quoted(name, simple=True)) for name in stream.schema.arrow.names]
        elif node.alias_or_name and not node.find(exp.Star):
            columns.append((node.alias_or_name, inner.rewrite(span, node.unalias(), reader.name)))
        else:
            raise inner.refuse(node, f"{inner.cut(span)} has no name", "name it with AS")
    where = None
    condition = select.args.get("where")
    if condition is not None:
        where = inner.rewrite(inner.clause(TokenType.WHERE, ()), condition.this, reader.name)
    schema = _bound(inner, stream, columns, where, binder)
    kept = [sql for name, sql in columns if name.lower() == stream.event_time.lower()]
    if kept != [quoted(stream.event_time, simple=True)]:
        raise inner.refuse(
            select,
            f"{stream.event_time} is {'changed' if kept else 'not selected'}",
            f"select {stream.event_time} as it is: it says when things happened, for watermarks, too",
        )
    seen = dataclasses.replace(stream, schema=dataclasses.replace(stream.schema, arrow=schema))
    return Cleaned(tuple(columns), where, stream.schema.arrow), seen


class _Columns:
    def __init__(self, inner: Source, stream: Stream) -> None:
        self._inner, self._stream = inner, stream
        clause = inner.select.args.get("from_") or inner.select.args.get("from")
        self._relation = clause.this.alias_or_name.lower() if clause is not None else ""
        self._names = {name.lower(): name for name in stream.schema.arrow.names}

    def name(self, column: exp.Column) -> tuple[str, int]:
        """The column by its declared name, and how many leading parts that stands for."""
        parts = [part.name.lower() for part in column.parts]
        qualified = len(parts) > 1 and parts[0] == self._relation
        wanted = parts[1] if qualified else parts[0]
        if wanted not in self._names:
            raise self._inner.refuse(
                column, f"stream {self._stream.name} has no column {wanted}", nearest(wanted, [*self._names.values()])
            )
        return quoted(self._names[wanted], simple=True), 2 if qualified else 1


def _bound(
    inner: Source, stream: Stream, columns: list[tuple[str, str]], where: str | None, binder: Binder
) -> pa.Schema:
    listed = ", ".join(f"{sql}\n AS {quoted(name)}" for name, sql in columns)
    condition = f" WHERE {where}" if where is not None else ""
    names = [name.lower() for name, _ in columns]
    doubled = next((name for name in names if names.count(name) > 1), None)
    if doubled is not None:
        raise inner.refuse(inner.select, f"two columns named {doubled}", "rename one with AS")
    try:
        bound = binder.describe(f"SELECT {listed} FROM {quoted(stream.name)}{condition}")
    except BindError as error:
        raise inner.refuse(inner.select, str(error), "correct the expression") from error
    time = stream.schema.arrow.field(stream.event_time)
    return pa.schema([time if field.name == stream.event_time else field for field in bound])
