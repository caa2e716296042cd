"""Rows chosen by a condition in SQL, which sees one row at a time and nothing else."""

from __future__ import annotations

import duckdb
import numpy as np
import pyarrow as pa

from dovetail.platform.duck.hermetic import hermetic_connection
from dovetail.platform.errors import ConfigError
from dovetail.platform.rows.encodings.dictionaries import decoded

__all__ = ["Condition"]

_NUMBER = "_row_number"


class Condition:
    """A condition on the columns of a table, as it stands after WHERE."""

    def __init__(self, sql: str, called: str = "--where") -> None:
        """``called`` is how whoever gave ``sql`` calls it."""
        self._called = called
        self._sql = sql
        self._connection = hermetic_connection(threads=1)

    def choose(self, table: pa.Table) -> pa.Table:
        """The rows for which it holds, in their order, as they are; dictionaries have the values of all rows.

        Raises:
            ConfigError: DuckDB refuses it: the columns are not these, or it is no condition.
        """
        numbered = decoded(table).append_column(_NUMBER, pa.array(np.arange(table.num_rows, dtype=np.int64)))
        self._connection.register("rows", numbered)
        try:
            query = f'SELECT "{_NUMBER}" FROM rows WHERE ({self._sql}\n)'
            found = [number for (number,) in self._connection.execute(query).fetchall()]
        except duckdb.Error as error:
            columns = ", ".join(table.column_names)
            raise ConfigError(f"{self._called} {self._sql!r}: {error}; the columns are {columns}") from error
        finally:
            self._connection.unregister("rows")
        return table.take(pa.array(sorted(found), pa.int64()))
