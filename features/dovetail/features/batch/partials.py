"""Aggregates in DuckDB: the exact parts that make up each, and the finishers that turn them into values.

The SQL is what the definition says, with two additions that leave its meaning: order-sensitive aggregates are told the
total order, and ``avg`` and deviations are taken apart into the exact integers that the shared finishers put together.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from dovetail.features.kernels import finish
from dovetail.features.kernels.ordered import to_words
from dovetail.features.kernels.shapes import shaped
from dovetail.features.kernels.words import canonical_floats, decimal_words, validity_buffer
from dovetail.features.language.source import quoted
from dovetail.features.plan.aggregates import BY_KEY, DEVIATIONS, MOMENTS, ORDERED, SHAPES, decimal_scale
from dovetail.features.plan.definitions import Aggregate, AggregateFunction, StreamView, Window

__all__ = [
    "finished",
    "frame_sql",
    "input_sql",
    "lower_bound_sql",
    "needs_positions",
    "parts_sql",
    "row_windows",
    "upper_bound_sql",
]


def needs_positions(view: StreamView) -> bool:
    """Whether ties of event time must be decided: events then need their position columns."""
    return any(a.function in ORDERED or view.windows[a.window].rows is not None for a in view.aggregates)


def row_windows(view: StreamView) -> list[int]:
    """The indices of the windows that count rows and that an aggregate reads."""
    read = {aggregate.window for aggregate in view.aggregates}
    return [index for index, window in enumerate(view.windows) if window.rows is not None and index in read]


def input_sql(view: StreamView, aggregate: Aggregate) -> tuple[str, str, str]:
    """Argument, what it is ordered by or adds up, and filter of an aggregate, over the stream's columns."""
    input_ = view.inputs[aggregate.input]
    by = "NULL" if aggregate.by is None else view.inputs[aggregate.by].argument
    return input_.argument or "*", by or "NULL", input_.filter or "true"


def frame_sql(view: StreamView, window: Window) -> str:
    """``OVER``'s content for a window that a duration or nothing bounds."""
    time = quoted(view.stream.event_time)
    size = f"to_microseconds({window.size_us})"
    if window.unbounded:
        bound = "UNBOUNDED"
    elif window.step_us is None:
        bound = size
    else:
        bound = f"hop({time}, {size}, to_microseconds({window.step_us}))"
    keys = ", ".join(quoted(column) for column in view.entity)
    end = f"to_microseconds({window.end_us}) PRECEDING" if window.end_us else "CURRENT ROW"
    return f"(PARTITION BY {keys} ORDER BY {time} RANGE BETWEEN {bound} PRECEDING AND {end})"


def lower_bound_sql(window: Window, time: str) -> str:
    """The first event time in the window at ``time``, as SQL."""
    if not window.bounded_us:
        return "CAST('-infinity' AS TIMESTAMP)"
    size = f"to_microseconds({window.size_us})"
    if window.step_us is None:
        return f"{time} - {size}"
    return f"time_bucket(to_microseconds({window.step_us}), {time} - {size})"


def upper_bound_sql(window: Window, time: str) -> str:
    """The last event time in the window at ``time``, as SQL."""
    return f"{time} - to_microseconds({window.end_us})" if window.end_us else time


def parts_sql(view: StreamView, index: int, argument: str, by: str, over: str, position: str) -> str:
    """The exact parts of one aggregate, ``… AS v<index>`` and, where they finish it, ``n<index>``, ``q<index>``.

    Args:
        argument, by: SQL of its input and of the input it is ordered by or adds up.
        over: the FILTER, and for a window the OVER clause.
        position: SQL of the total order, most significant first.
    """
    aggregate = view.aggregates[index]
    function, k = aggregate.function, aggregate.k
    v, n, q = f"AS v{index}", f"AS n{index}", f"AS q{index}"
    if function == "avg":
        return f"sum({argument}\n) {over} {v}, count({argument}\n) {over} {n}"
    if function in DEVIATIONS:
        # DuckDB multiplies DECIMALs of up to 18 digits in 64 bits; squares of up to 14 digits have 28.
        type_ = view.inputs[aggregate.input].type
        wide = f"DECIMAL(38,{type_.scale})" if isinstance(type_, pa.Decimal128Type) else "BIGINT"
        square = f"CAST(({argument}\n) AS {wide}) * ({argument}\n)"
        return f"sum({argument}\n) {over} {v}, count({argument}\n) {over} {n}, sum({square}) {over} {q}"
    if function in ("first", "last", "arg_min", "arg_max"):
        chosen = "arg_min" if function in ("first", "arg_min") else "arg_max"
        chosen += "_null" if aggregate.nulls else ""
        # Adding 0 makes one zero of -0.0 and 0.0, which sort apart inside a row.
        order = position if aggregate.by is None else f"{_one_zero(view, aggregate, by)}, {position}"
        listed = "" if k is None else f", {k}"
        # A row without an order would be ordered by its position alone.
        known = over if aggregate.by is None else over.replace("WHERE ", f"WHERE ({by}\n) IS NOT NULL AND ", 1)
        return f"{chosen}({argument}\n, row({order}){listed}) {known} {v}"
    if function in ("nth_oldest", "nth_newest", "newest"):
        chosen = "arg_min" if function == "nth_oldest" else "arg_max"
        chosen += "_nulls_last" if aggregate.nulls else ""
        listed = f"{chosen}({argument}\n, row({position}), {k}) {over}"
        return f"{listed} {v}" if function == "newest" else f"({listed})[{k}] {v}"
    if function == "count_distinct":
        return f"count(DISTINCT {argument}\n) {over} {v}"
    if function in ("first_distinct", "last_distinct"):
        return f"{function}(list({argument}\n ORDER BY {position}) {over}, {k}) {v}"
    if function == "top_k":
        return f"top_k(histogram({argument}\n) {over}, {k}) {v}"
    if function == "histogram_each":
        return f"histogram_each(list({argument}\n) {over}) {v}"
    if function in SHAPES:
        return f"histogram({argument}\n) {over} {v}"
    if function in BY_KEY:
        pairs = f"list({{'k': {argument}\n, 'v': {by}\n}}) {over}"
        if function == "avg_by":
            return f"sum_by({pairs}) {v}, count_by({pairs}) {n}"
        return f"{function}({pairs}) {v}"
    return f"{function}({argument}\n) {over} {v}"


