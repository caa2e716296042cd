"""Rows to hashed model inputs; the one path that training and scoring share."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa

from dovetail.platform.errors import ConfigError, WireError
from dovetail.trainer.columns import hash_column, number_column
from dovetail.trainer.hashing import hash_bytes
from dovetail.trainer.kernels import Float32, UInt32, UInt64

__all__ = ["Encoded", "Encoder", "InputSpec"]

#: Part of every fingerprint; raised when the meaning of an input changes.
_FORMAT = 1

# What a column's name is hashed with, so that a column's values, its NULL and its number never share a hash by design.
_VALUES, _MISSING, _NUMBER, _BIAS = range(4)


@dataclass(frozen=True, slots=True)
class InputSpec:
    """One declared model input.

    ========== =================================================== =======================
    kind       slot                                                value
    ========== =================================================== =======================
    categorical hash of the column's value; NULL is a value        1
    bucketed   hash of the number of ``boundaries`` at or below    1
               the value; NULL and NaN have their own
    numeric    one per column; NULL, NaN and ±infinity use another sign(x)·log1p(\\|x\\|), 1
    ========== =================================================== =======================

    :raises ConfigError: when ``boundaries`` are missing, empty, unordered, not finite, or given to another kind.
    """

    column: str
    kind: Literal["categorical", "numeric", "bucketed"] = "categorical"
    boundaries: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        if self.kind not in ("categorical", "numeric", "bucketed"):
            raise ConfigError(
                f"model input {self.column!r}: kind {self.kind!r} is unknown; use categorical, numeric or bucketed"
            )
        if self.kind != "bucketed":
            if self.boundaries is not None:
                raise ConfigError(
                    f"model input {self.column!r} is {self.kind} but has boundaries; remove them or declare it bucketed"
                )
            return
        edges = np.asarray(self.boundaries or (), np.float64)
        if len(edges) == 0 or not np.isfinite(edges).all() or (np.diff(edges) <= 0).any():
            raise ConfigError(
                f"model input {self.column!r}: boundaries must be one or more finite, strictly ascending numbers, "
                f"got {self.boundaries}"
            )

    def describe(self) -> dict[str, Any]:
        """As JSON-ready values."""
        edges = None if self.boundaries is None else [float(edge) for edge in self.boundaries]
        return {"column": self.column, "kind": self.kind, "boundaries": edges}


class Encoded(NamedTuple):
    """``n`` examples of ``k`` inputs: the last one is the bias, whose value is always 1."""

    #: uint32 [n, k], C-contiguous, each below ``2**bits``.
    slots: UInt32
    #: float32 [n, k], C-contiguous, finite.
    values: Float32


@dataclass(frozen=True, slots=True)
class _Salted:
    """An input with the hashes that depend on its column name alone."""

    spec: InputSpec
    seed: int
    missing: int
    number: int


class Encoder:
    """Hashes declared inputs into ``2**bits`` slots.

    A value's slot is the low ``bits`` bits of XXH64(value, seed = XXH64(column name)); two inputs may share a column.
    Encoding a row does not depend on the rows around it, on how the table is chunked, or on the order of its columns.

    :raises ConfigError: no inputs, an input declared twice, or ``bits`` outside 1…30.
    """

    def __init__(self, inputs: Sequence[InputSpec], bits: int) -> None:
        if not 1 <= bits <= 30:
            raise ConfigError(f"bits must be 1…30 (2**bits slots of 16 bytes), got {bits}")
        if not inputs:
            raise ConfigError("a model needs at least one input; declare the feature-set columns it is trained on")
        for position, spec in enumerate(inputs):
            if any(spec.column == other.column and spec.kind == other.kind for other in inputs[:position]):
                raise ConfigError(f"model input {spec.column!r} is declared {spec.kind} twice; remove one")
        self.inputs = tuple(inputs)
        self.bits = bits
        # The kind is part of the salt: bucket 3 of a column and its value 3 are different things.
        self._salted = [self._salt(spec) for spec in self.inputs]
        self._mask = np.uint64((1 << bits) - 1)
        self._bias = np.uint32(hash_bytes(b"", _BIAS) & ((1 << bits) - 1))

    @property
    def width(self) -> int:
        """``k``: the number of inputs and the bias."""
        return len(self.inputs) + 1

    @property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of :meth:`describe`; weights trained under another fingerprint mean something else."""
        canonical = json.dumps(self.describe(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()

    def describe(self) -> dict[str, Any]:
        """Everything an encoding depends on, as JSON-ready values. The order of inputs counts: sums are in it."""
        return {
            "format": _FORMAT,
            "hash": "xxh64",
            "bits": self.bits,
            "inputs": [spec.describe() for spec in self.inputs],
        }

    def encode(self, table: pa.Table) -> Encoded:
        """The model inputs of every row of ``table``; columns that are no input are ignored.

        :raises WireError: a declared column is absent or has a type its kind cannot use.
        """
        absent = [spec.column for spec in self.inputs if spec.column not in table.column_names]
        if absent:
            raise WireError(
                f"the table lacks the model input columns {absent}; it has {table.column_names}. "
                "Add them to the feature set, or remove the inputs from the model"
            )
        slots = np.empty((table.num_rows, self.width), np.uint32)
        values = np.ones((table.num_rows, self.width), np.float32)
        slots[:, -1] = self._bias
        for position, salted in enumerate(self._salted):
            start = 0
            for chunk in table.column(salted.spec.column).chunks:
                rows = slice(start, start + len(chunk))
                hashes = self._hashes(chunk, salted, values[rows, position])
                np.bitwise_and(hashes, self._mask, out=slots[rows, position], casting="unsafe")
                start += len(chunk)
        return Encoded(slots, values)

    @staticmethod
    def _salt(spec: InputSpec) -> _Salted:
        name = spec.column.encode() if spec.kind != "bucketed" else b"bucket of " + spec.column.encode()
        return _Salted(spec, hash_bytes(name, _VALUES), hash_bytes(name, _MISSING), hash_bytes(name, _NUMBER))

    @staticmethod
    def _hashes(chunk: pa.Array, salted: _Salted, values: Float32) -> UInt64:
        spec = salted.spec
        if spec.kind == "categorical":
            return hash_column(chunk, column=spec.column, seed=salted.seed, null=salted.missing)
        numbers = number_column(chunk, column=spec.column)
        if spec.kind == "bucketed":
            buckets = np.searchsorted(np.asarray(spec.boundaries), numbers, side="right")
            filled = pa.array(buckets, pa.int64(), mask=np.isnan(numbers))
            return hash_column(filled, column=spec.column, seed=salted.seed, null=salted.missing)
        usable = np.isfinite(numbers)
        values[...] = np.where(usable, signed_log(np.where(usable, numbers, 0.0)), 1.0)
        return np.where(usable, np.uint64(salted.number), np.uint64(salted.missing))


def signed_log(numbers: np.ndarray[Any, np.dtype[np.float64]]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """sign(x)·log1p(|x|): keeps sign and order, and brings counts and prices to the scale of a one-hot input."""
    result: np.ndarray[Any, np.dtype[np.float64]] = np.copysign(np.log1p(np.abs(numbers)), numbers)
    return result
