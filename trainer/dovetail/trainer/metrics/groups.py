"""Progressive metrics by event time and by the values of declared columns."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from dovetail.platform.compiling import compiled_as_ieee
from dovetail.platform.errors import ConfigError, WireError
from dovetail.trainer.arithmetic import Float32, Float64, Int64
from dovetail.trainer.losses import LOGISTIC, Loss, loss_code
from dovetail.trainer.metrics.by_loss import bins_of, finished, require
from dovetail.trainer.metrics.measures import SUMS, Metrics, account, judge
from dovetail.trainer.metrics.numbers import account_number
from dovetail.trainer.samples.columns import number_column

__all__ = ["NULL", "OTHER", "Groups", "Places"]

#: The slice of a NULL, and of every value beyond the first ``values`` of a column.
NULL, OTHER = "(null)", "(other)"
_NONE = np.iinfo(np.int64).min


class Places(NamedTuple):
    """Where rows were counted: their windows of event time, int64 [n], if there are any, and their value's number in
    each slice column, int64 [n] each.
    """

    windows: Int64 | None = None
    slices: tuple[Int64, ...] = ()


class Groups:
    """Metrics of the newest ``windows`` windows of ``window_us`` of event time, and of slices.

    Event-time windows are aligned to 1970-01-01 UTC. A row older than every window kept counts as :attr:`late` and
    into no window. A column's first ``values`` distinct values, in order of appearance, are slices of their own; all
    others share one. A slice column that is ``optional`` counts as NULL where rows lack it. Sums run example by
    example, so metrics do not depend on how examples are cut into calls.

    :raises ConfigError: a number is below 1, or a column is named twice.
    """

    def __init__(
        self,
        *,
        time: str | None = None,
        window_us: int = 3_600_000_000,
        windows: int = 24,
        slices: Sequence[str] = (),
        values: int = 20,
        loss: Loss = "logistic",
        optional: Collection[str] = (),
    ) -> None:
        if min(window_us, windows, values) < 1 or len(set(slices)) != len(slices):
            raise ConfigError(
                "evaluation groups need window, windows and values of at least 1 and different slice columns, got "
                f"{window_us} µs, {windows}, {values} and {list(slices)}"
            )
        self.time = time
        self.window_us = window_us
        self.windows = windows
        self.slices = tuple(slices)
        self.values = values
        self.optional = frozenset(optional)
        self.loss: Loss = loss
        self._code = loss_code(loss)
        #: Rows older than every window kept.
        self.late = 0
        # Window w lives in row w mod windows.
        self._ring = np.full(windows if time else 0, _NONE, np.int64)
        self._names: list[dict[str, int]] = [{} for _ in slices]
        rows = len(self._ring) + (values + 1) * len(slices)
        self._sums = np.zeros((rows, len(SUMS)), np.float64)
        self._histograms = np.zeros((rows, 2, bins_of(self._code)), np.float64)

    def describe(self) -> dict[str, Any]:
        """As JSON-ready values; part of every checkpoint."""
        of_loss = {} if self.loss == "logistic" else {"loss": self.loss}
        return {
            "time": self.time, "window_us": self.window_us, "windows": self.windows, "slices": list(self.slices),
            "values": self.values, **of_loss,
        }  # fmt: skip

    def anew(self, **changes: Any) -> Groups:
        """The same groups with nothing in them; ``changes`` are arguments that differ."""
        return Groups(**{**self.describe(), "optional": self.optional, **changes})

    def add(self, table: pa.Table, predictions: Float32, labels: Float32, weights: Float32) -> Places:
        """Account for the rows of ``table``, see :meth:`Evaluation.add`; returns where they were counted.

        :raises WireError: the time or a slice column is absent, or a time is NULL.
        :raises ModelError: lengths differ, or a prediction is none of the loss.
        """
        if not self.time and not self.slices:
            return Places()
        require(predictions, labels, weights, self._code)
        for column in self.optional.intersection(self.slices).difference(table.column_names):
            table = table.append_column(column, pa.nulls(table.num_rows, pa.string()))
        absent = sorted({self.time or "", *self.slices} - {"", *table.column_names})
        if absent:
            raise WireError(f"the table lacks the columns {absent} that metrics are grouped by; it has "
                            f"{table.column_names}")  # fmt: skip
        examples = predictions, labels, weights
        windows = None
        if self.time:
            windows = self._windows(table.column(self.time))
            self.late += _accumulate_windows(*examples, windows, self._ring, self._sums, self._histograms, self._code)
        slices = []
        for number, column in enumerate(self.slices):
            values = self._values(table.column(column), number)
            _accumulate(*examples, self._first(number) + values, self._sums, self._histograms, self._code)
            slices.append(values)
        return Places(windows, tuple(slices))

    def report(self) -> list[tuple[str, Metrics]]:
        """Scope and metrics of every group: ``time:2026-11-20T13:00:00Z`` (oldest first), then ``slice:column=value``.

        A window without rows is left out.
        """
        found = []
        for column, place in self.places():
            if column is None:
                moment = datetime.fromtimestamp(place * self.window_us / 1e6, UTC)
                found.append((f"time:{moment:%Y-%m-%dT%H:%M:%SZ}", self._metrics(place % self.windows)))
            else:
                name = OTHER if place == self.values else list(self._names[column])[place]
                found.append((f"slice:{self.slices[column]}={name}", self._metrics(self._first(column) + place)))
        return found

    def places(self) -> list[tuple[int | None, int]]:
        """Where the metrics that :meth:`report` gives are: None and the number of a window, or those of a column and
        of its value.
        """
        newest = int(self._ring.max(initial=_NONE))
        windows = sorted(int(key) for key in self._ring if key > newest - self.windows and key != _NONE)
        found: list[tuple[int | None, int]] = [(None, window) for window in windows]
        for number, names in enumerate(self._names):
            found += [(number, value) for value in names.values()]
            if self._sums[self._first(number) + self.values, 0]:
                found.append((number, self.values))
        return found

    def state(self) -> dict[str, npt.NDArray[Any]]:
        """The whole state as copied arrays."""
        names = json.dumps([list(names) for names in self._names]).encode()
        return {
            "sums": self._sums.copy(),
            "histograms": self._histograms.copy(),
            "ring": self._ring.copy(),
            "late": np.array([self.late], np.int64),
            "names": np.frombuffer(names, np.uint8),
        }

    def restore(self, state: Mapping[str, npt.NDArray[Any]]) -> None:
        """Become the groups whose :meth:`state` was ``state``; they were made with the same arguments."""
        self._sums[...] = state["sums"]
        self._histograms[...] = state["histograms"]
        self._ring[...] = state["ring"]
        self.late = int(state["late"][0])
        stored = json.loads(state["names"].tobytes())
        self._names = [{name: row for row, name in enumerate(names)} for names in stored]

    def _first(self, number: int) -> int:
        return len(self._ring) + number * (self.values + 1)

    def _metrics(self, row: int) -> Metrics:
        return finished(self._sums[row], self._histograms[row], self._code)

    def _windows(self, column: pa.ChunkedArray) -> Int64:
        chunks = [number_column(chunk, column=str(self.time)) for chunk in column.chunks]
        times = np.concatenate([np.empty(0), *chunks])
        if np.isnan(times).any():
            row = int(np.flatnonzero(np.isnan(times))[0])
            raise WireError(
                f"the time column {self.time!r} is NULL at row {row}; metrics by event time need every time"
            )
        return times.astype(np.int64) // self.window_us

    def _values(self, column: pa.ChunkedArray, number: int) -> Int64:
        """The number of each example's value; new values get numbers in order of appearance."""
        names = self._names[number]
        plain = column.cast(column.type.value_type) if pa.types.is_dictionary(column.type) else column
        encoded = plain.combine_chunks().dictionary_encode(null_encoding="encode")
        number_of = np.empty(len(encoded.dictionary), np.int64)
        for code, value in enumerate(encoded.dictionary.to_pylist()):
            name = NULL if value is None else str(value)
            if name not in names and len(names) < self.values:
                names[name] = len(names)
            number_of[code] = names.get(name, self.values)
        values: Int64 = number_of[encoded.indices.to_numpy(zero_copy_only=False)]
        return values


