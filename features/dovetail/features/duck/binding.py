"""DuckDB's binding of a text that is not run: the types of what it gives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache, lru_cache

import duckdb
import pyarrow as pa

from dovetail.features.duck.bounded import bounded_bind
from dovetail.features.duck.connection import shared_cursor
from dovetail.features.duck.growth import query_may_grow, value_may_grow
from dovetail.features.duck.parsing import BindError
from dovetail.features.duck.stability import why_unstable
from dovetail.platform.duck.quoting import identifier

__all__ = ["Binder"]

#: The name under which a table to be declared is handed over.
_DECLARED = "_declared"


_Bound = tuple[pa.Schema, Sequence[str]]


class Binder:
    """Binds SQL against empty tables of the given schemas. What was bound once is known to all with such tables."""

    def __init__(self, tables: Mapping[str, pa.Schema]) -> None:
        self._connection = shared_cursor()
        self._tables: dict[str, pa.Schema] = dict(tables)
        #: Names of tables that are not there yet, or as they were.
        self._undeclared = set(tables)
        self._described = _known(self._tables)

    def declare(self, name: str, schema: pa.Schema) -> None:
        """Let ``name`` be an empty table of ``schema``, whatever it was."""
        self._tables[name] = schema
        self._undeclared.add(name)
        self._described = _known(self._tables)

    def describe(self, sql: str) -> pa.Schema:
        """The Arrow schema of the result of a query, whose values its rows alone decide.

        Raises:
            BindError: a name or type is wrong, or a call reads a clock, chance or the session's settings; or what it
                computes of no row takes more than ``bounded.BOUNDS``: constants are computed when a text is bound.
        """
        return self._bound(sql)[0]

    def types(self, sql: str) -> list[str]:
        """The types of the columns of a query that :meth:`describe` accepts, as DuckDB writes them."""
        return list(self._bound(sql)[1])

    def _bound(self, sql: str) -> _Bound:
        if sql not in self._described:
            self._described[sql] = bounded_bind(sql, self._tables) if _may_grow(sql) else self._bind(sql)
        return self._described[sql]

    def _bind(self, sql: str) -> _Bound:
        for name in sorted(self._undeclared):
            # A table of DuckDB's own, of this cursor alone: of a query over Arrow, DuckDB writes no plan.
            self._connection.register(_DECLARED, self._tables[name].empty_table())
            self._connection.execute(f"CREATE OR REPLACE TEMP TABLE {identifier(name)} AS FROM {_DECLARED}")
            self._connection.unregister(_DECLARED)
        self._undeclared.clear()
        try:
            found = self._connection.sql(f"SELECT * FROM ({sql}\n) LIMIT 0")
            schema, types = found.to_arrow_table().schema, [str(type_) for type_ in found.types]
        except duckdb.Error as error:
            raise BindError(str(error)) from error
        if (why := why_unstable(self._connection, sql)) is not None:
            raise BindError(why)
        return schema, types

    def interval_us(self, sql: str) -> tuple[int, int]:
        """A constant interval as (months, microseconds); a day is 24 hours, as for any TIMESTAMP without zone.

        Raises:
            BindError: it is not a constant interval.
        """
        return _interval_us(sql)


def _known(tables: Mapping[str, pa.Schema]) -> dict[str, _Bound]:
    """What is bound against such tables, by its text; of some tables at a time."""
    return _bound_against(tuple((name, schema.serialize().to_pybytes()) for name, schema in sorted(tables.items())))


@lru_cache(maxsize=64)
def _bound_against(_tables: Sequence[tuple[str, bytes]]) -> dict[str, _Bound]:
    return {}


def _may_grow(sql: str) -> bool:
    try:
        return query_may_grow(sql)
    except BindError:  # what DuckDB cannot parse it does not compute, and says so better when it is to bind it
        return False


@cache
def _interval_us(sql: str) -> tuple[int, int]:
    if value_may_grow(sql):
        raise BindError("an interval that is made of what may be of any size")
    months = "12 * datepart('year', i) + datepart('month', i)"
    query = f"SELECT m, epoch_us(i - to_months(m::INTEGER)) FROM (SELECT i, {months} AS m FROM (SELECT {sql} AS i))"
    try:
        found, whole = shared_cursor().execute(query).fetchall()[0]
    except duckdb.Error as error:
        raise BindError(str(error)) from error
    return int(found), int(whole)
