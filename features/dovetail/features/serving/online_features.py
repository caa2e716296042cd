"""Features at request time: states from the online store, the rest from the request and from batch versions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from dovetail.features.expressions.feature_rows import FeatureSetEvaluator, RequestValues
from dovetail.features.plan.definitions import FeatureSet, JoinedView, StreamView
from dovetail.features.plan.request import CANDIDATE, request_starts
from dovetail.features.serving.completing import CompletedFeatures, columns_of
from dovetail.features.serving.stored_states import read_states
from dovetail.features.serving.versions import BatchVersions
from dovetail.features.stream.engine import StreamEngine
from dovetail.features.stream.keys import encode_keys
from dovetail.features.stream.prepare import NO_WATERMARK
from dovetail.platform.rows.encodings.dictionaries import decoded
from dovetail.platform.rows.intake import time_us
from dovetail.platform.rows.positions import Progress
from dovetail.platform.stores.online import OnlineStore

__all__ = ["OnlineFeatures", "ServedFeatures"]

#: What is computed when the request is answered, and kept in its snapshot.
_SNAPSHOT_ORIGINS = ("key", "request", "streaming")


@dataclass(frozen=True)
class ServedFeatures:
    """Features of candidate rows, in the order asked.

    ``encoded`` has every column of the feature set. Lists, maps and structs that all candidates of a request share are
    there a dictionary with a value for every request; ``features`` has the same values row by row.
    ``snapshot_columns`` names those that are kept as served (all but batch features). ``seen`` is, by streaming view,
    the next offset of each source partition, dense from partition 0. ``answerable`` bool [n] is False where a request
    is older than the state can answer exactly.
    """

    encoded: pa.Table
    snapshot_columns: Sequence[str]
    seen: Mapping[str, Sequence[int]]
    answerable: npt.NDArray[np.bool_]

    @cached_property
    def features(self) -> pa.Table:
        """Every column of the feature set, of its type."""
        return decoded(self.encoded)


class OnlineFeatures:
    """Evaluates one feature set for live requests, and its batch part again for samples. Thread-safe."""

    def __init__(
        self,
        feature_set: FeatureSet,
        stream_views: Mapping[str, StreamView],
        store: OnlineStore,
        versions: BatchVersions,
    ) -> None:
        self._feature_set = feature_set
        self._evaluator = FeatureSetEvaluator(feature_set)
        self._joins: Sequence[JoinedView] = feature_set.joins
        self._streaming = [join for join in feature_set.joins if join.kind == "streaming"]
        self._engines = {join.view: StreamEngine(stream_views[join.view]) for join in self._streaming}
        self._store = store
        self._versions = versions
        self._completed = CompletedFeatures(feature_set, versions.lookup)
        self.snapshot_columns = tuple(column.name for column in feature_set.columns_of(*_SNAPSHOT_ORIGINS))

    def warm(self) -> None:
        """Compile what :meth:`serve` runs for streaming views."""
        for engine in self._engines.values():
            engine.warm_values()

    def serve(self, candidates: pa.Table) -> ServedFeatures:
        """All features of flattened request rows, each row as of its own ``request_time``.

        The rows of a request are all its candidates, in order. A view whose key is the request's is evaluated once for
        each request, any view once for each of its keys and times.
        """
        starts = request_starts(candidates)
        requests = candidates
        if CANDIDATE in candidates.column_names:
            requests = candidates.select(self._request_columns(candidates)).take(pa.array(starts))
        rows_of = {join.view: requests if self._feature_set.is_shared(join) else candidates for join in self._joins}
        keys = self._keys(rows_of)
        states = read_states(self._store, self._engines, {view: distinct for view, (distinct, _) in keys.items()})
        found: dict[str, dict[str, pa.Array]] = {}
        answerable = np.ones(candidates.num_rows, dtype=np.bool_)
        of_row = np.repeat(np.arange(len(starts)), np.diff(np.append(starts, candidates.num_rows)))
        for view, engine in self._engines.items():
            state = states[view]
            watermarks = [p.watermark_us for p in state.progress.values() if p.watermark_us is not None]
            values = engine.values(
                state.blobs,
                state.key_index,
                keys[view][1],
                time_us(rows_of[view], "request_time"),
                max(watermarks, default=NO_WATERMARK),
            )
            answerable &= values.answerable if rows_of[view] is candidates else values.answerable[of_row]
            found[view] = columns_of(values.table, f"{view}.")
        for join in self._joins:
            if join.kind == "batch":
                found[join.view] = columns_of(self._versions.lookup(join.view, rows_of[join.view]), f"{join.view}.")
        seen = {view: _dense(states[view].progress) for view in self._engines}
        features = self._evaluate(candidates, requests, starts, found)
        return ServedFeatures(features, self.snapshot_columns, seen, answerable)

    def _evaluate(
        self,
        candidates: pa.Table,
        requests: pa.Table,
        starts: npt.NDArray[np.int64],
        found: Mapping[str, Mapping[str, pa.Array]],
    ) -> pa.Table:
        """The feature set's columns, of the rows of requests and candidates, and what was ``found`` of each view."""
        if requests is candidates:
            columns = columns_of(candidates)
            for mine in found.values():
                columns |= mine
            return self._evaluator.evaluate_columns(columns, candidates.num_rows)
        shared = columns_of(requests)
        own = {name: column for name, column in columns_of(candidates).items() if name not in shared}
        for join in self._joins:
            (shared if self._feature_set.is_shared(join) else own).update(found[join.view])
        return self._evaluator.evaluate_shared(RequestValues(starts, shared), own, candidates.num_rows)

    def _keys(self, rows_of: Mapping[str, pa.Table]) -> dict[str, tuple[list[bytes], npt.NDArray[np.int32]]]:
        """The distinct keys of every streaming view, and which of them each row has."""
        of_entity: dict[tuple[str, ...], tuple[list[bytes], npt.NDArray[np.int32]]] = {}
        for join in self._streaming:
            if join.entity not in of_entity:
                of_entity[join.entity] = encode_keys([rows_of[join.view].column(column) for column in join.entity])
        return {join.view: of_entity[join.entity] for join in self._streaming}

    def _request_columns(self, candidates: pa.Table) -> list[str]:
        declared = self._feature_set.request_columns
        return [name for name in candidates.column_names if name in declared]

    def complete(self, candidates: pa.Table, snapshot: pa.Table) -> pa.Table:
        """As :meth:`~dovetail.features.serving.completing.CompletedFeatures.complete`."""
        return self._completed.complete(candidates, snapshot)


def _dense(progress: Mapping[int, Progress]) -> list[int]:
    partitions = max(progress, default=-1) + 1
    return [progress[partition].next_offset if partition in progress else 0 for partition in range(partitions)]
