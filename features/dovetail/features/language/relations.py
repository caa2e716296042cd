"""The FROM of a streaming view: a stream, or SELECTs over streams, nested, named with WITH, joined by UNION ALL.

Whatever the nesting, it comes down to branches in the order written: a stream and what is made of its events, SELECT
after SELECT. A SELECT over a UNION ALL is one over each of its branches.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa
from sqlglot import TokenType, exp

from dovetail.features.duck.binding import Binder
from dovetail.features.language.cleaned import JOINED, Relation, cleaned
from dovetail.features.language.source import Source, Span, nearest
from dovetail.features.plan.definitions import Branch, Stream
from dovetail.platform.rows.schema import TableSchema

__all__ = ["read_relation", "reads_stream"]

_ENDS = (TokenType.WHERE, TokenType.WINDOW)
_PLAIN = {"this", "alias", "db", "catalog"}


def reads_stream(source: Source, streams: Collection[str]) -> bool:
    """Whether FROM reads one of the ``streams``: itself, or inside SELECTs and common table expressions."""
    target = _from(source)
    named = {cte.alias.lower(): cte.this for cte in source.select.find_all(exp.CTE)}
    known = {name.lower() for name in streams}
    waiting = [] if target is None else [target]
    while waiting:
        for table in waiting.pop().find_all(exp.Table):
            name = table.name.lower()
            if name in named:
                waiting.append(named.pop(name))
            elif name in known:
                return True
    return False


def read_relation(source: Source, streams: Mapping[str, Stream]) -> tuple[tuple[Branch, ...], Stream]:
    """The branches that FROM reads, and all of them as one stream; no branches where it is a stream as declared.

    Raises:
        DefinitionError: something else than streams, SELECTs of them row by row, and UNION ALL.
    """
    relation = _RelationReader(source, streams).outermost()
    first = relation.branches[0].stream
    if len(relation.branches) == 1 and not relation.branches[0].cleanings:
        return (), first
    declared = [branch.stream for branch in relation.branches]
    names = " UNION ALL ".join(dict.fromkeys(stream.name for stream in declared))
    file = first.schema.file if len(declared) == 1 else source.file
    time = min(relation.times, key=lambda name: (name != first.event_time, relation.schema.names.index(name)))
    stream = Stream(
        schema=TableSchema(names, file, source.line(source.select), relation.schema),
        topic="",
        event_time=time,
        key="",
        allowed_lateness_us=max(stream.allowed_lateness_us for stream in declared),
        max_ahead_us=max(stream.max_ahead_us for stream in declared),
    )
    return relation.branches, stream


def _from(source: Source) -> exp.Expr | None:
    clause = source.select.args.get("from_") or source.select.args.get("from")
    return None if clause is None else clause.this


@dataclass(frozen=True, slots=True)
class _Table:
    """A common table expression: where it is, and those it may name."""

    query: Span
    scope: Mapping[str, _Table]


class _RelationReader:
    def __init__(self, source: Source, streams: Mapping[str, Stream]) -> None:
        self._source = source
        self._streams = {name.lower(): stream for name, stream in streams.items()}
        self._binder = Binder({})

    def outermost(self) -> Relation:
        """The relation that the view's own FROM reads."""
        return self._read(self._source, self._scope(self._source.whole, {}))

    def _scope(self, span: Span, outer: Mapping[str, _Table]) -> Mapping[str, _Table]:
        """The common table expressions that the query in ``span`` may name: its own and those around it."""
        scope = dict(outer)
        for name, words, query in self._source.query(span).tables:
            if [word for word in words if word not in ("AS", "NOT", "MATERIALIZED")]:
                raise self._source.refuse(
                    self._source.line_at(query),
                    f"{' '.join(words)} in WITH",
                    f"write WITH {name} AS (SELECT …), its columns named with AS",
                )
            scope[name.lower()] = _Table(query, dict(scope))
        return scope

    def _read(self, select: Source, scope: Mapping[str, _Table]) -> Relation:
        """The relation that the FROM of ``select`` reads."""
        target = _from(select)
        if target is None:
            raise select.refuse(select.select, "a SELECT without FROM", "select from a stream")
        if not isinstance(target, exp.Table | exp.Subquery):
            raise select.refuse(target, f"{target.key.upper()} is no stream", "write FROM a stream or (SELECT …)")
        more = [name for name, value in target.args.items() if value and name not in _PLAIN]
        alias = target.args.get("alias")
        if more or (alias is not None and alias.args.get("columns")):
            raise select.refuse(
                target,
                f"{more[0].upper() if more else 'a list of column names'} after what FROM reads",
                "write FROM the stream or (SELECT …), and name columns with AS",
            )
        if isinstance(target, exp.Subquery):
            return self._query(select.inside(select.clause(TokenType.FROM, _ENDS)), scope)
        name = target.name.lower()
        if name in scope:
            found = self._query(scope[name].query, scope[name].scope)
            return dataclasses.replace(found, called=target.name)
        if name not in self._streams:
            known = [stream.name for stream in self._streams.values()]
            raise select.refuse(target, f"{target.name} is no stream", nearest(name, known))
        stream = self._streams[name]
        return Relation(f"stream {stream.name}", (Branch(stream),), stream.schema.arrow, frozenset({stream.event_time}))

    def _query(self, span: Span, outer: Mapping[str, _Table], names: Sequence[str] | None = None) -> Relation:
        """The relation that the query in ``span`` gives, its columns called ``names`` where a UNION ALL says so."""
        parts = self._source.query(span)
        scope = self._scope(span, outer)
        for operator, query in zip(parts.operators, parts.queries[1:], strict=True):
            if operator != "UNION ALL":
                raise self._source.refuse(
                    self._source.line_at(query),
                    f"{operator} in FROM compares rows with each other",
                    "write UNION ALL, with the same columns in the same order in every SELECT",
                )
        if len(parts.queries) > 1:
            relations = [self._query(parts.queries[0], scope, names)]
            names = relations[0].schema.names
            relations += [self._query(query, scope, names) for query in parts.queries[1:]]
            return self._union(parts.queries, relations)
        if parts.tables or parts.queries[0] != span:
            return self._query(parts.queries[0], scope, names)
        if self._source.words(span)[0] != "SELECT":
            words = self._source.words(span)
            what, remedy = f"{words[0]} where rows of a stream are read", "write SELECT … FROM a stream"
            if "JOIN" in words:
                what, remedy = "JOIN in FROM", JOINED
            raise self._source.refuse(self._source.line_at(span), what, remedy)
        select = self._source.statement(span)
        target = _from(select)
        below = self._read(select, scope)
        return cleaned(select, below, "" if target is None else str(target.alias_or_name), names, self._binder)

    def _union(self, spans: Sequence[Span], relations: Sequence[Relation]) -> Relation:
        first = relations[0]
        at = self._positions_of_time(first)
        for number, (span, other) in enumerate(zip(spans[1:], relations[1:], strict=True), start=2):
            self._refuse_other_columns(span, number, first, other)
            at &= self._positions_of_time(other)
            if not at:
                raise self._source.refuse(
                    self._source.line_at(span),
                    f"the event time is {' or '.join(sorted(first.times))} in the first SELECT of the UNION ALL; "
                    f"that of SELECT {number} is at the place of {' or '.join(sorted(other.times))}",
                    "select each stream's event time at the same place",
                )
        branches = tuple(branch for relation in relations for branch in relation.branches)
        times = frozenset(first.schema.names[index] for index in at)
        return Relation("the UNION ALL", branches, first.schema, times)

    @staticmethod
    def _positions_of_time(relation: Relation) -> set[int]:
        return {relation.schema.names.index(name) for name in relation.times}

    def _refuse_other_columns(self, span: Span, number: int, first: Relation, other: Relation) -> None:
        line = self._source.line_at(span)
        if len(first.schema) != len(other.schema):
            raise self._source.refuse(
                line,
                f"SELECT {number} of the UNION ALL has {len(other.schema)} columns, the first has {len(first.schema)}",
                "select the same columns in the same order",
            )
        kinds = self._type_names(first.schema), self._type_names(other.schema)
        for column, here, there in zip(first.schema.names, *kinds, strict=True):
            if here != there:
                raise self._source.refuse(
                    line,
                    f"{column} is {here} in the first SELECT of the UNION ALL and {there} in SELECT {number}",
                    f"write CAST(… AS {here}) there, or one CAST in every SELECT",
                )

    def _type_names(self, schema: pa.Schema) -> list[str]:
        self._binder.declare("columns_of", schema)
        return self._binder.types("SELECT * FROM columns_of")
