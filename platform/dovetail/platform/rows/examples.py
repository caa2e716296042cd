"""Rows made up to compile kernels with, before the first real ones come.

Numba compiles a kernel for the types it is called with, whatever the values: a few rows of the right columns do.
"""

from __future__ import annotations

from typing import Any

import pyarrow as pa

__all__ = ["example_rows", "zero_of"]


def example_rows(schema: pa.Schema) -> pa.Table:
    """Two rows of ``schema``: one of :func:`zero_of`, and one of NULLs where columns may be NULL."""
    columns = []
    for field in schema:
        zero = zero_of(field.type)
        columns.append(pa.array([zero, None if field.nullable else zero], field.type))
    return pa.Table.from_arrays(columns, schema=schema)


def zero_of(type_: pa.DataType) -> Any:
    """Zero, False or an empty text of ``type_`` as :func:`pyarrow.array` takes it; nested, with one of all in it."""
    if pa.types.is_struct(type_):
        return {field.name: zero_of(field.type) for field in type_}
    if pa.types.is_map(type_):
        return [(zero_of(type_.key_type), zero_of(type_.item_type))]
    if pa.types.is_fixed_size_list(type_):
        return [zero_of(type_.value_type)] * type_.list_size
    if pa.types.is_nested(type_):  # lists
        return [zero_of(type_.value_type)]
    if pa.types.is_string(type_) or pa.types.is_large_string(type_):
        return ""
    if pa.types.is_binary(type_) or pa.types.is_large_binary(type_):
        return b""
    return False if pa.types.is_boolean(type_) else 0
