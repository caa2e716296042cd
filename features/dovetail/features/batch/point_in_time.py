"""A feature set for past requests, in DuckDB from end to end: what served values are compared with, and backfill."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from dovetail.features.batch.streaming import Visibility, evaluate_view
from dovetail.features.batch.views import lookup_as_of, run_batch_view
from dovetail.features.duck.lane import DuckLane, LaneError
from dovetail.features.plan.definitions import (
    BatchView,
    Definitions,
    FeatureColumn,
    FeatureSet,
    StreamView,
    Table,
)
from dovetail.platform.errors import WireError
from dovetail.platform.rows.positions import seen_column

__all__ = ["ColumnEvaluator", "RowAssembly", "evaluate_feature_set"]


def evaluate_feature_set(
    definitions: Definitions,
    features: FeatureSet,
    requests: pa.Table,
    events: Mapping[str, pa.Table],
    load_table: Callable[[Table], pa.Table],
    *,
    visibility: Visibility = "event_time",
) -> pa.Table:
    """Every column of ``features`` for each row of ``requests``, in order.

    Args:
        requests: flat, one row per candidate (``flatten_requests``); for ``as_served`` also ``seen_column(view)`` for
            each streaming view joined.
        events: by stream, with the columns :func:`~.streaming.evaluate_view` asks for.
        load_table: gives an offline table's rows, known or not yet known.

    Raises:
        WireError, StateError, DefinitionError: as the views' evaluation; WireError also when an expression of the
            feature set has no value on a row.
    """
    rows = requests
    for join in features.joins:
        if join.kind == "streaming":
            view = definitions.stream_views[join.view]
            values = evaluate_view(
                view,
                events,
                requests,
                seen_column=seen_column(view.name),
                visibility=visibility,
            ).values
        else:
            values = _batch_values(definitions.batch_views[join.view], requests, load_table)
        for field in values.schema:
            rows = rows.append_column(f"{join.view}.{field.name}", values.column(field.name))
    return ColumnEvaluator(features, features.columns).evaluate(rows)


class ColumnEvaluator:
    """Evaluates some ``columns`` of ``features`` in DuckDB, over rows that have the feature set's inputs they read."""

    def __init__(self, features: FeatureSet, columns: Sequence[FeatureColumn]) -> None:
        self._features = features
        self._lane = DuckLane([(column.resolved, column.type) for column in columns], threads=None)
        self._schema = pa.schema([pa.field(c.name, c.type) for c in columns])

    def evaluate(self, rows: pa.Table) -> pa.Table:
        """The columns for each row, in order.

        Raises:
            WireError: an expression has no value on a row.
        """
        try:
            arrays = self._lane.evaluate(rows)
        except LaneError as error:
            raise WireError(f"{self._features.file}: {self._features.name} has no value: {error}") from error
        return pa.Table.from_arrays(arrays, schema=self._schema)


class RowAssembly:
    """Puts ``columns`` of ``features`` together for request rows, of streaming views' values that are handed in.

    Attributes:
        stream, batch: the views that ``columns`` read, by name.
        needed: the columns they read of each.
    """

    def __init__(
        self,
        features: FeatureSet,
        columns: Sequence[FeatureColumn],
        stream_views: Mapping[str, StreamView],
        batch_views: Mapping[str, BatchView],
        table_of: Callable[[str, int], pa.Table],
    ) -> None:
        """``table_of`` gives a batch view's result as of a version (µs)."""
        self._features, self._columns, self._table_of = features, columns, table_of
        needed: dict[str, list[str]] = {}
        for column in columns:
            for relation, name in column.references:
                needed.setdefault(relation, []).append(name)
        joined = [join.view for join in features.joins if join.view in needed]
        self.stream = {v: stream_views[v] for v in joined if v in stream_views}
        self.batch = {v: batch_views[v] for v in joined if v in batch_views}
        self.needed = {view: list(dict.fromkeys(needed[view])) for view in joined}
        self._lane: ColumnEvaluator | None = None

    def assemble(self, requests: pa.Table, values: Mapping[str, pa.Table]) -> pa.Table:
        """The columns for each of ``requests``; ``values`` has those of each streaming view, in the same order.

        Raises:
            WireError: an expression has no value on a row.
        """
        return self.evaluate(self.inputs(requests, values))

    def inputs(self, requests: pa.Table, values: Mapping[str, pa.Table]) -> pa.Table:
        """``requests``, and beside each row what the columns read of every view, as ``view.column``."""
        joined = requests
        if not requests.num_rows:
            return joined
        for view in self.stream:
            for name in self.needed[view]:
                joined = joined.append_column(f"{view}.{name}", values[view].column(name))
        for name, batch_view in self.batch.items():
            found = lookup_as_of(batch_view, requests, lambda version, name=name: self._table_of(name, version))  # type: ignore[misc]
            for column in self.needed[name]:
                joined = joined.append_column(f"{name}.{column}", found.column(column))
        return joined

    def evaluate(self, inputs: pa.Table) -> pa.Table:
        """The columns for each row of :meth:`inputs`.

        Raises:
            WireError: an expression has no value on a row.
        """
        if not inputs.num_rows:
            return pa.schema([pa.field(c.name, c.type) for c in self._columns]).empty_table()
        if self._lane is None:
            self._lane = ColumnEvaluator(self._features, self._columns)
        return self._lane.evaluate(inputs)

    def evaluate_again(
        self,
        inputs: pa.Table,
        evaluated: pa.Table,
        others: Mapping[str, tuple[pa.Table, npt.NDArray[np.int64]]],
    ) -> pa.Table:
        """``evaluated``, made of ``inputs``, where some rows have other values of streaming views.

        ``others``, by view: values and the rows they belong to, int64 ``[n]``, ascending. Only those rows are
        evaluated; without any, the table given is given back.

        Raises:
            WireError: an expression has no value on a row.
        """
        again = np.unique(np.concatenate([np.empty(0, np.int64), *(rows for _, rows in others.values())]))
        if not len(again):
            return evaluated
        taken = inputs.take(pa.array(again))
        for view, (values, rows) in others.items():
            where = np.searchsorted(again, rows)
            for name in self.needed[view]:
                index = taken.schema.get_field_index(f"{view}.{name}")
                column = pa.table({name: taken.column(index)})
                merged = _replaced(column, where, values.select([name])).column(0)
                taken = taken.set_column(index, taken.field(index), merged)
        return _replaced(evaluated, again, self.evaluate(taken))


def _replaced(table: pa.Table, rows: npt.NDArray[np.int64], by: pa.Table) -> pa.Table:
    """``table`` with the rows of ``by`` in the place of ``rows``."""
    source = np.arange(table.num_rows)
    source[rows] = table.num_rows + np.arange(by.num_rows)
    return pa.concat_tables([table, by]).take(pa.array(source))


def _batch_values(view: BatchView, requests: pa.Table, load_table: Callable[[Table], pa.Table]) -> pa.Table:
    return lookup_as_of(view, requests, lambda version_us: run_batch_view(view, version_us, load_table))
