"""Tables with columns of dictionaries, which hold a value once however many rows have it."""

from __future__ import annotations

import pyarrow as pa

__all__ = ["decoded"]


def decoded(table: pa.Table) -> pa.Table:
    """``table`` with the values themselves, row by row, in place of dictionaries; ``table`` itself without any."""
    if not any(pa.types.is_dictionary(field.type) for field in table.schema):
        return table
    columns = [_decoded(column) for column in table.columns]
    fields = [field.with_type(column.type) for field, column in zip(table.schema, columns, strict=True)]
    return pa.Table.from_arrays(columns, schema=pa.schema(fields, table.schema.metadata))


def _decoded(column: pa.ChunkedArray) -> pa.ChunkedArray:
    if not pa.types.is_dictionary(column.type):
        return column
    return pa.chunked_array([chunk.dictionary_decode() for chunk in column.chunks], column.type.value_type)
