"""Statements that are compiled once and handed to the driver as text.

SQLAlchemy spends 0.1 to 0.3 ms on making a statement and finding its compiled form again, where SQLite runs it in
0.01 ms. What is executed at every commit is therefore made, and compiled, once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa

__all__ = ["Prepared"]


class Prepared:
    """A statement without lists of unknown length, executed in transactions that SQLAlchemy has begun.

    It takes and gives what the driver does: texts, integers, bytes, and on PostgreSQL lists of them. What fails raises
    the driver's own error. All connections it is used with are of one dialect.
    """

    def __init__(self, statement: Any) -> None:
        self._statement = statement
        self._text = ""
        # The names of the values in the order the text takes them; None where it takes them by name.
        self._order: Sequence[str] | None = None
        self._fixed: Mapping[str, Any] = {}

    def rows(self, connection: sa.Connection, values: Mapping[str, Any]) -> list[tuple[Any, ...]]:
        """Execute it with ``values`` by name; the rows it returns."""
        cursor = self._cursor(connection)
        try:
            cursor.execute(self._text, self._bound(values))
            return list(cursor.fetchall())
        finally:
            cursor.close()

    def run(self, connection: sa.Connection, values: Mapping[str, Any]) -> int:
        """Execute it with ``values`` by name; how many rows it wrote."""
        cursor = self._cursor(connection)
        try:
            cursor.execute(self._text, self._bound(values))
            return int(cursor.rowcount)
        finally:
            cursor.close()

    def run_columns(self, connection: sa.Connection, columns: Mapping[str, Sequence[Any]]) -> int:
        """Execute it once for each row of ``columns``; how many rows it wrote.

        Of a driver that takes values by position (SQLite).
        """
        cursor = self._cursor(connection)
        try:
            cursor.executemany(self._text, zip(*(columns[name] for name in self._order or ()), strict=True))
            return int(cursor.rowcount)
        finally:
            cursor.close()

    def _cursor(self, connection: sa.Connection) -> Any:
        if not self._text:
            compiled = self._statement.compile(dialect=connection.dialect)
            self._order, self._fixed = compiled.positiontup, compiled.params
            self._text = compiled.string
        return connection.connection.cursor()

    def _bound(self, values: Mapping[str, Any]) -> Any:
        bound = {**self._fixed, **values}
        return bound if self._order is None else [bound[name] for name in self._order]
