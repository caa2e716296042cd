"""Tables with columns of dictionaries, which hold a value once however many rows have it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pyarrow as pa

__all__ = ["compacted", "decoded", "indices_of"]


def decoded(table: pa.Table) -> pa.Table:
    """``table`` with the values themselves, row by row, in place of dictionaries; ``table`` itself without any."""
    return _changed(table, _decoded)


def compacted(table: pa.Table) -> pa.Table:
    """``table`` with the values that its rows have and no others in its dictionaries, each once, in order of the rows.

    A slice of a table has the dictionaries of the whole table until then.
    """
    return _changed(table, _compacted)


def indices_of(column: pa.DictionaryArray) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """The index of the value that each row has in the dictionary, int64 [n]."""
    return np.asarray(column.indices.to_numpy(zero_copy_only=False), dtype=np.int64)


def _changed(table: pa.Table, change: Callable[[pa.ChunkedArray], pa.ChunkedArray]) -> pa.Table:
    if not any(pa.types.is_dictionary(field.type) for field in table.schema):
        return table
    columns = [change(column) if pa.types.is_dictionary(column.type) else column for column in table.columns]
    fields = [field.with_type(column.type) for field, column in zip(table.schema, columns, strict=True)]
    return pa.Table.from_arrays(columns, schema=pa.schema(fields, table.schema.metadata))


def _decoded(column: pa.ChunkedArray) -> pa.ChunkedArray:
    return pa.chunked_array([chunk.dictionary_decode() for chunk in column.chunks], column.type.value_type)


def _compacted(column: pa.ChunkedArray) -> pa.ChunkedArray:
    chunks = []
    for chunk in column.chunks:
        used, first, places = np.unique(indices_of(chunk), return_index=True, return_inverse=True)
        order = np.argsort(first)
        rank = np.empty(len(order), dtype=np.int32)
        rank[order] = np.arange(len(order), dtype=np.int32)
        chunks.append(
            pa.DictionaryArray.from_arrays(pa.array(rank[places]), chunk.dictionary.take(pa.array(used[order])))
        )
    return pa.chunked_array(chunks, pa.dictionary(pa.int32(), column.type.value_type))
