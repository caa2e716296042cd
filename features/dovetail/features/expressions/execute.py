"""Expressions at run time, and what a streaming view reads of its events.

Expressions of the proven set run as Arrow kernels; the others run in DuckDB, all of them in one call. Where a kernel
cannot vouch for a value, or fails, DuckDB decides too: its answer, value or error, is what the definition means.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from dovetail.features.duck.lane import DuckLane, LaneError
from dovetail.features.duck.parsing import syntax_tree
from dovetail.features.expressions.compile import (
    Compiled,
    NotProven,
    Rows,
    Scope,
    compile_expression,
)
from dovetail.features.plan.definitions import Cleaning, StreamView
from dovetail.platform.errors import WireError

__all__ = ["Expression", "ExpressionSet", "PreparedColumns", "StreamPreparer"]


@dataclass(frozen=True, slots=True)
class Expression:
    """SQL over the columns of one schema, the type DuckDB binds it to, and what to call it in errors."""

    sql: str
    type: pa.DataType
    called: str


class ExpressionSet:
    """Expressions over tables of one schema, evaluated together. Threads may share it."""

    def __init__(self, expressions: Sequence[Expression], schema: pa.Schema) -> None:
        self._expressions = tuple(expressions)
        self._schema = schema
        scope = Scope(schema)
        self._compiled = [self._compile(expression, scope) for expression in self._expressions]
        self._lanes: dict[tuple[int, ...], DuckLane] = {}
        self._lock = threading.Lock()
        stay = self._in_duckdb
        if stay:
            self._lane(stay)

    @property
    def lanes(self) -> tuple[str, ...]:
        """``compiled`` or ``duckdb`` for each expression."""
        return tuple("duckdb" if compiled is None else "compiled" for compiled in self._compiled)

    @property
    def reads(self) -> list[str]:
        """The columns that it is given."""
        return list(self._schema.names)

    @property
    def _in_duckdb(self) -> tuple[int, ...]:
        return tuple(index for index, compiled in enumerate(self._compiled) if compiled is None)

    def evaluate(self, rows: pa.Table) -> list[pa.Array]:
        """One array per expression, in the order given, of the types given.

        Raises:
            WireError: an expression has no value on a row: overflow, integer division by zero, failing cast. The
                message names the expression and the row's index.
        """
        return self.evaluate_columns(_columns(rows, self.reads), rows.num_rows)

    def evaluate_columns(
        self, columns: Mapping[str, pa.Array], rows: int, numbers: Sequence[int] | npt.NDArray[np.int64] | None = None
    ) -> list[pa.Array]:
        """:meth:`evaluate` of at least the schema's columns, ``rows`` long each.

        ``numbers`` are what rows are called in errors, where that is not their index.
        """
        known = Rows(columns)
        results: list[pa.Array | None] = []
        for compiled in self._compiled:
            try:
                results.append(None if compiled is None else compiled.evaluate(known, rows))
            except NotProven:
                results.append(None)
        missing = tuple(index for index, result in enumerate(results) if result is None)
        if missing:
            table = pa.table({name: columns[name] for name in self._schema.names})
            for index, array in zip(missing, self._ask_duckdb(missing, table, numbers), strict=True):
                results[index] = array
        whole = [result for result in results if result is not None]
        for expression, result in zip(self._expressions, whole, strict=True):
            if len(result) != rows:
                raise WireError(f"{expression.called}: {len(result)} values for {rows} rows: it is not row by row")
        return whole

    def _compile(self, expression: Expression, scope: Scope) -> Compiled | None:
        compiled = compile_expression(syntax_tree(expression.sql), scope)
        return compiled if compiled is not None and compiled.type == expression.type else None

    def _lane(self, indices: tuple[int, ...]) -> DuckLane:
        with self._lock:
            if indices not in self._lanes:
                wanted = [self._expressions[index] for index in indices]
                self._lanes[indices] = DuckLane([(e.sql, e.type) for e in wanted])
            return self._lanes[indices]

    def _ask_duckdb(
        self, indices: tuple[int, ...], rows: pa.Table, numbers: Sequence[int] | npt.NDArray[np.int64] | None
    ) -> list[pa.Array]:
        try:
            return self._lane(indices).evaluate(rows)
        except LaneError as error:
            index, row, reason = self._first_failure(indices, rows, str(error))
            row = row if numbers is None else int(numbers[row])
            raise WireError(f"{self._expressions[index].called}: row {row}: {reason}") from error

    def _first_failure(self, indices: tuple[int, ...], rows: pa.Table, reason: str) -> tuple[int, int, str]:
        """The expression that has no value, and its row: the first failing expression, its first failing row."""
        for index in indices:
            found = self._failure((index,), rows)
            if found is None:
                continue
            low, high = 0, rows.num_rows  # rows before low have values; one before high has none
            while high - low > 1:
                middle = (low + high) // 2
                failure = self._failure((index,), rows.slice(low, middle - low))
                low, high, found = (middle, high, found) if failure is None else (low, middle, failure)
            return index, low, found
        return indices[0], 0, reason

    def _failure(self, indices: tuple[int, ...], rows: pa.Table) -> str | None:
        try:
            self._lane(indices).evaluate(rows)
        except LaneError as error:
            return str(error)
        return None


def _columns(rows: pa.Table, names: Sequence[str]) -> dict[str, pa.Array]:
    return {name: rows.column(name).combine_chunks() for name in names}


@dataclass(frozen=True, slots=True)
class PreparedColumns:
    """The columns that a streaming view reads of a batch of events.

    Attributes:
        event_time: int64 ``[n]``, microseconds, of *all* events: the watermark moves by those WHERE removes, too.
        kept: int64 ``[k]``, ascending indices of the events that pass WHERE; all that follows is about those.
        entity: the entity columns, length k each.
        arguments: values of the distinct arguments of ``view.inputs``, in order of first use, length k each.
        filters: booleans of the distinct filters of ``view.inputs``, in order of first use; NULL counts as false.
    """

    event_time: npt.NDArray[np.int64]
    kept: npt.NDArray[np.int64]
    entity: tuple[pa.Array, ...]
    arguments: tuple[pa.Array, ...]
    filters: tuple[pa.Array, ...]


def _passing(where: ExpressionSet, events: pa.Table) -> tuple[npt.NDArray[np.int64], pa.Table]:
    """The indices of the events that pass, ascending, and those events."""
    passed = pc.fill_null(where.evaluate(events)[0], False)
    kept = np.flatnonzero(np.asarray(passed.to_numpy(zero_copy_only=False), dtype=np.bool_))
    return kept, events if len(kept) == events.num_rows else events.take(pa.array(kept))


class _Cleaner:
    """The rows that a SELECT inside FROM makes of events."""

    def __init__(self, cleaning: Cleaning, called: str) -> None:
        self._schema = cleaning.gives
        self._where = None
        if cleaning.where is not None:
            condition = Expression(cleaning.where, pa.bool_(), f"{called}: WHERE {cleaning.where}")
            self._where = ExpressionSet([condition], cleaning.reads)
        columns = [
            Expression(sql, type_, f"{called}: {name}")
            for (name, sql), type_ in zip(cleaning.columns, cleaning.gives.types, strict=True)
        ]
        self._columns = ExpressionSet(columns, cleaning.reads)

    def clean(self, events: pa.Table) -> tuple[npt.NDArray[np.int64], pa.Table]:
        """The indices of the events that pass, and what becomes of them."""
        kept = np.arange(events.num_rows, dtype=np.int64)
        if self._where is not None:
            kept, events = _passing(self._where, events)
        return kept, pa.Table.from_arrays(self._columns.evaluate(events), names=self._schema.names)


class StreamPreparer:
    """Evaluates what a streaming view reads of the events of one of its branches (``view.reads``).

    That is: the branch's cleanings in turn, then the view's WHERE, arguments and filters. Threads may share it.
    """

    def __init__(self, view: StreamView, branch: int = 0) -> None:
        self.view = view
        self._branch = view.reads[branch]
        schema = view.stream.schema.arrow
        where = f"{view.file}:{view.line}: WHERE of {view.name}"
        called = f"{view.file}:{view.line}: {view.name}"
        arguments = {i.argument: i.type for i in view.inputs if i.argument is not None}
        filters = dict.fromkeys(i.filter for i in view.inputs if i.filter is not None)
        self._cleaners = [_Cleaner(cleaning, called) for cleaning in self._branch.cleanings]
        self._where = None if view.where is None else ExpressionSet([Expression(view.where, pa.bool_(), where)], schema)
        self._inputs = ExpressionSet(
            [
                *(Expression(sql, type_, f"{called}: {sql}") for sql, type_ in arguments.items()),
                *(Expression(sql, pa.bool_(), f"{called}: FILTER (WHERE {sql})") for sql in filters),
            ],
            schema,
        )
        self._arguments = len(arguments)

    @property
    def lanes(self) -> tuple[str, ...]:
        """``compiled`` or ``duckdb``: WHERE if there is one, then arguments, then filters."""
        return (*(self._where.lanes if self._where is not None else ()), *self._inputs.lanes)

    def prepare(self, events: pa.Table) -> PreparedColumns:
        """Evaluate ``events``, which have at least the columns of the branch's stream.

        Raises:
            WireError: an expression has no value on an event, which is named by its index in ``events`` for WHERE,
                among the kept ones otherwise.
        """
        times = events.column(self._branch.stream.event_time).combine_chunks().view(pa.int64())
        event_time = np.asarray(times.to_numpy(zero_copy_only=False), dtype=np.int64)
        kept = np.arange(events.num_rows, dtype=np.int64)
        for cleaner in self._cleaners:
            passed, events = cleaner.clean(events)
            kept = kept[passed]
        if self._where is not None:
            passed, events = _passing(self._where, events)
            kept = kept[passed]
        evaluated = self._inputs.evaluate(events)
        entity = tuple(events.column(column).combine_chunks() for column in self.view.entity)
        cut = self._arguments
        return PreparedColumns(event_time, kept, entity, tuple(evaluated[:cut]), tuple(evaluated[cut:]))
