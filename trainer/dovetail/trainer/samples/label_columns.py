"""Labels and weights of rows, out of the columns that have them."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pyarrow as pa

from dovetail.platform.errors import WireError
from dovetail.platform.rows.positions import OWN_COLUMNS
from dovetail.trainer.arithmetic import Float32, Float64
from dovetail.trainer.samples.columns import number_column

__all__ = ["Absent", "column_of_numbers", "labels_and_weights", "with_labels"]

#: What becomes of a row whose label is NULL.
Absent = Literal["refuse", "zero", "skip"]


def labels_and_weights(
    table: pa.Table, label: str, weight: str | None, absent: Absent = "refuse"
) -> tuple[Float32, Float32]:
    """Labels and weights of rows, float32 [n] each, as :func:`with_labels`; without a ``weight`` column, weights of 1.

    :raises WireError: a column is absent or not numeric, or a value is NULL and may not be.
    """
    weights = np.ones(table.num_rows, np.float32)
    if weight is not None:
        weights = column_of_numbers(table, weight, "sample weight").astype(np.float32)
    return with_labels(table, label, weights, absent)


def with_labels(table: pa.Table, column: str, weights: Float32, absent: Absent) -> tuple[Float32, Float32]:
    """Labels and weights of rows, float32 [n] each; those whose label is NULL or NaN as ``absent`` says.

    ``zero``: their label is 0. ``skip``: they weigh nothing, so they are predicted and change nothing.

    :raises WireError: the column is absent or not numeric, or a label is NULL and may not be.
    """
    if absent == "refuse":
        return column_of_numbers(table, column, "label").astype(np.float32), weights
    numbers = column_of_numbers(table, column, "label", nulls=True)
    missing = np.isnan(numbers)
    labels = np.where(missing, 0.0, numbers).astype(np.float32)
    return labels, np.where(missing, np.float32(0), weights) if absent == "skip" else weights


def column_of_numbers(table: pa.Table, column: str, role: str, *, nulls: bool = False) -> Float64:
    """A column that every row must have a number in, unless it may have ``nulls``, which are NaN: float64 [n].

    :raises WireError: it is absent or not numeric, or a value is NULL or NaN and may not; says in which row.
    """
    if column not in table.column_names:
        raise WireError(f"the table lacks the {role} column {column!r}; it has {table.column_names}")
    chunks = [number_column(chunk, column=column) for chunk in table.column(column).chunks]
    numbers = np.concatenate([np.empty(0), *chunks])
    lost = np.flatnonzero(np.isnan(numbers))
    if len(lost) and not nulls:
        row = int(lost[0])
        own = [name for name in OWN_COLUMNS if name in table.column_names]
        where = ", ".join(f"{name} {table.column(name)[row].as_py()}" for name in own) or f"row {row}"
        raise WireError(
            f"the {role} column {column!r} is NULL or NaN at {where} ({len(lost)} such rows in the table); "
            "filter these rows out or give them a value where samples are made"
        )
    return numbers
