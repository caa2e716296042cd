"""The DuckDB lane: expressions that are not proven elsewhere, evaluated by DuckDB on a micro-batch."""

from __future__ import annotations

from collections.abc import Sequence

import duckdb
import pyarrow as pa

from dovetail.features.duck.connection import connect, shared_cursor
from dovetail.platform.errors import EngineFailed

__all__ = ["DuckLane", "LaneError"]

_ROWS = "rows_of_the_batch"


class LaneError(Exception):
    """An expression has no value on some row; ``str()`` says why, mostly in DuckDB's first line. Callers say where."""


class DuckLane:
    """Expressions over one table's columns. Every call has its own cursor, so threads may share.

    A call costs milliseconds whatever the number of rows: put all expressions of a batch into one.
    """

    def __init__(self, expressions: Sequence[tuple[str, pa.DataType]], *, threads: int | None = 1) -> None:
        self._connection = shared_cursor() if threads == 1 else connect(threads=threads)
        self._types = [type_ for _, type_ in expressions]
        listed = ", ".join(f"({sql}\n) AS c{index}" for index, (sql, _) in enumerate(expressions))
        # Columns of a batch begin with no underscore: the alias cannot be one that has members.
        self._query = f"SELECT {listed} FROM {_ROWS} AS _rows"

    def evaluate(self, rows: pa.Table) -> list[pa.Array]:
        """One array per expression, in the order of ``rows``.

        Raises:
            LaneError: an overflow, a failing cast, a value that the expression's type does not hold; or what DuckDB
                gives is not one row for each.
            EngineFailed: DuckDB itself failed; after an internal error its database answers nothing any more.
        """
        cursor = self._connection.cursor()
        try:
            cursor.register(_ROWS, rows)
            table = cursor.sql(self._query).to_arrow_table()
            if table.num_rows != rows.num_rows or table.num_columns != len(self._types):
                raise LaneError(
                    f"{table.num_rows} rows of {table.num_columns} expressions for {rows.num_rows} rows of "
                    f"{len(self._types)}: an expression is not row by row"
                )
            return [table.column(i).combine_chunks().cast(type_, safe=True) for i, type_ in enumerate(self._types)]
        except (duckdb.FatalException, duckdb.InternalException, duckdb.OutOfMemoryException) as error:
            raise EngineFailed(f"DuckDB cannot evaluate a batch: {str(error).split(chr(10), 1)[0]}") from error
        except (duckdb.Error, pa.ArrowInvalid) as error:
            raise LaneError(str(error).split("\n", 1)[0]) from error
        finally:
            cursor.close()
