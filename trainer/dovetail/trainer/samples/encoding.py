"""Rows to hashed model inputs; the one path that training and scoring share."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from dovetail.platform.compiling import compiled_as_ieee
from dovetail.platform.errors import ConfigError, WireError
from dovetail.trainer.arithmetic import Float32, Float64, UInt32, UInt64
from dovetail.trainer.losses import Loss, loss_code
from dovetail.trainer.samples.columns import hash_column, hash_column_into, number_column
from dovetail.trainer.samples.hashing import hash_bytes, hash_integers, hash_pairs
from dovetail.trainer.samples.inputs import InputSpec
from dovetail.trainer.samples.moments import (
    new_moments,
    standardise,
    standardise_training,
    usable,
)

__all__ = ["Encoded", "Encoder", "InputSpec", "Room"]

#: Part of every fingerprint; raised when the meaning of an input changes.
_FORMAT = 1

_FEW_BITS = 4

# Slots in a cache line.
_LINE = 16

# What a column's name is hashed with, so that a column's values, its NULL and its number never share a hash by design.
_VALUES, _MISSING, _NUMBER, _BIAS, _EMPTY, _PADDING = range(6)
# Part of the salt: bucket 3 of a column and its value 3 are different things.
_SALTS = {"bucketed": b"bucket of ", "standardised": b"standard ", "list": b"element of ", "cross": b"cross of "}


class Encoded(NamedTuple):
    """``n`` examples of ``k`` inputs: the last one is the bias, whose value is always 1."""

    #: uint32 [n, k], C-contiguous, each below ``2**bits``.
    slots: UInt32
    #: float32 [n, k], C-contiguous, finite; 0 where an input is absent.
    values: Float32


class Room:
    """Memory for the encodings of up to ``rows`` rows of an encoder, one after the other.

    Fresh memory costs a page fault every 4 KiB: without room, a third of the time of encoding.
    """

    def __init__(self, rows: int, width: int) -> None:
        self.rows = rows
        # An odd number of cache lines per column: were it a power of two, all columns would fight for the same lines.
        self._columns = np.empty((width, _LINE * ((rows // _LINE + 1) | 1)), np.uint32)
        self._slots = np.empty((rows, width), np.uint32)
        self._values = np.empty((rows, width), np.float32)

    def take(self, rows: int) -> tuple[UInt32, UInt32, Float32]:
        """Columns [width, at least rows], slots and values [rows, width], all as the last who took them left them."""
        return self._columns, self._slots[:rows], self._values[:rows]


@dataclass(frozen=True, slots=True)
class _Salted:
    """An input with its place in an encoded row and the hashes that depend on its name alone."""

    spec: InputSpec
    places: slice
    #: Its row of the moments, when it is standardised.
    moments: int
    seed: int
    missing: int
    number: int
    empty: int
    padding: UInt64
    boundaries: Float64


class Encoder:
    """Hashes declared inputs into ``2**bits`` slots.

    A value's slot is the low ``bits`` bits of XXH64(value, seed = XXH64(column name)); two inputs may share a column.
    Encoding a row does not depend on the rows around it, on how the table is chunked, or on the order of its columns.
    Standardised inputs depend on moments, which are handed in: they are part of the model, not of the encoder.

    ``loss`` is what weights over the slots are trained for, and so how the margin of an encoded row is read: it goes
    wherever the encoder goes.

    :raises ConfigError: no inputs, an input declared twice, ``bits`` outside 1…30, or no such loss.
    """

    def __init__(self, inputs: Sequence[InputSpec], bits: int, loss: Loss = "logistic") -> None:
        self.loss: Loss = loss
        #: The loss as kernels take it.
        self.loss_code = loss_code(loss)
        if not 1 <= bits <= 30:
            raise ConfigError(f"bits = {bits} is out of bounds; write 1…30 (2**bits slots of 16 bytes)")
        if not inputs:
            raise ConfigError("a model needs at least one input; declare the feature-set columns it is trained on")
        for position, spec in enumerate(inputs):
            if any(spec.name == other.name and spec.kind == other.kind for other in inputs[:position]):
                raise ConfigError(f"model input {spec.name!r} is declared {spec.kind} twice; remove one")
        self.inputs = tuple(inputs)
        self.bits = bits
        self.width = sum(spec.width for spec in inputs) + 1
        """``k``: the places of all inputs, and the bias."""

    @property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of :meth:`describe`; weights trained under another fingerprint mean something else."""
        canonical = json.dumps(self.describe(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()

    @property
    def places(self) -> list[tuple[InputSpec, slice]]:
        """Each input and where it stands in an encoded row."""
        return [(salted.spec, salted.places) for salted in self._salted]

    def new_moments(self) -> Float64:
        """Moments of the standardised inputs before any row: float64 [inputs of that kind, 3]."""
        return new_moments(sum(spec.kind == "standardised" for spec in self.inputs))

    def describe(self) -> dict[str, Any]:
        """Everything that weights are to be read by, as JSON-ready values: what an encoding depends on, and the loss.

        The order of inputs counts: sums are in it. A logistic loss is not named, as before there were others.
        """
        of_loss = {} if self.loss == "logistic" else {"loss": self.loss}
        return {
            "format": _FORMAT,
            "hash": "xxh64",
            "bits": self.bits,
            "inputs": [spec.describe() for spec in self.inputs],
            **of_loss,
        }

    def small(self) -> Encoder:
        """An encoder of the same inputs into few slots: what it is compiled with runs for any number of them."""
        return Encoder(self.inputs, _FEW_BITS, self.loss)

    @classmethod
    def from_description(cls, description: Mapping[str, Any]) -> Encoder:
        """The encoder whose :meth:`describe` was ``description``.

        :raises ConfigError: it was described by another version of Dovetail.
        """
        if (description["format"], description["hash"]) != (_FORMAT, "xxh64"):
            raise ConfigError(
                f"the model's encoder is of format {description['format']} with hash {description['hash']}, this is "
                f"format {_FORMAT} with xxh64; use the Dovetail version that trained it"
            )
        specs = []
        for spec in description["inputs"]:
            settings: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in spec.items()}
            specs.append(InputSpec(**settings))
        return cls(specs, description["bits"], description.get("loss", "logistic"))

    def room(self, rows: int) -> Room:
        """Memory for encoding up to ``rows`` rows at a time."""
        return Room(rows, self.width)

    def encode(
        self, table: pa.Table, moments: Float64 | None = None, weights: Float32 | None = None, room: Room | None = None
    ) -> Encoded:
        """The model inputs of every row of ``table``; columns that are no input are ignored.

        Lists may stand in a dictionary, by indices that are never NULL.

        ``moments`` standardise; without them, standardised inputs are absent. With ``weights`` (float32 [n]) this is
        training: each row is standardised by the moments of the rows before it and then counted into ``moments``. What
        is encoded in a ``room`` is overwritten by the next encoding there; a table that has more rows goes without.

        :raises WireError: a declared column is absent or has a type its kind cannot use.
        """
        moments = self.new_moments() if moments is None else moments
        rows = table.num_rows
        # Of every hash the low 32 bits, column by column; 2**30 slots need no more.
        columns, slots, values = (room if room and rows <= room.rows else self.room(rows)).take(rows)
        self._encode(table, moments, weights, columns.T[:rows], values)
        _mask_rows(columns, np.uint32((1 << self.bits) - 1), slots)
        return Encoded(slots, values)

    def hashes(self, table: pa.Table) -> UInt64:
        """The full 64-bit hash behind every slot of :meth:`encode`: uint64 [n, k]."""
        columns = np.empty((self.width, table.num_rows), np.uint64)
        values = np.empty((table.num_rows, self.width), np.float32)
        self._encode(table, self.new_moments(), None, columns.T, values)
        return np.ascontiguousarray(columns.T)

    def _encode(
        self, table: pa.Table, moments: Float64, weights: Float32 | None, hashes: UInt32 | UInt64, values: Float32
    ) -> None:
        """Fill ``hashes`` [n, k], the transpose of a contiguous array, with their low bits, and ``values`` [n, k]."""
        absent = sorted({name for spec in self.inputs for name in spec.reads} - set(table.column_names))
        if absent:
            raise WireError(
                f"the table lacks the model input columns {absent}; it has {table.column_names}. "
                "Add them to the feature set, or remove the inputs from the model"
            )
        values[...] = 1.0
        # Assigning 64 bits to 32 keeps the low ones.
        hashes[:, -1:] = np.array([self._bias], np.uint64).astype(hashes.dtype)
        for salted in self._salted:
            start = 0
            for chunks in _aligned([table.column(name) for name in salted.spec.reads]):
                rows = slice(start, start + len(chunks[0]))
                given = None if weights is None else weights[rows]
                mine = hashes[rows, salted.places], values[rows, salted.places]
                self._fill(salted, chunks, *mine, moments, given)
                start = rows.stop

    def _fill(
        self,
        salted: _Salted,
        chunks: Sequence[pa.Array],
        hashes: UInt32 | UInt64,
        values: Float32,
        moments: Float64,
        weights: Float32 | None,
    ) -> None:
        """One input of one chunk; ``hashes`` and ``values``, [rows, width of the input], are to be filled."""
        spec, chunk = salted.spec, chunks[0]
        if spec.kind == "list":
            _fill_list(salted, chunk, hashes, values)
        elif spec.kind == "cross":
            combined = np.full(len(chunk), salted.seed, np.uint64)
            for column, part in zip(spec.columns, chunks, strict=True):
                name = column.encode()
                own = hash_column(part, column=column, seed=hash_bytes(name, _VALUES), null=hash_bytes(name, _MISSING))
                combined = hash_pairs(combined, own)
            hashes[:, 0] = combined
        elif spec.kind == "categorical":
            hash_column_into(hashes[:, 0], chunk, column=spec.column, seed=salted.seed, null=salted.missing)
        else:
            numbers = number_column(chunk, column=spec.column)
            if spec.kind == "bucketed":
                buckets = salted.boundaries.searchsorted(numbers, side="right").astype(np.int64, copy=False)
                hash_integers(buckets.view(np.uint64), salted.seed, hashes[:, 0])
                absent = np.isnan(numbers)
                if absent.any():
                    hashes[absent, 0] = np.uint64(salted.missing).astype(hashes.dtype)
                return
            if spec.kind == "numeric":
                here = np.isfinite(numbers)
                values[:, 0] = signed_log(numbers if here.all() else np.where(here, numbers, 0.0))
            else:
                here, own = usable(numbers), moments[salted.moments]
                if weights is None:
                    values[:, 0] = standardise(numbers, own)
                else:
                    values[:, 0] = standardise_training(numbers, own, weights)
            hashes[:, 0] = np.uint64(salted.number).astype(hashes.dtype)
            if not here.all():
                values[~here, 0] = 1.0
                hashes[~here, 0] = np.uint64(salted.missing).astype(hashes.dtype)

    @cached_property
    def _bias(self) -> int:
        return hash_bytes(b"", _BIAS)

    @cached_property
    def _salted(self) -> list[_Salted]:
        """The inputs with their hashes, made when the first rows are encoded: kernels make them."""
        salted, place, standardised = [], 0, 0
        for spec in self.inputs:
            name = _SALTS.get(spec.kind, b"") + spec.name.encode()
            salted.append(
                _Salted(
                    spec,
                    slice(place, place + spec.width),
                    standardised,
                    seed=hash_bytes(name, _VALUES),
                    missing=hash_bytes(name, _MISSING),
                    number=hash_bytes(name, _NUMBER),
                    empty=hash_bytes(name, _EMPTY),
                    padding=np.array([hash_bytes(name, _PADDING + i) for i in range(spec.length)], np.uint64),
                    boundaries=np.asarray(spec.boundaries, np.float64),
                )
            )
            place += spec.width
            standardised += spec.kind == "standardised"
        return salted


def _aligned(columns: Sequence[pa.ChunkedArray]) -> list[list[pa.Array]]:
    """The chunks of one column; several columns as one chunk each, so that their rows stand side by side."""
    if len(columns) == 1:
        return [[chunk] for chunk in columns[0].chunks]
    return [[pa.concat_arrays(column.chunks) for column in columns]] if columns[0].num_chunks else []


def _fill_list(salted: _Salted, chunk: pa.Array, hashes: UInt32 | UInt64, values: Float32) -> None:
    type_ = chunk.type
    spec = salted.spec
    if pa.types.is_dictionary(type_):  # what many rows share is hashed once
        some = np.empty((len(chunk.dictionary), spec.length), hashes.dtype)
        theirs = np.empty(some.shape, np.float32)
        _fill_list(salted, chunk.dictionary, some, theirs)
        at = chunk.indices.to_numpy()
        hashes[:], values[:] = some[at], theirs[at]
        return
    if pa.types.is_fixed_size_list(type_):
        chunk = chunk.cast(pa.list_(type_.value_type))
    elif not (pa.types.is_list(type_) or pa.types.is_large_list(type_)):
        raise WireError(
            f"model input column {spec.column!r} is {type_}, which is no list; declare the input categorical, "
            "or make it a list in the feature set"
        )
    lengths = chunk.value_lengths().fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)
    elements = chunk.flatten()
    own, numbers = _elements(salted, elements)
    rows = np.repeat(np.arange(len(chunk)), lengths)
    places = np.arange(len(elements)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    read = places < spec.length
    hashes[:], values[:] = salted.padding, 0.0
    hashes[rows[read], places[read]] = own[read]
    values[rows[read], places[read]] = numbers[read]
    null = chunk.is_null().to_numpy(zero_copy_only=False)
    for mask, marker in ((null, salted.missing), ((lengths == 0) & ~null, salted.empty)):
        hashes[mask, 0], values[mask, 0] = np.uint64(marker).astype(hashes.dtype), 1.0


def _elements(salted: _Salted, elements: pa.Array) -> tuple[UInt64, Float32]:
    """Hash and value of each element of a list: of a name alone, or of a struct of a name and a number."""
    column = salted.spec.column
    if not pa.types.is_struct(elements.type):
        own = hash_column(elements, column=column, seed=salted.seed, null=salted.missing)
        return own, np.ones(len(elements), np.float32)
    if elements.type.num_fields != 2:
        raise WireError(
            f"model input column {column!r} is a list of {elements.type}; its elements must be names, or structs of a "
            "name and a number"
        )
    names, given = elements.flatten()
    own = hash_column(names, column=column, seed=salted.seed, null=salted.missing)
    numbers = number_column(given, column=column)
    here = np.abs(numbers) <= np.finfo(np.float32).max  # False for NaN
    own[~here] = salted.missing
    return own, np.where(here, numbers, 1.0).astype(np.float32)


@compiled_as_ieee
def _mask_rows(columns: UInt32, mask: np.uint32, slots: UInt32) -> None:
    """``slots[i, j] = columns[j, i] & mask``, a cache line of each column at a time."""
    n, k = slots.shape
    flat = slots.reshape(-1)
    whole = n - n % _LINE
    for start in range(0, whole, _LINE):
        for j in range(k):
            column = columns[j]
            # Unsigned: a negative index would count from the end, and checking for that costs half of the speed.
            at = np.uint64(start * k + j)
            for i in range(_LINE):
                flat[at] = column[np.uint64(start + i)] & mask
                at += np.uint64(k)
    for i in range(whole, n):
        for j in range(k):
            slots[i, j] = columns[j, i] & mask


def signed_log(numbers: np.ndarray[Any, np.dtype[np.float64]]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """sign(x)·log1p(|x|): keeps sign and order, and brings counts and prices to the scale of a one-hot input."""
    result: np.ndarray[Any, np.dtype[np.float64]] = np.copysign(np.log1p(np.abs(numbers)), numbers)
    return result
