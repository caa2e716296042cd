"""The stream engine: states in, rows in, states out; states in, probe times in, values out.

It keeps nothing itself. States are bytes that the online store holds, one per key and *source partition*: a partition
has one writer and one position, so state and position commit together, and a reader adds the partitions up.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from dovetail.features import finish
from dovetail.features.plan import Aggregate, AggregateFunction, StreamView
from dovetail.features.stream import blobs as codec
from dovetail.features.stream.arrange import arrange_rows
from dovetail.features.stream.evaluate import EvaluationPlan, fold_windows
from dovetail.features.stream.kernel import Words
from dovetail.features.stream.layout import TIME_LIMIT_US, Layout
from dovetail.features.stream.prepare import NO_WATERMARK, PreparedRows, from_words
from dovetail.features.stream.update import UpdatePlan, merge_states
from dovetail.platform.errors import StateError

__all__ = ["Applied", "StreamEngine", "Values"]


class Applied(NamedTuple):
    """What became of a batch: the new states, and every row's outcome counted.

    ``applied + expired + unused`` is the number of rows. *Expired* rows are older than any window a request may still
    ask for; *unused* ones have no key, or no input counts them.
    """

    blobs: list[bytes]
    applied: int
    expired: int
    unused: int


class Values(NamedTuple):
    """Feature values in probe order. Where ``answerable`` is False, the exact value is gone and the row is all NULL."""

    table: pa.Table
    answerable: npt.NDArray[np.bool_]


class _Output(NamedTuple):
    """An output column: its function, and the words of the result it is finished from."""

    function: AggregateFunction
    type: pa.DataType
    scale: int  # of the argument
    count_word: int
    folded_word: int


class StreamEngine:
    """Keeps one streaming view, bit for bit what DuckDB answers.

    Guarantee: after any batches of any partitions in any cut, the value at ``(key, T)`` with
    ``T >= watermark - allowed_lateness`` for the watermark of every partition read is the view's window value over all
    rows applied, however late they came.

    Raises:
        ValueError: the view is outside :func:`~dovetail.features.stream.layout.supported`.
    """

    def __init__(self, view: StreamView) -> None:
        self.view = view
        self.layout = Layout(view)
        self._update = UpdatePlan.of(self.layout)
        self._evaluation = EvaluationPlan.of(self.layout)
        self._outputs = [self._output(aggregate) for aggregate in view.aggregates]
        self._windows = np.array([(w.size_us, w.step_us or 0) for w in view.windows], dtype=np.int64).reshape(-1, 2)

    def apply(self, blobs: Sequence[bytes | None], rows: PreparedRows) -> Applied:
        """The states after ``rows``. Nothing is changed in place.

        Args:
            blobs: the state of every distinct key of the batch, in the order that ``rows.codes`` refers to; None or
                ``b""`` for a key without state.
            rows: rows of one partition, in its order, none of them applied before.

        Returns:
            One state per key, ``b""`` where nothing is left to keep, and the outcome counts.

        Raises:
            StateError: a blob is of another definition or version or damaged, or an event time is beyond ±2**61 µs.
        """
        words, starts = codec.decode(self.layout, blobs)
        times = _owned(rows.event_time)
        self._require_times(times, "event")
        ascending = bool((times[1:] >= times[:-1]).all())
        order = np.arange(len(times)) if ascending else np.argsort(times, kind="stable")
        fresh, fresh_starts, watermarks, expired, unused = arrange_rows(
            _owned(rows.codes),
            times,
            _owned(rows.watermark_before),
            _owned(rows.valid.view(np.int64)),
            _owned(rows.values),
            order,
            len(blobs),
            self.layout.lateness_us,
            self._windows,
        )
        fresh.flags.writeable = False  # like words: the kernel compiles once for both
        merged, merged_starts = merge_states(words, starts, fresh, fresh_starts, watermarks, self._update)
        return Applied(codec.encode(merged, merged_starts), int(fresh_starts[-1]), expired, unused)

    def values(
        self,
        blobs: Sequence[bytes | None],
        owners: npt.NDArray[np.int32],
        codes: npt.NDArray[np.int32],
        times: Words,
        watermark: int,
    ) -> Values:
        """The view's aggregates at each probe.

        Args:
            blobs: states, any number per key (one per partition that has seen it), in any order.
            owners: int32 ``[len(blobs)]``, the key each state belongs to.
            codes: int32 ``[p]``, the key of each probe; -1 for none (no events: counts 0, the rest NULL).
            times: int64 ``[p]``, microseconds.
            watermark: the highest watermark of the partitions read; ``NO_WATERMARK`` when none has one.

        Raises:
            StateError: a blob is of another definition or version or damaged, a probe time is beyond ±2**61 µs, or a
                sum has more than 38 digits.
        """
        words, starts = codec.decode(self.layout, blobs)
        times = _owned(times)
        self._require_times(times, "request")
        keys = int(max(codes.max(initial=-1), owners.max(initial=-1))) + 1
        state_starts = np.zeros(keys + 1, dtype=np.int64)
        np.cumsum(np.bincount(owners, minlength=keys), out=state_starts[1:])
        states = np.argsort(owners, kind="stable")
        results = np.empty((self._evaluation.result_words, len(times)), dtype=np.int64)
        answerable = np.ones(len(times), dtype=np.bool_)
        if watermark != NO_WATERMARK:
            answerable = times >= watermark - self.layout.lateness_us
        fold_windows(words, starts, states, state_starts, _owned(codes), times, self._evaluation, results, answerable)
        columns = [_column(output, results, answerable) for output in self._outputs]
        return Values(pa.Table.from_arrays(columns, schema=self.view.output_schema), answerable)

    def _output(self, aggregate: Aggregate) -> _Output:
        count, *others = self.layout.ops_of(aggregate)
        argument = self.view.inputs[aggregate.input].type
        return _Output(
            aggregate.function,
            aggregate.type,
            argument.scale if isinstance(argument, pa.Decimal128Type) else 0,
            self._evaluation.result_word(aggregate.window, count),
            self._evaluation.result_word(aggregate.window, others[0]) if others else -1,
        )

    def _require_times(self, times: Words, what: str) -> None:
        wrong = (times < -TIME_LIMIT_US) | (times > TIME_LIMIT_US)
        if wrong.any():
            row = int(np.argmax(wrong))
            raise StateError(
                f"view {self.view.name}: {what} time of row {row} is {int(times[row])} us, beyond 2**61; "
                f"send the {what} to the dead letters"
            )


def _column(output: _Output, results: Words, answerable: npt.NDArray[np.bool_]) -> pa.Array:
    count, folded = results[output.count_word], results[output.folded_word]
    if output.function == "count":
        return from_words(count, answerable, output.type)
    present = answerable & (count > 0)
    if output.function in ("min", "max"):
        return from_words(folded, present, output.type)
    lo, hi = folded.view(np.uint64), results[output.folded_word + 1]
    if output.function == "sum":
        return finish.decimal_array(lo, hi, present, output.type)
    return finish.avg(lo, hi, np.where(present, count, 0), output.scale)


def _owned(array: npt.NDArray[np.int64] | npt.NDArray[np.int32]) -> Words:
    """As contiguous, writeable int64: kernels compile once per combination of those."""
    return np.require(array, dtype=np.int64, requirements=["C", "W"])
