"""Batch views: their versions, and looking values up in one."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from dovetail.features.duck.bounded import VIEW_BOUNDS, OutOfBounds, bounded_query, read_within
from dovetail.features.duck.connection import connect
from dovetail.features.duck.growth import query_may_grow
from dovetail.features.language.source import quoted
from dovetail.features.language.ties import names_an_order
from dovetail.features.plan.definitions import BatchView, Table
from dovetail.platform.errors import DefinitionError, WireError

__all__ = ["VersionIndex", "lookup_as_of", "lookup_by_version", "run_batch_view", "versions"]

_ROWS_AT_ONCE = 65_536


def versions(view: BatchView, times_us: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """The version in force at each time: the last multiple of the view's period since 1970, at or before it."""
    return times_us // view.every_us * view.every_us


def run_batch_view(view: BatchView, version_us: int, load_table: Callable[[Table], pa.Table]) -> pa.Table:
    """The view as of ``version_us``: entity and value columns, one row per key, keys with a NULL left out.

    Only rows with ``available_at <= version_us`` exist for it, and it runs in one thread: a version comes out the same
    whenever it is computed from the same tables.

    Raises:
        DefinitionError: two rows have the same key.
        WireError: a table lacks a declared column, DuckDB fails on its values, or it passes ``VIEW_BOUNDS``.
    """
    in_order = names_an_order(view.sql)
    connection = connect(threads=1)
    try:
        for table in view.tables:
            _register(connection, table, load_table(table), version_us, in_order=in_order)
        result = _result(connection, view)
    except (duckdb.Error, OutOfBounds, ValueError) as error:
        reason = str(error).split("\n", 1)[0]
        why = f"takes {reason}" if isinstance(error, OutOfBounds) else f"has no value: {reason}"
        raise WireError(f"{view.file}:{view.line}: {view.name} as of {version_us} us {why}") from error
    finally:
        connection.close()
    entity = [pa.field(c, t) for c, t in zip(view.entity, view.entity_types, strict=True)]
    wanted = pa.schema([*entity, *view.output_schema])
    result = result.select(wanted.names).cast(wanted)
    for column in view.entity:
        result = result.filter(pc.is_valid(result.column(column)))
    _refuse_duplicates(view, result, version_us)
    return result.combine_chunks()


def _result(connection: duckdb.DuckDBPyConnection, view: BatchView) -> pa.Table:
    """What the view gives, within ``VIEW_BOUNDS``: DuckDB bounds the memory of joins, and the size and time are here.

    Raises:
        OutOfBounds: it takes longer, or gives more.
        ValueError: DuckDB's error.
    """
    if query_may_grow(view.sql):
        tables = {t.schema.name: connection.table(quoted(t.schema.name)).to_arrow_table() for t in view.tables}
        return bounded_query(view.sql, tables, VIEW_BOUNDS, apart=True)
    late = threading.Event()

    def stop() -> None:
        late.set()
        connection.interrupt()

    timer = threading.Timer(VIEW_BOUNDS.seconds, stop)
    timer.start()
    try:
        found = read_within(connection.sql(view.sql).to_arrow_reader(_ROWS_AT_ONCE), VIEW_BOUNDS.result_bytes)
    except (duckdb.InterruptException, pa.ArrowException, OSError) as error:
        if late.is_set():
            raise OutOfBounds(f"longer than {VIEW_BOUNDS.seconds:g} s") from error
        raise ValueError(str(error)) from error
    finally:
        timer.cancel()
    if found is None:
        raise OutOfBounds(f"more than the {VIEW_BOUNDS.result_bytes >> 20} MiB that a version may have")
    return found


