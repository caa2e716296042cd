"""The DuckDB lane: expressions that are not proven elsewhere, evaluated by DuckDB on a micro-batch.

What may make more of a row than the row brings (``growth.py``) is evaluated in a child process, within bounds.
"""

from __future__ import annotations

from collections.abc import Sequence

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from dovetail.features.duck import bounded
from dovetail.features.duck.bounded import OutOfBounds, bounded_query
from dovetail.features.duck.connection import connect, shared_cursor
from dovetail.features.duck.growth import value_may_grow
from dovetail.platform.errors import EngineFailed

__all__ = ["DuckLane", "LaneError"]

_ROWS = "rows_of_the_batch"
#: Rows that are handed to a child process at once.
_AT_ONCE = 65_536


class LaneError(Exception):
    """An expression has no value on some row; ``str()`` says why, mostly in DuckDB's first line. Callers say where."""


class DuckLane:
    """Expressions over one table's columns. Every call has its own cursor, so threads may share.

    A call costs milliseconds whatever the number of rows: put all expressions of a batch into one.
    """

    def __init__(self, expressions: Sequence[tuple[str, pa.DataType]], *, threads: int | None = 1) -> None:
        self._connection = shared_cursor() if threads == 1 else connect(threads=threads)
        self._types = [type_ for _, type_ in expressions]
        growing = [index for index, (sql, _) in enumerate(expressions) if value_may_grow(sql)]
        others = [index for index in range(len(expressions)) if index not in growing]
        self._here = (others, _query([expressions[index][0] for index in others])) if others else None
        # One by one: what passes a limit is to be known by itself.
        self._bounded = [(index, _query([expressions[index][0]])) for index in growing]

    def evaluate(self, rows: pa.Table) -> list[pa.Array]:
        """One array per expression, in the order of ``rows``.

        Raises:
            LaneError: an overflow, a failing cast, a value that the expression's type does not hold, or that takes more
                memory or time than one row may; or what DuckDB gives is not one row for each.
            EngineFailed: DuckDB itself failed; after an internal error its database answers nothing any more.
        """
        found: dict[int, pa.ChunkedArray] = {}
        if self._here is not None:
            indices, query = self._here
            found |= zip(indices, self._evaluate_here(query, rows, len(indices)).columns, strict=True)
        for index, query in self._bounded:
            parts = [
                part
                for start in range(0, max(rows.num_rows, 1), _AT_ONCE)
                for part in _evaluate_bounded(query, rows.slice(start, _AT_ONCE))
            ]
            found[index] = pa.concat_tables(parts).column(0)
        try:
            return [found[i].combine_chunks().cast(type_, safe=True) for i, type_ in enumerate(self._types)]
        except pa.ArrowInvalid as error:
            raise LaneError(str(error).split("\n", 1)[0]) from error

    def _evaluate_here(self, query: str, rows: pa.Table, columns: int) -> pa.Table:
        cursor = self._connection.cursor()
        try:
            cursor.register(_ROWS, rows)
            table = cursor.sql(query).to_arrow_table()
            _check_shape(table, rows.num_rows, columns)
            _check_sizes(table)
        except (duckdb.FatalException, duckdb.InternalException, duckdb.OutOfMemoryException) as error:
            raise EngineFailed(f"DuckDB cannot evaluate a batch: {str(error).split(chr(10), 1)[0]}") from error
        except (duckdb.Error, pa.ArrowInvalid) as error:
            raise LaneError(str(error).split("\n", 1)[0]) from error
        finally:
            cursor.close()
        return table


def _query(expressions: Sequence[str]) -> str:
    listed = ", ".join(f"({sql}\n) AS c{index}" for index, sql in enumerate(expressions))
    # Columns of a batch begin with no underscore: the alias cannot be one that has members.
    return f"SELECT {listed} FROM {_ROWS} AS _rows"


def _evaluate_bounded(query: str, rows: pa.Table) -> list[pa.Table]:
    """The values of one expression; what takes too much at once is halved, until it is one row that does."""
    try:
        table = bounded_query(query, {_ROWS: rows})
    except OutOfBounds as error:
        if rows.num_rows <= 1:
            raise LaneError(f"it takes {error}") from error
        middle = rows.num_rows // 2
        return [*_evaluate_bounded(query, rows.slice(0, middle)), *_evaluate_bounded(query, rows.slice(middle))]
    except ValueError as error:
        raise LaneError(str(error).split("\n", 1)[0]) from error
    _check_shape(table, rows.num_rows, 1)
    return [table]


def _check_shape(table: pa.Table, rows: int, columns: int) -> None:
    if table.num_rows != rows or table.num_columns != columns:
        raise LaneError(
            f"{table.num_rows} rows of {table.num_columns} expressions for {rows} rows of {columns}: an expression is "
            "not row by row"
        )


def _check_sizes(table: pa.Table) -> None:
    """Refuse values that are too large: what is made of them again, SELECT by SELECT, could double each time."""
    if table.nbytes <= bounded.BOUNDS.result_bytes:
        return
    for column in table.columns:
        largest = max((_largest(chunk) for chunk in column.chunks), default=0)
        if largest > bounded.BOUNDS.result_bytes:
            raise LaneError(
                f"it takes {largest} bytes, more than the {bounded.BOUNDS.result_bytes >> 20} MiB that a value may have"
            )


def _largest(values: pa.Array) -> int:
    """About how many bytes the largest value of a column has."""
    type_ = values.type
    if pa.types.is_list(type_) or pa.types.is_large_list(type_) or pa.types.is_map(type_):
        longest = pc.max(pc.list_value_length(values)).as_py() or 0
        return max(8 * longest, values.nbytes if longest and len(values) == 1 else _largest(pc.list_flatten(values)))
    if pa.types.is_struct(type_):
        return sum(_largest(member) for member in values.flatten())
    if pa.types.is_string(type_) or pa.types.is_large_string(type_) or pa.types.is_binary(type_):
        return pc.max(pc.binary_length(values)).as_py() or 0
    return 16
