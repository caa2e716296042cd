"""Arrow columns to the words the engine keeps: which inputs a row counts for, and its values as ordered int64.

One integer ``min``/``max`` serves every type: ``kernels/ordered.py`` keeps DuckDB's order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from dovetail.features.kernels.integers import INT64_MIN
from dovetail.features.kernels.ordered import to_words
from dovetail.features.kernels.words import Words
from dovetail.features.stream.collections.rules import CollectionLayout
from dovetail.features.stream.collections.structs import pack_structs
from dovetail.features.stream.layout import Layout
from dovetail.platform.rows.positions import pack

__all__ = [
    "NO_WATERMARK",
    "Collected",
    "PreparedRows",
    "RowOrigin",
    "positions_of",
    "prepare_rows",
    "running_watermark",
]

#: The watermark of a partition that has not seen a row.
NO_WATERMARK = INT64_MIN


@dataclass(frozen=True, slots=True)
class RowOrigin:
    """Where rows came from: their source (``sources.py``), and the position of each in it (``positions.pack``), int64
    ``[n]``."""

    partition: int
    positions: Words


@dataclass(frozen=True, slots=True)
class Collected:
    """A collection's words of each row: whether it counts, whether its value is not NULL, the value, its order or sum.

    Of lists, of each element, and ``rows`` says which row has it; else None.

    The value of a text, or of a struct as bytes, is its length, -1 for NULL; the last word is that by which values are
    ordered or added up.
    """

    counts: npt.NDArray[np.bool_]
    not_null: npt.NDArray[np.bool_]
    values: Words
    by: Words
    text: pa.LargeStringArray | pa.LargeBinaryArray | None
    rows: Words | None = None

    def rows_of(self, at: Words) -> Words:
        """The rows that have the values at ``at``."""
        return at if self.rows is None else self.rows[at]


@dataclass(frozen=True, slots=True)
class PreparedRows:
    """Rows of one partition, in its order, as :meth:`StreamEngine.apply` takes them.

    Rows that WHERE removed may be left out, once :func:`running_watermark` has seen them.

    Attributes:
        codes: int32 ``[n]``, the row's key in the list of distinct keys; -1 for none.
        event_time: int64 ``[n]``, microseconds.
        watermark_before: int64 ``[n]``, highest event time of the partition before the row; NO_WATERMARK for none.
        valid: uint64 ``[n]``; bit i is set where the row counts for input i.
        values: int64 ``[n, m]``, a column per ``Layout.value_arguments``, as :func:`to_words` gives it.
        collected: for each of ``CollectionLayout.collections``, what it takes.
        source: where the rows came from; needed by views with collections.
    """

    codes: npt.NDArray[np.int32]
    event_time: Words
    watermark_before: Words
    valid: npt.NDArray[np.uint64]
    values: Words
    collected: tuple[Collected, ...] = ()
    source: RowOrigin | None = field(default=None)

    def __len__(self) -> int:
        return len(self.event_time)

    @property
    def positions(self) -> Words:
        """Each row's place in its partition; its place in the batch where no source is given."""
        return np.arange(len(self), dtype=np.int64) if self.source is None else self.source.positions


def running_watermark(event_time: Words, watermark: int) -> tuple[Words, int]:
    """The watermark before each row of a partition, and after the last; ``watermark`` is the one before the first.

    ``event_time`` must have *all* rows of the partition, in its order: also those that WHERE removes. Then the result
    does not depend on how the partition was cut into polls.
    """
    running = np.maximum.accumulate(np.concatenate((np.array([watermark], dtype=np.int64), event_time)))
    return running[:-1], int(running[-1])


def positions_of(events: pa.Table) -> Words:
    """Each row's place in its partition, of a table with its own position columns."""
    offsets, rows = (np.asarray(events.column(name).to_numpy()) for name in ("_offset", "_row"))
    return pack(offsets.astype(np.int64), rows.astype(np.int32))


