"""The features of a snapshot made whole: its own, and batch features looked up again as of its request."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pyarrow as pa

from dovetail.features.batch.views import VersionIndex, lookup_by_version
from dovetail.features.expressions.feature_rows import FeatureSetEvaluator
from dovetail.features.plan.definitions import BatchView, FeatureColumn, FeatureSet
from dovetail.platform.rows.encodings.shared import SHARED_BACK, shared_name

__all__ = ["CompletedFeatures", "columns_of", "completed_from"]

#: Indices of versions that are in memory at once, of all views.
_INDICES_IN_MEMORY = 16

#: The columns of a batch view, by its name, for candidate rows as of their request time.
Lookup = Callable[[str, pa.Table], pa.Table]


class CompletedFeatures:
    """Completes the snapshots of one feature set."""

    def __init__(self, feature_set: FeatureSet, lookup: Lookup) -> None:
        self._feature_set, self._lookup = feature_set, lookup
        self._evaluator = FeatureSetEvaluator(feature_set)

    def complete(self, candidates: pa.Table, snapshot: pa.Table) -> pa.Table:
        """The snapshot's own features and, looked up now as of each row's request time, the batch features.

        ``candidates`` are the flattened request rows of ``snapshot``, in the same order. Columns are in the feature
        set's order. A snapshot taken by an earlier feature set has NULL in the columns that it was not served with.
        What the rows of ``snapshot`` share is shared in the same way (``rows/encodings/shared.py``).
        """
        columns = columns_of(candidates) | self._batch_columns(candidates)
        batch = self._evaluator.evaluate_columns(columns, candidates.num_rows, origins=("batch",))
        found: dict[str, pa.Array | pa.ChunkedArray] = {}
        held = dict(zip(snapshot.column_names, snapshot.columns, strict=True))
        for column in self._feature_set.columns:
            if column.origin == "batch":
                found[column.name] = batch.column(column.name)
            else:
                found |= _served(held, column, snapshot.num_rows)
        if SHARED_BACK in held:
            found[SHARED_BACK] = held[SHARED_BACK]
        return pa.table(found)

    def _batch_columns(self, candidates: pa.Table) -> dict[str, pa.Array]:
        columns: dict[str, pa.Array] = {}
        for join in self._feature_set.joins:
            if join.kind == "batch":
                columns |= columns_of(self._lookup(join.view, candidates), f"{join.view}.")
        return columns


def completed_from(
    feature_set: FeatureSet, views: Mapping[str, BatchView], table_of: Callable[[str, int], pa.Table]
) -> CompletedFeatures:
    """Completes snapshots by the contents of batch views' versions, in a process that need have no registry."""
    indices: dict[tuple[str, int], VersionIndex] = {}

    def index_of(view: str, version_us: int) -> VersionIndex:
        key = view, version_us
        if key not in indices:
            indices[key] = VersionIndex(views[view], table_of(view, version_us))
            while len(indices) > _INDICES_IN_MEMORY:
                indices.pop(next(iter(indices)))
        return indices[key]

    def lookup(view: str, candidates: pa.Table) -> pa.Table:
        return lookup_by_version(views[view], candidates, lambda version: index_of(view, version))

    return CompletedFeatures(feature_set, lookup)


def columns_of(table: pa.Table, prefix: str = "") -> dict[str, pa.Array]:
    """The columns of ``table`` by ``prefix`` and name, in one piece each."""
    return {
        prefix + name: column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
        for name, column in zip(table.column_names, table.columns, strict=True)
    }


def _served(
    held: Mapping[str, pa.ChunkedArray], column: FeatureColumn, rows: int
) -> dict[str, pa.Array | pa.ChunkedArray]:
    """The columns ``held`` by snapshots with the values of ``column``: those of each row, those that rows share."""
    names = (column.name, shared_name(column.name))
    found = {name: held[name] for name in names if name in held and held[name].type == column.type}
    return found or {column.name: pa.nulls(rows, column.type)}