@compiled_as_ieee
def _accumulate(
    predictions: Float32,
    labels: Float32,
    weights: Float32,
    rows: Int64,
    sums: Float64,
    histograms: Float64,
    loss: int,
) -> None:
    bits = predictions.view(np.uint32)
    mirrored = (np.float32(1) - predictions).view(np.uint32)
    for i in range(len(predictions)):
        if loss != LOGISTIC:
            account_number(predictions[i], labels[i], weights[i], loss, sums[rows[i]])
            continue
        judged = judge(predictions[i], bits[i], mirrored[i], labels[i])
        account(predictions[i], labels[i], weights[i], judged, sums[rows[i]], histograms[rows[i]])


@compiled_as_ieee
def _accumulate_windows(
    predictions: Float32,
    labels: Float32,
    weights: Float32,
    keys: Int64,
    ring: Int64,
    sums: Float64,
    histograms: Float64,
    loss: int,
) -> int:
    bits = predictions.view(np.uint32)
    mirrored = (np.float32(1) - predictions).view(np.uint32)
    late = 0
    for i in range(len(predictions)):
        row = keys[i] % len(ring)
        if ring[row] > keys[i]:
            late += 1
            continue
        if ring[row] < keys[i]:
            ring[row] = keys[i]
            sums[row] = 0.0
            histograms[row] = 0.0
        if loss != LOGISTIC:
            account_number(predictions[i], labels[i], weights[i], loss, sums[row])
            continue
        judged = judge(predictions[i], bits[i], mirrored[i], labels[i])
        account(predictions[i], labels[i], weights[i], judged, sums[row], histograms[row])
    return late
