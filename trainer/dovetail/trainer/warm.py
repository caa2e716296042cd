"""Rows made up to compile kernels with, before the first real ones come.

Numba compiles a kernel for the types it is called with, whatever the values: a few rows of the right columns, encoded
into a model of a few slots, compile all that a model of gigabytes runs.
"""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from dovetail.trainer.encoding import Encoder

__all__ = ["example_rows", "small_encoder"]

_BITS = 4


def small_encoder(encoder: Encoder) -> Encoder:
    """An encoder of the same inputs into few slots."""
    return Encoder(encoder.inputs, _BITS)


def example_rows(schema: pa.Schema) -> pa.Table:
    """Two rows of ``schema``: one of zeros and empty strings, and one of NULLs where columns may be NULL."""
    columns = []
    for field in schema:
        zero = _zero(field.type)
        columns.append(pa.array([zero, None if field.nullable else zero], field.type))
    return pa.Table.from_arrays(columns, schema=schema)


def _zero(type_: pa.DataType) -> Any:
    """A value of ``type_`` as :func:`pyarrow.array` takes it; of a nested type, with all that can be in it."""
    if pa.types.is_struct(type_):
        return {field.name: _zero(field.type) for field in type_}
    if pa.types.is_map(type_):
        return [(_zero(type_.key_type), _zero(type_.item_type))]
    if pa.types.is_fixed_size_list(type_):
        return [_zero(type_.value_type)] * type_.list_size
    if pa.types.is_nested(type_):  # lists
        return [_zero(type_.value_type)]
    if pa.types.is_string(type_) or pa.types.is_large_string(type_):
        return ""
    if pa.types.is_binary(type_) or pa.types.is_large_binary(type_):
        return b""
    return False if pa.types.is_boolean(type_) else 0
