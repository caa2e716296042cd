"""Writes down what DuckDB is asked, as a script: what ``--explain`` shows and what reproduces a value by hand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import duckdb

__all__ = ["TracedConnection"]


class TracedConnection:
    """A connection that appends every statement to ``script`` before it runs. For reading, not for speed."""

    def __init__(self, connection: duckdb.DuckDBPyConnection, script: list[str]) -> None:
        self._connection = connection
        self._script = script

    def execute(self, sql: str, *arguments: Any) -> Any:
        self._script.append(_statement(sql))
        return self._connection.execute(sql, *arguments)

    def sql(self, sql: str) -> TracedRelation:
        return TracedRelation(self._connection.sql(sql), sql, self._script)

    def note(self, statements: Sequence[str]) -> None:
        """Write down statements that have run already."""
        self._script += [_statement(statement) for statement in statements]

    def cursor(self) -> TracedConnection:
        return TracedConnection(self._connection.cursor(), self._script)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)


class TracedRelation:
    """A query: what becomes of it decides what is written down."""

    def __init__(self, relation: Any, sql: str, script: list[str]) -> None:
        self._relation = relation
        self._sql = sql
        self._script = script

    def to_arrow_table(self) -> Any:
        self._script.append(_statement(self._sql))
        return self._relation.to_arrow_table()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._relation, name)


def _statement(sql: str) -> str:
    lines = [line.rstrip() for line in sql.strip().splitlines() if line.strip()]
    indents = [len(line) - len(line.lstrip()) for line in lines[1:]]
    cut = min(indents, default=0)
    return "\n".join([lines[0], *(line[cut:] for line in lines[1:])]) + ";"
