"""The stream engine: states in, rows in, states out; states in, probe times in, values out.

It keeps nothing itself. States are bytes that the online store holds, one per key and *source partition*: a partition
has one writer and one position, so state and position commit together, and a reader adds the partitions up.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import NamedTuple, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from dovetail.features.expressions.execute import Expression, ExpressionSet
from dovetail.features.kernels.words import Words
from dovetail.features.plan.aggregates import decimal_scale
from dovetail.features.plan.definitions import Aggregate, AggregateFunction, StreamView
from dovetail.features.stream import blobs as codec
from dovetail.features.stream.arrange import arrange_rows
from dovetail.features.stream.collections.chunks import ChunkPlace, ReadChunks, seal
from dovetail.features.stream.collections.entries import States, decode_states, encode_states
from dovetail.features.stream.collections.gather import (
    add_entries,
    collected_values,
    horizons,
    member_rows,
)
from dovetail.features.stream.collections.rules import CollectionLayout
from dovetail.features.stream.layout import TIME_LIMIT_US, Layout
from dovetail.features.stream.prepare import NO_WATERMARK, PreparedRows, RowOrigin, prepare_rows
from dovetail.features.stream.results import Parts, finished
from dovetail.features.stream.update import UpdatePlan, merge_states
from dovetail.features.stream.values import EvaluationPlan, distinct_probes, fold_states, probes_by_key
from dovetail.platform.errors import StateError
from dovetail.platform.rows.examples import zero_of

__all__ = ["Applied", "StreamEngine", "Values"]


class Applied(NamedTuple):
    """A batch applied: the new states, and every row's outcome counted.

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
    """A folded aggregate: its function, and the words of the result that are its :class:`Parts`."""

    output: str
    function: AggregateFunction
    type: pa.DataType
    scale: int  # of the argument
    words: tuple[int, ...]


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
        self.collections = CollectionLayout(view, self.layout)
        self._outputs = [self._output(aggregate) for aggregate in self.layout.folded]
        bounds = [(w.size_us, w.step_us or 0, not w.bounded_us) for w in view.windows]
        self._windows = np.array(bounds, dtype=np.int64).reshape(-1, 3)
        called = f"{view.file}:{{}}: {view.name}.{{}}"
        derived = [Expression(d.sql, d.type, called.format(d.line, d.output)) for d in view.derived]
        self._derived = ExpressionSet(derived, view.aggregate_schema) if derived else None

    @cached_property
    def _identities(self) -> Words:
        """Made when the first values are asked for: a kernel says what they are."""
        return self._evaluation.identities

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
        return self._applied(blobs, rows, None)[0]

    def apply_in_chunks(
        self, blobs: Sequence[bytes | None], rows: PreparedRows, read: ReadChunks
    ) -> tuple[Applied, Mapping[ChunkPlace, bytes]]:
        """As :meth:`apply`, with the older entries of long lists in chunks (``collections/chunks.py``).

        ``read`` reads what is stored of chunks. Beside the states of keys it returns the chunks and directories that
        have changed, ``b""`` where one is gone: all of it is to be stored together. :meth:`values` is given the chunks
        of a key as further states of it.
        """
        return self._applied(blobs, rows, read)

    def _applied(
        self, blobs: Sequence[bytes | None], rows: PreparedRows, read: ReadChunks | None
    ) -> tuple[Applied, Mapping[ChunkPlace, bytes]]:
        self._require_times(_owned(rows.event_time), "event")
        if not self.collections.collections:
            return self._fold(blobs, rows), {}
        before = decode_states(self.collections, blobs)
        folded = before.folded
        if self.layout.folded:
            folded = self._fold(before.folded, rows).blobs
        watermarks, mine = before.watermarks.copy(), rows.codes >= 0
        highest = np.maximum(rows.watermark_before, rows.event_time)
        np.maximum.at(watermarks, rows.codes[mine], highest[mine])
        entries = add_entries(self.collections, before, rows, watermarks)
        partition = 0 if rows.source is None else rows.source.partition
        partitions = np.full(len(blobs), partition, dtype=np.int64)
        chunks: Mapping[ChunkPlace, bytes] = {}
        if read is not None and self.collections.chunked:
            floors = watermarks - self.layout.lateness_us
            entries, chunks = seal(self.collections, before, entries, floors, partition, read)
        after = encode_states(self.collections, States(watermarks, partitions, folded, entries), len(blobs))
        expired = mine & (rows.event_time < horizons(self.collections, rows.watermark_before))
        used = mine & ~expired & ((rows.valid != 0) | member_rows(self.collections, rows))
        applied = int(used.sum())
        return Applied(after, applied, int(expired.sum()), len(rows) - applied - int(expired.sum())), chunks

    def warm_apply(self) -> None:
        """Compile what :meth:`apply` runs."""
        self._example()

    def warm_values(self) -> None:
        """Compile what :meth:`values` runs."""
        # A state without entries is enough where there are none, and takes none of the update's kernels.
        blobs = self._example() if self.collections.collections else [b""]
        one = np.zeros(1, dtype=np.int32)
        self.values(blobs, one, one, np.zeros(1, dtype=np.int64), NO_WATERMARK)

    def _example(self) -> list[bytes]:
        """The state after one row of zeros."""
        types = {i.argument: i.type for i in self.view.inputs if i.argument is not None}
        one = np.zeros(1, dtype=np.int64)
        rows = prepare_rows(
            self.layout,
            np.zeros(1, dtype=np.int32),
            one,
            np.full(1, NO_WATERMARK),
            [pa.array([zero_of(types[argument])], types[argument]) for argument in self.layout.arguments],
            [pa.array([True]) for _ in self.layout.filters],
            self.collections,
            RowOrigin(0, one),
        )
        return self.apply([None], rows).blobs

    def _fold(self, blobs: Sequence[bytes | None], rows: PreparedRows) -> Applied:
        """The folded aggregates' states after ``rows``."""
        words, starts = codec.decode(self.layout, blobs)
        times = _owned(rows.event_time)
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
        """The view's aggregates at each probe, evaluated once for all probes of one key at one time.

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
        times, asked = _owned(times), _owned(codes)
        self._require_times(times, "request")
        probes, places = distinct_probes(asked, times)
        if len(probes) == len(times):
            return self._values(blobs, owners, asked, times, watermark)
        once = self._values(blobs, owners, asked[probes], times[probes], watermark)
        spread = pa.array(places)
        columns = [column.chunk(0).take(spread) for column in once.table.columns]
        return Values(pa.Table.from_arrays(columns, schema=once.table.schema), once.answerable[places])

    def _values(
        self,
        blobs: Sequence[bytes | None],
        owners: npt.NDArray[np.int32],
        asked: Words,
        times: Words,
        watermark: int,
    ) -> Values:
        """:meth:`values` of probes that are worth evaluating each."""
        answerable = np.ones(len(times), dtype=np.bool_)
        if watermark != NO_WATERMARK:
            answerable = times >= watermark - self.layout.lateness_us
        columns: dict[str, pa.Array] = {}
        if not self.collections.collections:
            columns = self._folded_values(blobs, owners, asked, times, answerable)
        else:
            states = decode_states(self.collections, blobs)
            self._answerable(states, owners, asked, times, answerable)
            if self.layout.folded:
                columns = self._folded_values(states.folded, owners, asked, times, answerable)
            columns |= collected_values(self.collections, states, owners, asked, times, answerable)
        return Values(self._outputs_of(columns, answerable), answerable)

    def _outputs_of(self, columns: dict[str, pa.Array], answerable: npt.NDArray[np.bool_]) -> pa.Table:
        """The view's outputs: aggregates, and what is derived of them, also NULL where there is no answer."""
        if self._derived is not None:
            values = self._derived.evaluate_columns(columns, len(answerable))
            if not answerable.all():
                kept = pa.array(np.arange(len(answerable)), mask=~answerable)
                values = [value.take(kept) for value in values]
            columns = columns | {d.output: value for d, value in zip(self.view.derived, values, strict=True)}
        schema = self.view.output_schema
        return pa.Table.from_arrays([columns[name] for name in schema.names], schema=schema)

    def _folded_values(
        self,
        blobs: Sequence[bytes | None],
        owners: npt.NDArray[np.int32],
        codes: Words,
        times: Words,
        answerable: npt.NDArray[np.bool_],
    ) -> dict[str, pa.Array]:
        results = np.empty((len(self._identities), len(times)), dtype=np.int64)
        results[:] = self._identities[:, None]
        keys = _owned(owners)
        probes, probe_starts = probes_by_key(codes, keys)
        for first, words, starts in codec.decode_runs(self.layout, blobs):
            fold_states(words, starts, keys, first, probes, probe_starts, times, self._evaluation, results, answerable)
        return {output.output: _column(output, results, answerable) for output in self._outputs}

    def _answerable(
        self,
        states: States,
        owners: npt.NDArray[np.int32],
        codes: Words,
        times: Words,
        answerable: npt.NDArray[np.bool_],
    ) -> None:
        """Clear ``answerable`` where a state has been pruned beyond the probe's time."""
        keys = int(max(codes.max(initial=-1), owners.max(initial=-1))) + 1
        highest = np.full(keys + 1, NO_WATERMARK, dtype=np.int64)
        np.maximum.at(highest, owners.astype(np.int64), states.watermarks)
        mine = highest[codes]  # of code -1: the spare last one
        answerable &= (mine == NO_WATERMARK) | (times >= mine - self.layout.lateness_us)

    def _output(self, aggregate: Aggregate) -> _Output:
        words = [self._evaluation.result_word(aggregate.window, op) for op in self.layout.ops_of(aggregate)]
        scale = decimal_scale(self.view.inputs[aggregate.input].type)
        # What a part that the function does not have stands for does not matter.
        last = self._evaluation.words - 1
        parts = [words[0], *(min(at + i, last) for at in (*words[1:], 0, 0)[:2] for i in (0, 1))]
        return _Output(aggregate.output, aggregate.function, aggregate.type, scale, tuple(parts))

    def _require_times(self, times: Words, what: str) -> None:
        wrong = (times < -TIME_LIMIT_US) | (times > TIME_LIMIT_US)
        if wrong.any():
            row = int(np.argmax(wrong))
            raise StateError(
                f"view {self.view.name}: {what} time of row {row} is {int(times[row])} us, beyond 2**61; "
                f"send the {what} to the dead letters"
            )


def _column(output: _Output, results: Words, answerable: npt.NDArray[np.bool_]) -> pa.Array:
    parts = Parts(*[results[word] for word in output.words])
    return finished(output.function, output.type, output.scale, parts, answerable)


def _owned(array: npt.NDArray[np.int64] | npt.NDArray[np.int32]) -> Words:
    """As contiguous, writeable int64: kernels compile once per combination of those."""
    if array.dtype == np.int64 and array.flags.c_contiguous and array.flags.writeable:
        return cast("Words", array)
    return np.require(array, dtype=np.int64, requirements=["C", "W"])
