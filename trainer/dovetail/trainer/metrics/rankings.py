"""Ranking metrics of predictions as they come: per request, in total, over windows, and by slice."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from dovetail.platform.errors import ConfigError, WireError
from dovetail.trainer.arithmetic import Bool, Float32, Int64, UInt64
from dovetail.trainer.metrics.groups import Groups, Places
from dovetail.trainer.metrics.measures import Metrics
from dovetail.trainer.metrics.progressive import Evaluation
from dovetail.trainer.metrics.requests import RANKED, RankingMetrics, close_requests, discounts_of, ranking_of
from dovetail.trainer.samples.columns import hash_column

__all__ = ["RankingPolicy", "Rankings", "scoped_metrics"]

_NONE = np.iinfo(np.int64).min


@dataclass(frozen=True, slots=True)
class RankingPolicy:
    """Samples are ranked against those that have the same value in the column ``request``.

    :raises ConfigError: ``at`` or ``reach`` is below 1.
    """

    #: The samples' request column; None measures no rankings.
    request: str | None = None
    #: The k of NDCG@k and hit rate@k.
    at: int = 10
    #: A request is measured when, of the rows seen, none of the last ``reach`` … 2·``reach`` is of it; a row of it that
    #: comes later begins another request. Where exactly depends on the number of the row alone.
    reach: int = 4096

    def __post_init__(self) -> None:
        if self.at < 1 or self.reach < 1:
            raise ConfigError(f"ranking metrics need at >= 1 and reach >= 1, got at={self.at}, reach={self.reach}")

    def describe(self) -> dict[str, Any]:
        """The part that a checkpoint is bound to, as JSON-ready values; ``reach`` may change from run to run."""
        return {"request": self.request, "at": self.at}


class _Open(NamedTuple):
    """Rows of requests that may go on: ``scopes`` has a column per window and slice, the others a value per row."""

    keys: UInt64
    numbers: Int64
    predictions: Float32
    positive: Bool
    scopes: Int64

    def kept(self, rows: Bool | slice) -> _Open:
        return _Open._make(column[rows] for column in self)


class Rankings:
    """Accumulates ranking metrics in the scopes of an :class:`Evaluation` and its :class:`Groups`.

    A request counts in the windows, by count and by event time, of its last row; in a slice count its rows of that
    slice, as if there were no others. Rows whose request is NULL are in none. State depends on the rows and their order
    alone, not on how they are cut into tables. At most 2·``reach`` rows, and those of one call, are held.
    """

    def __init__(self, policy: RankingPolicy, evaluation: Evaluation, groups: Groups) -> None:
        self.policy = policy
        self._window = evaluation.window
        self._timed = groups.time is not None
        sizes = [
            evaluation.windows,
            *([groups.windows] if self._timed else []),
            *[groups.values + 1 for _ in groups.slices],
        ]
        self._sizes = np.array(sizes if policy.request else [1], np.int64)
        self._starts = 1 + np.cumsum(self._sizes) - self._sizes
        self._rings = 2 if self._timed else 1
        rows = 1 + int(self._sizes.sum())
        self._discounts = discounts_of(policy.at)
        self._sums = np.zeros((rows, len(RANKED)), np.float64)
        self._ring = np.full(rows, _NONE, np.int64)
        empty = np.empty(0, np.int64)
        nobody = np.empty((0, len(self._sizes)), np.int64)
        self._open = [_Open(empty.view(np.uint64), empty, np.empty(0, np.float32), np.empty(0, np.bool_), nobody)]

    def add(self, table: pa.Table, first: int, predictions: Float32, labels: Float32, places: Places) -> None:
        """Account for the rows of ``table``, the first of which is number ``first``; ``places`` as Groups gave them.

        :raises WireError: the request column is absent or of a type that is no value.
        """
        if self.policy.request is None or not table.num_rows:
            return
        numbers = first + np.arange(table.num_rows, dtype=np.int64)
        scopes = [numbers // self._window, *([places.windows] if places.windows is not None else []), *places.slices]
        keys, valid = _keys(table, self.policy.request)
        rows = _Open(keys, numbers, predictions, labels > 0, np.stack(scopes, axis=1)).kept(valid)
        # Requests are closed at multiples of ``reach``, wherever tables end.
        reach = self.policy.reach
        for due in range((first // reach + 1) * reach, first + table.num_rows + 1, reach):
            end = int(np.searchsorted(rows.numbers, due))
            self._hold(rows.kept(slice(0, end)))
            rows = rows.kept(slice(end, None))
            self._close(due - reach)
        self._hold(rows)

    def settled(self) -> Rankings:
        """These rankings with the requests that may still go on measured as they are; a copy."""
        copied = deepcopy(self)
        copied.settle()
        return copied

    def settle(self) -> None:
        """Measure the requests that may still go on: rows of them that come later begin others."""
        self._close(np.iinfo(np.int64).max)

    def total(self) -> RankingMetrics:
        """Metrics of all requests measured."""
        return self._of([0])

    def recent(self, windows: list[int]) -> RankingMetrics:
        """Metrics of windows by count, by number."""
        return self._of([self._starts[0] + w % self._sizes[0] for w in windows if self._in_ring(0, w)])

    def at_time(self, window: int) -> RankingMetrics:
        """Metrics of a window of event time, by number."""
        return self._of([self._starts[1] + window % self._sizes[1]] if self._in_ring(1, window) else [])

    def in_slice(self, column: int, value: int) -> RankingMetrics:
        """Metrics of a slice, by number of the column and of the value."""
        return self._of([self._starts[self._rings + column] + value])

    def state(self) -> dict[str, npt.NDArray[Any]]:
        """The whole state as copied arrays."""
        held = {f"open_{name}": column.copy() for name, column in self._held()._asdict().items()}
        return {"sums": self._sums.copy(), "ring": self._ring.copy(), **held}

    def restore(self, state: Mapping[str, npt.NDArray[Any]]) -> None:
        """Become the rankings whose :meth:`state` was ``state``; they were made with the same arguments."""
        self._sums[...] = state["sums"]
        self._ring[...] = state["ring"]
        self._open = [_Open._make(state[f"open_{name}"].copy() for name in _Open._fields)]

    def _of(self, rows: list[int]) -> RankingMetrics:
        return ranking_of(self._sums[rows].sum(axis=0), self.policy.at)

    def _in_ring(self, column: int, scope: int) -> bool:
        return bool(self._ring[self._starts[column] + scope % self._sizes[column]] == scope)

    def _hold(self, rows: _Open) -> None:
        if len(rows.keys):
            self._open.append(rows)

    def _held(self) -> _Open:
        if len(self._open) > 1:
            self._open = [_Open._make(np.concatenate(parts) for parts in zip(*self._open, strict=True))]
        return self._open[0]

    def _close(self, before: int) -> None:
        held = self._held()
        kept = close_requests(
            *held, before, self._discounts, self._starts, self._sizes, self._rings, self._ring, self._sums
        )
        self._open = [held.kept(kept)]


def scoped_metrics(evaluation: Evaluation, groups: Groups, rankings: Rankings) -> list[tuple[str, Metrics]]:
    """Scope and metrics, those of rankings included: ``total``, ``recent``, then the groups as they report.

    ``recent`` is of the window by count that is filling up and the one before it.
    """
    if rankings.policy.request is None:
        return [("total", evaluation.total()), ("recent", evaluation.last()), *groups.report()]
    settled = rankings.settled()
    ranked = [("total", evaluation.total(), settled.total())]
    ranked.append(("recent", evaluation.last(), settled.recent(evaluation.last_windows())))
    for (column, place), (scope, metrics) in zip(groups.places(), groups.report(), strict=True):
        of_scope = settled.at_time(place) if column is None else settled.in_slice(column, place)
        ranked.append((scope, metrics, of_scope))
    return [(scope, metrics.with_ranking(of_scope)) for scope, metrics, of_scope in ranked]


def _keys(table: pa.Table, request: str) -> tuple[UInt64, Bool]:
    """A hash of each row's request, and which rows have one."""
    if request not in table.column_names:
        raise WireError(f"the table lacks the request column {request!r} that rankings are measured by; it has "
                        f"{table.column_names}")  # fmt: skip
    column = table.column(request)
    hashes = [hash_column(chunk, column=request, seed=0, null=0) for chunk in column.chunks]
    valid: Bool = column.is_valid().combine_chunks().to_numpy(zero_copy_only=False)
    return np.concatenate(hashes), valid