def _one_zero(view: StreamView, aggregate: Aggregate, by: str) -> str:
    type_ = view.inputs[aggregate.by or 0].type
    return f"({by}\n) + 0" if pa.types.is_floating(type_) else f"({by}\n)"


def finished(view: StreamView, index: int, exact: pa.Table) -> pa.Array:
    """The aggregate's column, finished from its parts in ``exact``.

    Raises:
        StateError: a sum has more than 38 digits.
    """
    aggregate = view.aggregates[index]
    value = exact.column(f"v{index}").combine_chunks()
    argument = view.inputs[aggregate.input].type
    scale = decimal_scale(argument)
    if aggregate.function in ("avg", *DEVIATIONS):
        lo, hi = decimal_words(value.cast(pa.decimal128(38, scale)))
        count = np.asarray(exact.column(f"n{index}").combine_chunks().to_numpy(zero_copy_only=False), dtype=np.int64)
        if aggregate.function == "avg":
            return finish.avg(lo, hi, count, scale)
        squares = exact.column(f"q{index}").combine_chunks().cast(pa.decimal128(38, 2 * scale))
        squares_lo, squares_hi = decimal_words(squares)
        return finish.deviation(
            lo,
            hi,
            squares_lo,
            squares_hi,
            count,
            scale,
            sample=aggregate.function.endswith("_samp"),
            root=aggregate.function.startswith("stddev"),
        )
    if aggregate.function in SHAPES:
        return _shaped(value, aggregate.function)
    if aggregate.function == "avg_by" and aggregate.by is not None:
        counts = exact.column(f"n{index}").combine_chunks()
        return _averages(value, counts, decimal_scale(view.inputs[aggregate.by].type), aggregate.type)
    return _one_zero_of(value.cast(aggregate.type))


def _one_zero_of(value: pa.Array) -> pa.Array:
    """``value`` with one zero and one NaN, also inside lists and structs."""
    type_ = value.type
    if pa.types.is_floating(type_):
        return canonical_floats(value)
    if pa.types.is_list(type_) and _has_floats(type_):
        flat = _one_zero_of(value.flatten())
        lengths = value.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)
        offsets = np.concatenate(([0], np.cumsum(lengths))).astype(np.int32)
        return pa.ListArray.from_arrays(offsets, flat, type=type_, mask=value.is_null())
    if pa.types.is_struct(type_) and _has_floats(type_):
        members = [_one_zero_of(member) for member in value.flatten()]
        return pa.StructArray.from_arrays(members, fields=list(type_), mask=value.is_null())
    return value


def _has_floats(type_: pa.DataType) -> bool:
    if pa.types.is_struct(type_):
        return any(_has_floats(member.type) for member in type_)
    return _has_floats(type_.value_type) if pa.types.is_list(type_) else bool(pa.types.is_floating(type_))


def _shaped(histograms: pa.MapArray, function: AggregateFunction) -> pa.Array:
    """The shapes of distributions, of how often each holds each value."""
    counts = histograms.items.cast(pa.int64()).to_numpy(zero_copy_only=False)
    offsets = np.asarray(histograms.offsets.to_numpy(), dtype=np.int64)
    words = to_words(histograms.keys) if function in MOMENTS else counts
    chosen = slice(offsets[0], offsets[-1])
    every = np.ones(len(histograms), dtype=np.bool_)
    return shaped(function, words[chosen], counts[chosen], np.diff(offsets), every)


def _averages(sums: pa.MapArray, counts: pa.MapArray, scale: int, type_: pa.DataType) -> pa.Array:
    """The map of averages of a map of sums and one of counts, which have the same keys."""
    whole = pa.concat_arrays([sums])
    first, last = whole.offsets[0].as_py(), whole.offsets[-1].as_py()
    items = whole.items.slice(first, last - first)
    many = pa.concat_arrays([counts])
    amounts = many.items.slice(many.offsets[0].as_py(), many.offsets[-1].as_py() - many.offsets[0].as_py())
    lo, hi = decimal_words(items.cast(pa.decimal128(38, scale)))
    means = finish.avg(lo, hi, np.asarray(amounts.to_numpy(zero_copy_only=False), dtype=np.int64), scale)
    lengths = np.diff(np.asarray(whole.offsets.to_numpy(zero_copy_only=False), dtype=np.int64))
    offsets = np.concatenate(([0], np.cumsum(lengths))).astype(np.int32)
    keys = whole.keys.slice(first, last - first)
    entries = pa.StructArray.from_arrays([keys, means], fields=[type_.key_field, type_.item_field])
    present = np.asarray(whole.is_valid().to_numpy(zero_copy_only=False), dtype=np.bool_)
    return pa.Array.from_buffers(
        type_, len(whole), [validity_buffer(present), pa.py_buffer(offsets)], children=[entries]
    )
