"""Rows kept before a schema changed, read as it is declared now.

A column that was not declared yet is NULL in them, one that was narrower is widened; neither changes a value. What was
declared otherwise is not read as something else. Of a STRUCT, what nothing reads may have been anything.
"""

from __future__ import annotations

from collections.abc import Mapping

import pyarrow as pa

from dovetail.platform.errors import WireError

__all__ = ["conformed", "fits"]


def fits(before: pa.DataType, after: pa.DataType) -> bool:
    """Whether every value of ``before`` is the same value as ``after``: equal types, or wider ones, at every level.

    Integers become wider integers, decimals keep their scale; a STRUCT may have more or fewer members.
    """
    if before == after:
        return True
    if pa.types.is_signed_integer(before) and pa.types.is_signed_integer(after):
        return bool(before.bit_width <= after.bit_width)
    if isinstance(before, pa.Decimal128Type) and isinstance(after, pa.Decimal128Type):
        return bool(before.scale == after.scale and before.precision <= after.precision)
    if pa.types.is_list(before) and pa.types.is_list(after):
        return fits(before.value_type, after.value_type)
    if pa.types.is_struct(before) and pa.types.is_struct(after):
        mine = {member.name: member.type for member in before}
        return all(fits(mine[member.name], member.type) for member in after if member.name in mine)
    if pa.types.is_map(before) and pa.types.is_map(after):
        return fits(before.key_type, after.key_type) and fits(before.item_type, after.item_type)
    return False


def conformed(
    table: pa.Table,
    declared: pa.Schema,
    *,
    called: str,
    strict: bool = True,
    read: Mapping[str, pa.DataType] | None = None,
) -> pa.Table:
    """``table`` with every declared column as declared, nullable; columns that are not declared stay as they are.

    ``called`` names it in errors. Without ``strict`` a column of another type than declared stays as it is, too.
    ``read`` has STRUCT columns with just the members that are read of them: of one that was declared otherwise, the
    other members are NULL.

    Raises:
        WireError: with ``strict``, a column has a type whose values the declared one does not hold.
    """
    for field in declared:
        if field.name not in table.column_names:
            table = table.append_column(field.name, pa.nulls(table.num_rows, field.type))
            continue
        at = table.column_names.index(field.name)
        found = table.schema.field(at)
        if found.type == field.type:
            continue
        if fits(found.type, field.type):
            column = table.column(at).cast(field.type)
            table = table.set_column(at, field.with_nullable(True), column)
        elif read is not None and field.name in read and fits(found.type, read[field.name]):
            column = _with_members(table.column(at), read[field.name], field.type)
            table = table.set_column(at, field.with_nullable(True), column)
        elif strict:
            raise WireError(
                f"{called}: {field.name} is {found.type} there, and declared {field.type} now: no value of one is read "
                "as the other; declare it as it was, or the new one under another name"
            )
    return table


def _with_members(column: pa.ChunkedArray, read: pa.StructType, declared: pa.StructType) -> pa.ChunkedArray:
    """The structs of ``column`` with the members ``read``, as ``declared``; the other members are NULL."""
    if not read.num_fields:
        return pa.chunked_array([pa.nulls(len(column), declared)])
    return column.cast(read).cast(declared)
