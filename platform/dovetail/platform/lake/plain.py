"""Rows as plain Parquet would have them: times without a zone, in UTC, and no large, viewed or encoded types."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

import pyarrow as pa

from dovetail.platform.rows.positions import lacking

__all__ = ["plain_schema", "plain_table", "whole_table"]


class _Rows(Protocol):
    def iter_batches(self, *, columns: Sequence[str]) -> Iterator[pa.RecordBatch]: ...


def plain_schema(schema: pa.Schema) -> pa.Schema:
    """The columns as :func:`plain_table` gives them."""
    return pa.schema([pa.field(field.name, _plain(field.type), field.nullable) for field in schema])


def plain_table(rows: pa.RecordBatch, schema: pa.Schema) -> pa.Table:
    """``rows`` cast to ``schema``, which is plain.

    Raises:
        ArrowInvalid: a time is between two microseconds.
    """
    return pa.Table.from_batches([rows]).cast(schema)


def whole_table(
    where: str, schema: pa.Schema, columns: Sequence[str], files: Iterable[AbstractContextManager[_Rows]]
) -> pa.Table:
    """All rows of the data ``files`` of the table at ``where``, whose columns are ``schema``, with ``columns`` of it.

    Raises:
        WireError: there is no such column.
        StoreError: a file cannot be read.
    """
    missing = [name for name in columns if name not in schema.names]
    if missing:
        raise lacking(where, missing[0], schema.names)
    parts = [pa.schema([schema.field(name) for name in columns]).empty_table()]
    for opened in files:
        with opened as file:
            parts += [pa.Table.from_batches([batch]) for batch in file.iter_batches(columns=columns)]
    return pa.concat_tables(parts)


def _plain(type_: pa.DataType) -> pa.DataType:
    if pa.types.is_timestamp(type_):
        return pa.timestamp("us")
    if pa.types.is_large_string(type_) or pa.types.is_string_view(type_):
        return pa.string()
    if pa.types.is_large_binary(type_) or pa.types.is_binary_view(type_):
        return pa.binary()
    if pa.types.is_dictionary(type_):
        return _plain(type_.value_type)
    if pa.types.is_struct(type_):
        return pa.struct([pa.field(member.name, _plain(member.type), member.nullable) for member in type_])
    if pa.types.is_large_list(type_) or pa.types.is_list(type_):
        return pa.list_(_plain(type_.value_type))
    return type_
