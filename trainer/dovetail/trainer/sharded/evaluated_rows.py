"""The rows of a batch that its predictions are evaluated by, and the verdict on a version, as Arrow."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from dovetail.trainer.arithmetic import Float32, Float64

__all__ = [
    "BatchRows", "Verdict", "moments_of", "read_rows", "read_verdict", "rows_batch", "text_of", "verdict_batch",
]  # fmt: skip

_COLUMN = "row "


class BatchRows(NamedTuple):
    """The part of a batch that its evaluation reads: from the splitter to the reducer, before the header."""

    number: int
    #: Weights in the evaluation, float32 [n].
    weights: Float32
    #: The columns that metrics are grouped by, of n rows.
    table: pa.Table
    #: Above 0, the version of the model that is the one after this batch.
    version: int = 0
    #: Of a version: the moments of standardised inputs after this batch, float64 [inputs, 3].
    moments: Float64 = np.zeros((0, 3))


class Verdict(NamedTuple):
    """The word on a version, from the reducer to who puts its pieces together."""

    version: int
    #: Rows trained on.
    trained: int
    #: float64 [inputs, 3].
    moments: Float64
    #: Why the gate refuses it; empty when it is to be published.
    reasons: tuple[str, ...] = ()


def rows_batch(rows: BatchRows) -> tuple[dict[str, pa.Array], dict[str, Any]]:
    """The columns and the metadata of ``rows``."""
    columns = {f"{_COLUMN}{name}": rows.table.column(name).combine_chunks() for name in rows.table.column_names}
    told = {"number": rows.number, "version": rows.version, "moments": text_of(rows.moments)}
    return {"weights": pa.array(rows.weights), **columns}, told


def read_rows(batch: pa.RecordBatch, told: Mapping[str, str]) -> BatchRows:
    """The rows that :func:`rows_batch` was given."""
    names = [name for name in batch.schema.names if name.startswith(_COLUMN)]
    columns = {name.removeprefix(_COLUMN): batch.column(name) for name in names}
    weights = batch.column("weights").to_numpy()
    moments = moments_of(told["moments"])
    return BatchRows(int(told["number"]), weights, pa.table(columns), int(told["version"]), moments)


def verdict_batch(verdict: Verdict) -> tuple[dict[str, pa.Array], dict[str, Any]]:
    """The columns and the metadata of ``verdict``."""
    told = {"version": verdict.version, "trained": verdict.trained, "moments": text_of(verdict.moments)}
    return {"reasons": pa.array(verdict.reasons, pa.string())}, told


def read_verdict(batch: pa.RecordBatch, told: Mapping[str, str]) -> Verdict:
    """The verdict that :func:`verdict_batch` was given."""
    reasons = tuple(batch.column("reasons").to_pylist())
    return Verdict(int(told["version"]), int(told["trained"]), moments_of(told["moments"]), reasons)


def text_of(moments: Float64) -> str:
    """Exactly these numbers, as JSON."""
    return json.dumps([[number.hex() for number in row] for row in moments.tolist()])


def moments_of(text: str) -> Float64:
    """The numbers that :func:`text_of` was given."""
    rows = [[float.fromhex(number) for number in row] for row in json.loads(text)]
    return np.array(rows, np.float64).reshape(-1, 3)