def prepare_rows(
    layout: Layout,
    codes: npt.NDArray[np.int32],
    event_time: Words,
    watermark_before: Words,
    arguments: Sequence[pa.Array | pa.ChunkedArray],
    filters: Sequence[pa.Array | pa.ChunkedArray],
    collections: CollectionLayout | None = None,
    source: RowOrigin | None = None,
) -> PreparedRows:
    """Put evaluated expressions together: validity masks and value words.

    Args:
        layout: of the view.
        codes, event_time, watermark_before: see :class:`PreparedRows`.
        arguments: the values of ``layout.arguments``, in that order, length n each.
        filters: the booleans of ``layout.filters``, in that order; NULL counts as false.
        collections, source: of a view with collections.
    """
    # What inputs ask of a row: first nothing, then that an argument is not NULL, then that a filter passes.
    asked = np.ones((1 + len(arguments) + len(filters), len(event_time)), dtype=np.bool_)
    for at, argument in enumerate(arguments, start=1):
        if argument.null_count:
            asked[at] = _flags(argument.is_valid())
    for at, each in enumerate(filters, start=1 + len(arguments)):
        asked[at] = _flags(each.fill_null(False) if each.null_count else each)
    passed = list(asked[1 + len(arguments) :])
    of_arguments = [0 if argument is None else 1 + argument for argument in layout.argument_of_input]
    of_filters = [0 if filter_ is None else 1 + len(arguments) + filter_ for filter_ in layout.filter_of_input]
    bits = np.uint64(1) << np.arange(len(of_arguments), dtype=np.uint64)
    valid = np.bitwise_or.reduce(np.where(asked[of_arguments] & asked[of_filters], bits[:, None], np.uint64(0)), axis=0)
    values = np.zeros((len(event_time), len(layout.value_arguments)), dtype=np.int64)
    for column, number in enumerate(layout.value_arguments):
        values[:, column] = to_words(arguments[number])
    collected = () if collections is None else _collected(layout, collections, arguments, passed, len(event_time))
    return PreparedRows(codes, event_time, watermark_before, valid, values, collected, source)


def _collected(
    layout: Layout,
    collections: CollectionLayout,
    arguments: Sequence[pa.Array | pa.ChunkedArray],
    passed: Sequence[npt.NDArray[np.bool_]],
    rows: int,
) -> tuple[Collected, ...]:
    found = []
    for collection in collections.collections:
        argument, filter_ = layout.argument_of_input[collection.input], layout.filter_of_input[collection.input]
        counts = np.ones(rows, dtype=np.bool_) if filter_ is None else passed[filter_]
        not_null = np.ones(rows, dtype=np.bool_)
        values, by, text = np.zeros(rows, dtype=np.int64), np.zeros(rows, dtype=np.int64), None
        given = None if argument is None else arguments[argument]
        if collection.each and given is not None:
            found.append(_elements(_whole(given), counts, collections.text_type(collection)))
            continue
        if given is not None:
            not_null = _flags(given.is_valid())
            if not collection.nulls:
                counts = counts & not_null
            if (kept_as := collections.text_type(collection)) is not None:
                whole = _whole(given)
                text = pack_structs(whole) if pa.types.is_struct(whole.type) else whole.cast(kept_as)
                values = _lengths(text)
            else:
                values = to_words(given)
        if collection.by is not None and (text is None or collection.by != collection.input):
            ordering = layout.argument_of_input[collection.by]
            if ordering is not None:
                counts = counts & _flags(arguments[ordering].is_valid())
                by = to_words(arguments[ordering])
        found.append(Collected(counts, not_null, values, by, text))
    return tuple(found)


def _elements(lists: pa.ListArray, counts: npt.NDArray[np.bool_], kept_as: pa.DataType | None) -> Collected:
    """What each element of the lists has to be counted, if its row is."""
    there = np.flatnonzero(_flags(lists.is_valid()))
    some = lists.take(pa.array(there))
    rows = there[np.asarray(pc.list_parent_indices(some).to_numpy(zero_copy_only=False), dtype=np.int64)]
    elements = pc.list_flatten(some)
    not_null = _flags(elements.is_valid())
    text = None if kept_as is None else elements.cast(kept_as)
    values = to_words(elements) if text is None else _lengths(text)
    return Collected(counts[rows] & not_null, not_null, values, np.zeros(len(rows), dtype=np.int64), text, rows)


def _lengths(text: pa.LargeStringArray | pa.LargeBinaryArray) -> Words:
    """The bytes of each text, -1 for NULL."""
    lengths = pc.binary_length(text).fill_null(-1)
    return np.asarray(lengths.to_numpy(zero_copy_only=False), dtype=np.int64)


def _whole(array: pa.Array | pa.ChunkedArray) -> pa.Array:
    return array.combine_chunks() if isinstance(array, pa.ChunkedArray) else array


def _flags(array: pa.Array | pa.ChunkedArray) -> npt.NDArray[np.bool_]:
    if isinstance(array, pa.ChunkedArray):
        array = array.combine_chunks()
    return np.asarray(array.to_numpy(zero_copy_only=False), dtype=np.bool_)
