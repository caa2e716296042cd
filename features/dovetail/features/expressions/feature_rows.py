"""A feature set's columns at run time: of each candidate, or of each request what all its candidates share."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from dovetail.features.expressions.execute import Expression, ExpressionSet
from dovetail.features.plan.definitions import REQUEST, FeatureColumn, FeatureSet

__all__ = ["FeatureSetEvaluator", "RequestValues"]

_ALL = ("key", "request", "streaming", "batch")


class RequestValues(NamedTuple):
    """The values that requests have once for all their candidates.

    ``starts``: int64 ``[r]``, ascending, the row at which each request's candidates begin. ``columns``: values by name,
    ``r`` long each.
    """

    starts: npt.NDArray[np.int64]
    columns: Mapping[str, pa.Array]


class _Level(NamedTuple):
    """The columns of a feature set that are evaluated together: their places in it, and their expressions."""

    places: tuple[int, ...]
    expressions: ExpressionSet


class FeatureSetEvaluator:
    """Evaluates a feature set's expressions over request rows joined with the views' values."""

    def __init__(self, features: FeatureSet) -> None:
        self.features = features
        self._sets: dict[tuple[str, ...], tuple[ExpressionSet, pa.Schema]] = {}
        self._levels: tuple[_Level, _Level] | None = None

    def evaluate(self, rows: pa.Table, origins: Sequence[str] = _ALL) -> pa.Table:
        """The columns with one of ``origins``, in the order written.

        Args:
            rows: one row per candidate with the columns of ``features.inputs`` that these expressions read: request
                columns, and each joined view's values as ``<view>.<column>``. Others are ignored.

        Raises:
            WireError: an expression has no value on a row, which is named.
        """
        expressions, _ = self._expressions(tuple(origins))
        columns = {name: rows.column(name).combine_chunks() for name in expressions.reads}
        return self.evaluate_columns(columns, rows.num_rows, origins)

    def evaluate_columns(self, columns: Mapping[str, pa.Array], rows: int, origins: Sequence[str] = _ALL) -> pa.Table:
        """:meth:`evaluate` of columns by name, ``rows`` long each."""
        expressions, schema = self._expressions(tuple(origins))
        return pa.Table.from_arrays(expressions.evaluate_columns(columns, rows), schema=schema)

    def evaluate_shared(self, requests: RequestValues, candidates: Mapping[str, pa.Array], rows: int) -> pa.Table:
        """All columns, where ``requests`` have some inputs and ``candidates``, ``rows`` of them, have the others.

        The values are those of :meth:`evaluate`. What reads nothing of a candidate is evaluated once for its request.
        Such a column of lists, maps or structs is a dictionary with a value for every request, by int32 indices.

        Raises:
            WireError: an expression has no value on a row, which is named: of a request, its first.
        """
        if self._levels is None:
            self._levels = self._two_levels()
        once, each = self._levels
        counts = np.diff(np.append(requests.starts, rows))
        of_row = pa.array(np.repeat(np.arange(len(counts), dtype=np.int32), counts))
        made: dict[int, pa.Array] = {}
        values = once.expressions.evaluate_columns(requests.columns, len(counts), requests.starts)
        made |= {place: _spread(value, of_row) for place, value in zip(once.places, values, strict=True)}
        read = {
            name: candidates[name] if name in candidates else _spread(requests.columns[name], of_row)
            for name in each.expressions.reads
        }
        made |= dict(zip(each.places, each.expressions.evaluate_columns(read, rows), strict=True))
        names = [column.name for column in self.features.columns]
        return pa.Table.from_arrays([made[place] for place in range(len(names))], names=names)

    def _expressions(self, origins: tuple[str, ...]) -> tuple[ExpressionSet, pa.Schema]:
        if origins not in self._sets:
            wanted = self.features.columns_of(*origins)
            results = pa.schema([pa.field(c.name, c.type) for c in wanted])
            self._sets[origins] = self._set_of(wanted), results
        return self._sets[origins]

    def _set_of(self, wanted: Collection[FeatureColumn]) -> ExpressionSet:
        read = {_input(owner, name) for column in wanted for owner, name in column.references}
        schema = pa.schema([field for field in self.features.inputs if field.name in read])
        return ExpressionSet(
            [Expression(c.resolved, c.type, f"{self.features.file}:{c.line}: {c.name}") for c in wanted], schema
        )

    def _two_levels(self) -> tuple[_Level, _Level]:
        """What is evaluated of each request, and what of each candidate.

        A call of DuckDB costs more than it saves to evaluate a few numbers once: where it is called for candidates, it
        evaluates what requests have then, too, unless that reads lists, maps or structs.
        """
        shared = set(self.features.shared_columns())
        busy = any(column.lane == "duckdb" and column not in shared for column in self.features.columns)
        once = {c for c in shared if c.lane == "compiled" or not busy or self._reads_nested(c)}
        levels = []
        for own in (True, False):
            places = tuple(i for i, column in enumerate(self.features.columns) if (column in once) == own)
            levels.append(_Level(places, self._set_of([self.features.columns[i] for i in places])))
        return levels[0], levels[1]

    def _reads_nested(self, column: FeatureColumn) -> bool:
        fields = (self.features.inputs.field(_input(owner, name)) for owner, name in column.references)
        return any(pa.types.is_nested(field.type) for field in fields)


def _input(owner: str, name: str) -> str:
    return name if owner == REQUEST else f"{owner}.{name}"


def _spread(values: pa.Array, of_row: pa.Array) -> pa.Array:
    """The value of its request for every candidate; a list, map or struct is not copied for each."""
    if pa.types.is_nested(values.type):
        return pa.DictionaryArray.from_arrays(of_row, values)
    return values.take(of_row)