class VersionIndex:
    """A version's values by key: looking up costs what is asked for, however many keys the version has.

    Threads may share it. ``result`` is a table of :func:`run_batch_view`.
    """

    def __init__(self, view: BatchView, result: pa.Table) -> None:
        self._entity = list(view.entity)
        self._values = result.select(view.output_schema.names)
        # One integer, the usual key, takes 16 bytes a row; anything else a dictionary of Python's values.
        self._whole = len(self._entity) == 1 and pa.types.is_signed_integer(result.schema.field(self._entity[0]).type)
        self._order = np.empty(0, dtype=np.int64)
        self._places: dict[tuple[Any, ...], int] = {}
        if self._whole:
            numbers = _integers(result.column(self._entity[0]))
            self._order = np.argsort(numbers, kind="stable")
            self._sorted = numbers[self._order]
        else:
            self._places = {key: row for row, key in enumerate(self._tuples(result))}

    def lookup(self, keys: pa.Table) -> pa.Table:
        """The value columns for each row of ``keys``, which has the entity columns and may have others.

        NULL where the version does not have the key.
        """
        if self._whole and len(self._order):
            asked = keys.column(self._entity[0])
            numbers = _integers(asked)
            at = np.minimum(np.searchsorted(self._sorted, numbers), len(self._order) - 1)
            known = (self._sorted[at] == numbers) & np.asarray(asked.is_valid().to_numpy(), dtype=np.bool_)
            rows = pa.array(self._order[at], mask=~known)
        else:
            rows = pa.array([self._places.get(key) for key in self._tuples(keys)], pa.int64())
        return self._values.take(rows).combine_chunks()

    def _tuples(self, table: pa.Table) -> Iterator[tuple[Any, ...]]:
        return zip(*(table.column(name).to_pylist() for name in self._entity), strict=True)


def lookup_as_of(
    view: BatchView, requests: pa.Table, table_of: Callable[[int], pa.Table], time_column: str = "request_time"
) -> pa.Table:
    """The view's value columns for each request, from the version in force at its ``time_column``.

    ``table_of`` gives the result of a version (microseconds).
    """
    return lookup_by_version(view, requests, lambda version: VersionIndex(view, table_of(version)), time_column)


def lookup_by_version(
    view: BatchView,
    requests: pa.Table,
    index_of: Callable[[int], VersionIndex],
    time_column: str = "request_time",
) -> pa.Table:
    """:func:`lookup_as_of` for whoever keeps the versions' indices."""
    times = requests.column(time_column).cast(pa.timestamp("us")).cast(pa.int64())
    wanted = versions(view, np.asarray(times.to_numpy(), dtype=np.int64))
    if len(wanted) and (wanted == wanted[0]).all():
        return index_of(int(wanted[0])).lookup(requests)
    parts, order = [view.output_schema.empty_table()], [np.empty(0, dtype=np.int64)]
    for version in np.unique(wanted).tolist():
        mine = np.flatnonzero(wanted == version)
        keys = requests.select(list(view.entity)).take(pa.array(mine))
        parts.append(index_of(version).lookup(keys))
        order.append(mine)
    place = np.argsort(np.concatenate(order))
    return pa.concat_tables(parts).take(pa.array(place)).combine_chunks()


def _integers(values: pa.ChunkedArray) -> npt.NDArray[np.int64]:
    return np.asarray(values.cast(pa.int64()).fill_null(0).to_numpy(), dtype=np.int64)


def _register(
    connection: duckdb.DuckDBPyConnection, table: Table, rows: pa.Table, version_us: int, *, in_order: bool
) -> None:
    """Let the view read ``rows``; ``in_order`` of all their columns, where rows may tie in the order that it names."""
    schema = table.schema.arrow
    missing = [name for name in schema.names if name not in rows.column_names]
    if missing:
        raise WireError(f"table {table.schema.name} has no column {missing[0]!r}, which {table.schema.file} declares")
    raw = f"_rows_of_{table.schema.name}"
    connection.register(raw, rows.select(schema.names).cast(pa.schema([f.with_nullable(True) for f in schema])))
    known = f"SELECT * FROM {quoted(raw)} AS _rows WHERE {quoted(table.available_at)} <= make_timestamp({version_us})"
    made, order = ("TABLE", " ORDER BY ALL") if in_order else ("VIEW", "")
    connection.execute(f"CREATE TEMP {made} {quoted(table.schema.name)} AS {known}{order}")


def _refuse_duplicates(view: BatchView, result: pa.Table, version_us: int) -> None:
    counted = result.group_by(list(view.entity)).aggregate([([], "count_all")])
    doubled = counted.filter(pc.greater(counted.column("count_all"), 1))
    if doubled.num_rows:
        key = ", ".join(f"{column} = {doubled.column(column)[0].as_py()!r}" for column in view.entity)
        raise DefinitionError(
            f"batch view {view.name} as of {version_us} us has {doubled.column('count_all')[0]} rows for {key}",
            file=view.file,
            line=view.line,
            remedy=f"GROUP BY {', '.join(view.entity)}, or keep one with arg_max(x, {{'at': available_at, 'x': x}})",
        )
