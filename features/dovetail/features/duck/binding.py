"""DuckDB's reading of a text that is not run: its types, its syntax tree, the functions it calls."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from functools import cache, lru_cache
from typing import Any

import duckdb
import pyarrow as pa

from dovetail.features.duck.connection import shared_cursor
from dovetail.features.duck.stability import unstable_calls
from dovetail.features.duck.trees import nodes

__all__ = ["BindError", "Binder", "functions_called", "query_tree", "syntax_tree"]

#: The name under which a table to be declared is handed over.
_DECLARED = "_declared"


class BindError(Exception):
    """DuckDB refuses the text; ``str()`` is its own first line, ``hints`` the others. Callers add file and line."""

    def __init__(self, message: str) -> None:
        first, _, self.hints = message.partition("\n")
        super().__init__(first)


class Binder:
    """Binds SQL against empty tables of the given schemas."""

    def __init__(self, tables: Mapping[str, pa.Schema]) -> None:
        self._connection = shared_cursor()
        self._described: dict[str, pa.Schema] = {}
        for name, schema in tables.items():
            self.declare(name, schema)

    def declare(self, name: str, schema: pa.Schema) -> None:
        """Let ``name`` be an empty table of ``schema``, whatever it was."""
        # A table of DuckDB's own, of this cursor alone: of a query over Arrow, DuckDB writes no plan.
        self._connection.register(_DECLARED, schema.empty_table())
        target = '"' + name.replace('"', '""') + '"'
        self._connection.execute(f"CREATE OR REPLACE TEMP TABLE {target} AS FROM {_DECLARED}")
        self._connection.unregister(_DECLARED)
        self._described.clear()

    def describe(self, sql: str) -> pa.Schema:
        """The Arrow schema of the result of a query, whose values its rows alone decide.

        Raises:
            BindError: a name or type is wrong, or a call reads a clock, chance or the session's settings.
        """
        if sql not in self._described:
            try:
                found = self._connection.sql(f"SELECT * FROM ({sql}\n) LIMIT 0").to_arrow_table().schema
            except duckdb.Error as error:
                raise BindError(str(error)) from error
            self._refuse_unstable(sql)
            self._described[sql] = found
        return self._described[sql]

    def _refuse_unstable(self, sql: str) -> None:
        try:
            unstable = unstable_calls(self._connection, sql)
        except NotImplementedError as error:
            raise BindError(f"DuckDB does not say which functions this calls: {error}") from error
        if unstable:
            raise BindError(
                f"{unstable[0]} is not determined by its arguments\n"
                "use the row's own columns, and TIMESTAMP, which is UTC, instead of a time with zone"
            )

    def types(self, sql: str) -> list[str]:
        """The types of the columns of a query that :meth:`describe` accepts, as DuckDB writes them."""
        return [str(type_) for type_ in self._connection.sql(sql).types]

    def interval_us(self, sql: str) -> tuple[int, int]:
        """A constant interval as (months, microseconds); a day is 24 hours, as for any TIMESTAMP without zone.

        Raises:
            BindError: it is not a constant interval.
        """
        return _interval_us(sql)


@cache
def _interval_us(sql: str) -> tuple[int, int]:
    months = "12 * datepart('year', i) + datepart('month', i)"
    query = f"SELECT m, epoch_us(i - to_months(m::INTEGER)) FROM (SELECT i, {months} AS m FROM (SELECT {sql} AS i))"
    try:
        found, whole = shared_cursor().execute(query).fetchall()[0]
    except duckdb.Error as error:
        raise BindError(str(error)) from error
    return int(found), int(whole)


@cache
def _parser() -> tuple[duckdb.DuckDBPyConnection, threading.Lock]:
    return shared_cursor(), threading.Lock()


@lru_cache(maxsize=4_096)
def _statement(sql: str) -> Any:
    connection, lock = _parser()
    with lock:
        text = connection.execute("SELECT json_serialize_sql(?)", [sql]).fetchall()[0][0]
    parsed = json.loads(text)
    if parsed["error"]:
        raise BindError(f"{parsed['error_type'].capitalize()} Error: {parsed['error_message']}")
    return parsed["statements"][0]["node"]


def syntax_tree(expression: str) -> Mapping[str, Any]:
    """DuckDB's syntax tree of one expression, as ``json_serialize_sql`` gives it.

    Raises:
        BindError: DuckDB cannot parse it.
    """
    tree: Mapping[str, Any] = _statement(f"SELECT {expression}")["select_list"][0]
    return tree


def query_tree(sql: str) -> Mapping[str, Any]:
    """DuckDB's syntax tree of a query, as ``json_serialize_sql`` gives it.

    Raises:
        BindError: DuckDB cannot parse it.
    """
    tree: Mapping[str, Any] = _statement(sql.rstrip().rstrip(";"))
    return tree


def functions_called(sql: str) -> frozenset[str]:
    """Lower-case names of all functions, operators and aggregates a query calls, at any depth.

    Raises:
        BindError: DuckDB cannot parse it.
    """
    return frozenset(node["function_name"].lower() for node in nodes(_statement(sql)) if "function_name" in node)
