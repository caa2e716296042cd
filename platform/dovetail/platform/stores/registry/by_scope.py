"""Tables of numbers of models, by model, scope and samples trained on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import sqlalchemy as sa

from dovetail.platform.stores.sql.bulk import Upsert, columns_of
from dovetail.platform.stores.sql.database import Database
from dovetail.platform.stores.sql.keys import storable, unescaped

__all__ = ["SCOPE_KEYS", "ScopeUpsert", "newest_by_scope", "read_by_scope", "scope_table"]

#: The first fields of every row, and what they are.
SCOPE_KEYS = {"model": sa.Text, "scope": sa.Text, "trained": sa.BigInteger}

R = TypeVar("R")


def scope_table(name: str, metadata: sa.MetaData, *values: sa.Column[Any]) -> sa.Table:
    """A table of the ``values`` by :data:`SCOPE_KEYS`."""
    keys: list[sa.Column[Any]] = [sa.Column(key, kind, primary_key=True) for key, kind in SCOPE_KEYS.items()]
    return sa.Table(name, metadata, *keys, *values)


class ScopeUpsert:
    """Stores rows in a table of :func:`scope_table`, by a statement that is compiled once."""

    def __init__(self, table: sa.Table) -> None:
        self._table = table
        self._upsert: Upsert | None = None

    def put(self, connection: sa.Connection, database: Database, rows: Sequence[Any]) -> None:
        """Store what ``rows``, named tuples, have of the table's columns; what has the same keys is replaced."""
        if not rows:
            return
        if database.postgresql:  # a slice is named by a value
            rows = [row._replace(scope=storable(row.scope)) for row in rows]
        columns = self._table.c
        if self._upsert is None:
            upsert = Upsert(database, self._table)
            self._upsert = upsert.replacing({c.name: upsert.excluded[c.name] for c in columns if not c.primary_key})
        given = columns_of(rows)
        self._upsert.execute(connection, {column.name: given[column.name] for column in columns})


def read_by_scope(connection: sa.Connection, database: Database, asked: sa.Select[Any], kind: type[R]) -> list[R]:
    """The rows that are ``asked`` for, as named tuples of ``kind``."""
    rows: list[Any] = [kind(*row) for row in connection.execute(asked)]
    return [row._replace(scope=unescaped(row.scope)) for row in rows] if database.postgresql else rows


def newest_by_scope(
    connection: sa.Connection,
    database: Database,
    of_model: sa.Select[Any],
    table: sa.Table,
    kind: type[R],
    scopes: str,
    most: int,
) -> list[R]:
    """The newest ``most`` rows of ``of_model``, a selection from ``table``, whose scope begins with ``scopes``.

    They come oldest first, by samples trained on, then scope.
    """
    trained, scope = table.c.trained, table.c.scope
    of_scopes = of_model.where(scope.startswith(scopes, autoescape=True))
    newest = of_scopes.order_by(trained.desc(), scope.desc()).limit(most)
    return read_by_scope(connection, database, newest, kind)[::-1]
