"""Samples as arrays of fixed meaning: dense numbers, hashed values with lengths, sequences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from dovetail.features.language.source import nearest
from dovetail.platform.errors import ConfigError
from dovetail.platform.rows.encodings.dictionaries import compacted, decoded, indices_of
from dovetail.trainer.samples.columns import hash_column
from dovetail.trainer.samples.hashing import hash_bytes

__all__ = ["Columns", "Sequences", "arrays_of"]

# What a column's name is hashed with for its values and for its NULL, as the own trainer's encoder does.
_VALUES, _MISSING = 0, 1


@dataclass(frozen=True, slots=True)
class Sequences:
    """A list column as a sequence: hashed values, or numbers with ``numeric``.

    ``length``: the first so many elements, padded with ``padding`` to just so many; None: jagged, all of them.
    ``per_request``: once for each request of a batch where its candidates share the list, and which one each row has.
    """

    column: str
    length: int | None = None
    numeric: bool = False
    padding: float = 0
    per_request: bool = field(default=False, repr=False)  # an export, which is known by this text, has no such form


@dataclass(frozen=True, slots=True)
class Columns:
    """The columns of samples that become arrays; see :func:`arrays_of`.

    ``bits``: hashed values are numbers below 2^bits. ``reserve_zero``: and are never 0, which is left for padding.
    """

    dense: Sequence[str] = ()
    sparse: Sequence[str] = ()
    sequences: Sequence[Sequences] = ()
    label: str | Sequence[str] = "label"
    weight: str | None = "weight"
    bits: int = 20
    reserve_zero: bool = False
    fill: float = 0.0

    def __post_init__(self) -> None:
        if not 1 <= self.bits <= 62:
            raise ConfigError(f"bits = {self.bits}: hashed values are below 2^bits, with 1 to 62 bits")

    @property
    def labels(self) -> tuple[str, ...]:
        """The names of the label columns."""
        return (self.label,) if isinstance(self.label, str) else tuple(self.label)

    @property
    def read(self) -> tuple[str, ...]:
        """The columns of samples that are read."""
        weight = () if self.weight is None else (self.weight,)
        names = [*self.dense, *self.sparse, *(one.column for one in self.sequences), *self.labels, *weight]
        return tuple(dict.fromkeys(names))

    @property
    def per_request(self) -> bool:
        """Whether some sequence is wanted once per request, so that a ``Reader`` is to give lists in that form."""
        return any(one.per_request for one in self.sequences)


def arrays_of(rows: pa.Table, columns: Columns) -> dict[str, Any]:
    """The arrays of n ``rows``:

    - ``dense`` float32 [n, columns]; NULL is ``fill``;
    - ``sparse`` by column: (values int64 [m], lengths int32 [n]), the slots of the own trainer's ``categorical`` input;
      a NULL has a value of its own, a list one for each element;
    - ``sequences`` by column: (values int64 or float32 [m] or [n, length], lengths int32 [n]); of those that are
      ``per_request``, (values [m] or [u, length], lengths [u], index int64 [n]): u lists, and which one each row has;
    - ``label`` float32 [n], or [n, labels] of several; ``weight`` float32 [n]. A NULL label is NaN.

    Raises:
        ConfigError: a column is not there, or of no type for its place.
    """
    for name in columns.read:
        if name not in rows.column_names:
            raise ConfigError(f"samples have no column {name!r}; {nearest(name, rows.column_names)}")
    once = {one.column for one in columns.sequences if one.per_request}
    whole, rows = rows, decoded(rows.select([name for name in columns.read if name not in once]))
    made: dict[str, Any] = {}
    if columns.dense:
        made["dense"] = np.stack([_numbers(rows, name, columns.fill) for name in columns.dense], axis=1)
    made["sparse"] = {name: _hashed(rows, name, columns) for name in columns.sparse}
    made["sequences"] = {
        one.column: _shared_sequence(whole, one, columns) if one.per_request else _sequence(rows, one, columns)
        for one in columns.sequences
    }
    labels = [_numbers(rows, name, np.nan) for name in columns.labels]
    made["label"] = labels[0] if isinstance(columns.label, str) else np.stack(labels, axis=1)
    if columns.weight is not None:
        made["weight"] = _numbers(rows, columns.weight, 1.0)
    return made


def _numbers(rows: pa.Table, name: str, fill: float) -> npt.NDArray[np.float32]:
    column = rows.column(name).combine_chunks()
    return _as_floats(column, name, fill)


def _as_floats(column: pa.Array, name: str, fill: float) -> npt.NDArray[np.float32]:
    type_ = column.type
    if not (pa.types.is_integer(type_) or pa.types.is_floating(type_) or pa.types.is_decimal(type_)):
        if not pa.types.is_boolean(type_):
            raise ConfigError(f"column {name!r} is {type_}, which is no number; give it to sparse or sequences")
        column = column.cast(pa.int8())
    numbers = column.cast(pa.float64()).fill_null(float(fill)).to_numpy(zero_copy_only=False)
    return np.asarray(numbers, dtype=np.float32)


def _hash(values: pa.Array, name: str, columns: Columns) -> npt.NDArray[np.int64]:
    of = name.encode()
    hashes = hash_column(values, column=name, seed=hash_bytes(of, _VALUES), null=hash_bytes(of, _MISSING))
    if columns.reserve_zero:
        return (hashes % np.uint64((1 << columns.bits) - 1)).astype(np.int64) + 1
    return (hashes & np.uint64((1 << columns.bits) - 1)).astype(np.int64)


def _hashed(rows: pa.Table, name: str, columns: Columns) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int32]]:
    column = rows.column(name).combine_chunks()
    if not _is_list(column.type):
        return _hash(column, name, columns), np.ones(len(column), dtype=np.int32)
    return _hash(pc.list_flatten(column), name, columns), _lengths(column)


def _shared_sequence(
    rows: pa.Table, one: Sequences, columns: Columns
) -> tuple[npt.NDArray[Any], npt.NDArray[np.int32], npt.NDArray[np.int64]]:
    """The lists of :func:`_sequence`, each once, and which one each row has."""
    column = compacted(rows.select([one.column])).column(0)
    if not pa.types.is_dictionary(column.type):
        return (*_lists(column.combine_chunks(), one, columns), np.arange(rows.num_rows, dtype=np.int64))
    chunks = column.chunks or [pa.array([], column.type)]
    before = np.cumsum([0, *(len(chunk.dictionary) for chunk in chunks)])
    index = np.concatenate([indices_of(chunk) + start for chunk, start in zip(chunks, before, strict=False)])
    return (*_lists(pa.concat_arrays([chunk.dictionary for chunk in chunks]), one, columns), index)


def _sequence(rows: pa.Table, one: Sequences, columns: Columns) -> tuple[npt.NDArray[Any], npt.NDArray[np.int32]]:
    return _lists(rows.column(one.column).combine_chunks(), one, columns)


def _lists(column: pa.Array, one: Sequences, columns: Columns) -> tuple[npt.NDArray[Any], npt.NDArray[np.int32]]:
    if not _is_list(column.type):
        raise ConfigError(f"column {one.column!r} is {column.type}, which is no list; give it to sparse or dense")
    elements = pc.list_flatten(column)
    values: npt.NDArray[Any] = (
        _as_floats(elements, one.column, columns.fill) if one.numeric else _hash(elements, one.column, columns)
    )
    lengths = _lengths(column)
    return (values, lengths) if one.length is None else _padded(values, lengths, one.length, one.padding)


def _padded(
    values: npt.NDArray[Any], lengths: npt.NDArray[np.int32], length: int, padding: float
) -> tuple[npt.NDArray[Any], npt.NDArray[np.int32]]:
    starts = np.cumsum(lengths) - lengths
    kept = np.minimum(lengths, length)
    padded = np.full((len(lengths), length), padding, dtype=values.dtype)
    filled = np.arange(length) < kept[:, None]
    padded[filled] = values[(starts[:, None] + np.arange(length))[filled]]
    return padded, kept.astype(np.int32)


def _lengths(column: pa.Array) -> npt.NDArray[np.int32]:
    lengths: npt.NDArray[np.int32] = pc.fill_null(pc.list_value_length(column), 0).to_numpy().astype(np.int32)
    return lengths


def _is_list(type_: pa.DataType) -> bool:
    return bool(pa.types.is_list(type_) or pa.types.is_large_list(type_) or pa.types.is_fixed_size_list(type_))
