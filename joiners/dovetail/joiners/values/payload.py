"""A label's columns as one text, by which every label store keeps them: a JSON object of texts by column."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from dovetail.joiners.values.kind_rules import ValueColumn

__all__ = ["packed", "unpacked"]


def packed(rows: pa.Table, columns: Sequence[ValueColumn]) -> pa.Array:
    """The texts of the ``columns`` of each row, NULL without columns; what is NULL is left out of the object.

    Texts give the same values back, to the bit: integers, decimals, dates, timestamps and floats by their shortest
    digits. But a float that is -0.0 is kept as 0.0, as DuckDB picks it by several keys.
    """
    if not columns:
        return pa.nulls(rows.num_rows, pa.string())
    texts = [_without_sign_of_zero(rows.column(value.column)).cast(pa.string()).to_pylist() for value in columns]
    names = [value.column for value in columns]
    objects = (
        {name: text for name, text in zip(names, row, strict=True) if text is not None}
        for row in zip(*texts, strict=True)
    )
    return pa.array([json.dumps(one) for one in objects], pa.string())


def _without_sign_of_zero(values: pa.ChunkedArray) -> pa.ChunkedArray:
    return pc.add(values, pa.scalar(0, values.type)) if pa.types.is_floating(values.type) else values


def unpacked(payloads: pa.ChunkedArray, columns: Sequence[ValueColumn]) -> list[pa.Array]:
    """The ``columns`` of rows with these ``payloads``, as declared; one that was not declared then is NULL."""
    joined = ",".join(text or "{}" for text in payloads.to_pylist())
    objects = json.loads(f"[{joined}]")
    return [_values([one.get(value.column) for one in objects], value.declared) for value in columns]


def _values(texts: list[str | None], declared: pa.DataType) -> pa.Array:
    array = pa.array(texts, pa.string())
    return array if array.type == declared else array.cast(declared)
