"""Many rows into a table in one statement.

SQLite takes them fastest one by one inside the transaction, without a round trip. PostgreSQL takes each column as an
array, in binary, and unnests them: one statement, parsed once, however many rows there are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from dovetail.platform.stores.sql.database import Database
from dovetail.platform.stores.sql.prepared import Prepared

__all__ = ["Upsert", "columns_of", "rows_as_arrays"]


class Upsert:
    """INSERT of rows with every column of ``table``; what becomes of those whose primary key is there is said once.

    ``update``: columns and what they become, as expressions over the table's and ``excluded``'s columns; empty leaves
    the row alone. ``where``: of those, only rows for which this holds.
    """

    def __init__(self, database: Database, table: sa.Table) -> None:
        self._postgresql = database.postgresql
        self._table = table
        self._insert = database.insert(table)
        if database.postgresql:
            arrays = rows_as_arrays(table.columns)
            self._insert = self._insert.from_select(table.columns.keys(), sa.select(*arrays.columns))
        self.excluded = self._insert.excluded
        self._statement = Prepared(self._insert.on_conflict_do_nothing())

    def replacing(self, update: Mapping[str, Any], where: Any = None) -> Upsert:
        """This, with rows that are there updated."""
        keys = list(self._table.primary_key.columns)
        statement = self._insert.on_conflict_do_update(index_elements=keys, set_=dict(update), where=where)
        self._statement = Prepared(statement)
        return self

    def execute(self, connection: sa.Connection, columns: Mapping[str, Sequence[Any]]) -> int:
        """Put the rows, no key twice; returns how many were written."""
        if not next(iter(columns.values())):
            return 0
        if self._postgresql:
            arrays = {name: list(values) for name, values in columns.items()}
            return self._statement.run(connection, arrays)
        return self._statement.run_columns(connection, columns)


def rows_as_arrays(columns: Any, prefix: str = "") -> Any:
    """PostgreSQL: a FROM item whose columns are arrays, bound by ``prefix`` and their names."""
    from sqlalchemy.dialects.postgresql import ARRAY

    arrays = [sa.bindparam(prefix + column.name, type_=ARRAY(column.type)) for column in columns]
    valued = [sa.column(prefix + column.name, column.type) for column in columns]
    return sa.func.unnest(*arrays).table_valued(*valued, name="given").render_derived()


def columns_of(rows: Sequence[Any]) -> dict[str, list[Any]]:
    """Named tuples of one type as columns."""
    names = type(rows[0])._fields
    return {name: list(values) for name, values in zip(names, zip(*rows, strict=True), strict=True)}
