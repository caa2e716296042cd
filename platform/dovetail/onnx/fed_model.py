"""An ONNX model as a function of features: what it is fed, and what of its answers is the score."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from dovetail.platform.errors import ModelError
from dovetail.platform.extras import needs_extra
from dovetail.platform.rows.examples import example_rows

__all__ = ["OnnxModel"]

_NUMBERS: Mapping[str, type[np.generic]] = {
    "tensor(float)": np.float32,
    "tensor(double)": np.float64,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(bool)": np.bool_,
}
_TEXT = "tensor(string)"
_SCORES = ("tensor(float)", "tensor(double)")
#: Versions that a model may bear itself: what JSON holds exactly.
_VERSIONS = range(1, 1 << 53)
_HASH_BYTES = 6


@dataclass(frozen=True, slots=True)
class _Feed:
    """An input of the model: the columns that make it, its element type, and whether it is [n] or [n, columns]."""

    name: str
    type: str
    columns: tuple[str, ...]
    flat: bool
    missing: float

    def of(self, table: pa.Table) -> npt.NDArray[Any]:
        """The input for the rows of ``table``."""
        made = [_column(table.column(name), self.type, self.missing) for name in self.columns]
        return made[0] if self.flat else np.ascontiguousarray(np.stack(made, axis=1))


class OnnxModel:
    """A model whose inputs are made of the columns of ``features``. Scoring is safe from several threads.

    An input is made of the column of its name, or of those that ``inputs`` names for it, in order: [n] or [n, columns].
    A NULL is ``missing`` in floats, 0 in integers, false in booleans and empty in texts; a feature that shall be
    something else says so in SQL. ``output`` names the one that has the scores (the first one, if empty): [n], [n, 1],
    or the last column of [n, 2].

    :raises ModelError: it is no ONNX model, or its inputs and output are not of these.
    """

    def __init__(
        self,
        content: bytes,
        features: pa.Schema,
        inputs: Mapping[str, Sequence[str]] | None = None,
        output: str = "",
        missing: float = math.nan,
    ) -> None:
        self._session = _session(content)
        given = self._session.get_modelmeta().version
        hashed = int.from_bytes(hashlib.blake2b(content, digest_size=_HASH_BYTES).digest(), "big")
        #: The version that the model bears (``model_version``), or else a number of 48 bits made of its content.
        self.version: int = given if given in _VERSIONS else hashed
        self._feeds = [_feed(one, features, inputs or {}, missing) for one in self._session.get_inputs()]
        unknown = sorted(set(inputs or {}) - {feed.name for feed in self._feeds})
        if unknown:
            raise ModelError(f"it has no input {unknown[0]!r}; it has {', '.join(feed.name for feed in self._feeds)}")
        self._output = _output(self._session.get_outputs(), output)
        try:
            self.score(example_rows(features))
        except ModelError as error:
            hint = "; it was tried with rows of zeros and of NULLs: [scorer] missing = 0.0 says what NULL is in floats"
            raise ModelError(f"{error}{hint}") from error

    def score(self, table: pa.Table) -> npt.NDArray[np.float32]:
        """The score of each row, float32 [n], finite.

        :raises ModelError: the model fails on these rows, or says something that is no finite number for each.
        """
        count = table.num_rows
        if count == 0:
            return np.empty(0, np.float32)
        try:
            [found] = self._session.run([self._output], {feed.name: feed.of(table) for feed in self._feeds})
        except Exception as error:  # whatever a kernel of the runtime raises
            raise ModelError(f"it fails on {count} rows: {_said(error)}") from error
        scores = np.asarray(found)
        if scores.ndim == 2 and scores.shape[1] in (1, 2):
            scores = scores[:, -1]
        if scores.shape != (count,):
            raise ModelError(
                f"its output {self._output!r} is {list(np.shape(found))} for {count} rows, not a score each"
            )
        scores = scores.astype(np.float32)
        if not np.isfinite(scores).all():
            raise ModelError(f"it says {scores[~np.isfinite(scores)][0]} for a row: scores must be finite")
        return scores


def _session(content: bytes) -> Any:
    with needs_extra("[scorer] onnx", "onnx"):
        import onnxruntime
    options = onnxruntime.SessionOptions()
    # The worker's threads are its own affair, and so is what it logs.
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    try:
        return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # of many kinds, with no common one
        raise ModelError(f"it is no ONNX model that can be run here: {_said(error)}") from error


def _feed(one: Any, features: pa.Schema, inputs: Mapping[str, Sequence[str]], missing: float) -> _Feed:
    name, shape = one.name, list(one.shape)
    columns = tuple(inputs.get(name, (name,)))
    for column in columns:
        if column not in features.names:
            raise ModelError(
                f"its input {name!r} needs a column {column!r}, which the features have not; they have "
                f'{", ".join(features.names)}. Rename it, or say [scorer.inputs] {name} = ["…"]'
            )
        _check(name, one.type, column, features.field(column).type)
    if len(shape) not in (1, 2) or isinstance(shape[0], int):
        raise ModelError(f"its input {name!r} is {shape}; export it with a dynamic first axis, as [n] or [n, columns]")
    if len(shape) == 1 and len(columns) > 1:
        raise ModelError(f"its input {name!r} is {shape}, a column; {len(columns)} are declared")
    if len(shape) == 2 and isinstance(shape[1], int) and shape[1] != len(columns):
        raise ModelError(
            f"its input {name!r} takes {shape[1]} columns, {len(columns)} are declared; name them in their order: "
            f'[scorer.inputs] {name} = ["…"]'
        )
    return _Feed(name, one.type, columns, flat=len(shape) == 1, missing=missing)


def _check(name: str, wanted: str, column: str, type_: pa.DataType) -> None:
    """Refuse an input that cannot be made of a column of this type."""
    number = pa.types.is_integer(type_) or pa.types.is_floating(type_) or pa.types.is_decimal(type_)
    plain = number or pa.types.is_boolean(type_)
    text = pa.types.is_string(type_) or pa.types.is_integer(type_)
    if wanted not in (*_NUMBERS, _TEXT):
        raise ModelError(f"its input {name!r} is {wanted}; {', '.join((*_NUMBERS, _TEXT))} are fed")
    if not (text if wanted == _TEXT else plain):
        raise ModelError(f"its input {name!r} is {wanted}, column {column!r} is {type_}; cast it in the feature set")


def _column(column: pa.ChunkedArray, wanted: str, missing: float) -> npt.NDArray[Any]:
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if wanted == _TEXT:
        texts: npt.NDArray[Any] = pc.fill_null(column.cast(pa.string()), "").to_numpy().astype(object)
        return texts
    target = np.dtype(_NUMBERS[wanted])
    if pa.types.is_boolean(column.type):
        column = column.cast(pa.int8())
    if target.kind == "f":
        numbers = pc.fill_null(column.cast(pa.float64()), missing)
        return np.asarray(numbers.to_numpy(), dtype=target)
    whole = pc.fill_null(column, pa.scalar(0).cast(column.type))
    return np.asarray(pc.cast(whole, pa.int64(), safe=False).to_numpy(), dtype=target)


def _output(outputs: Sequence[Any], wanted: str) -> str:
    names = [one.name for one in outputs]
    chosen = next((one for one in outputs if one.name == (wanted or names[0])), None)
    if chosen is None:
        raise ModelError(f"it has no output {wanted!r}; it has {', '.join(names)}")
    if chosen.type not in _SCORES:
        scores = [one.name for one in outputs if one.type in _SCORES]
        hint = f"say [scorer] output = {scores[0]!r}" if scores else "export probabilities as a tensor (without ZipMap)"
        raise ModelError(f"its output {chosen.name!r} is {chosen.type}, no scores; {hint}")
    return str(chosen.name)


def _said(error: Exception) -> str:
    return " ".join(str(error).split())[:500]
