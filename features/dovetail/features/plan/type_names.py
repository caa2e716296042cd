"""Types by the names that definitions declare them with, for messages."""

from __future__ import annotations

import pyarrow as pa

__all__ = ["sql_type"]


def sql_type(type_: pa.DataType) -> str:
    """The type as DuckDB writes it."""
    if pa.types.is_list(type_):
        return f"{sql_type(type_.value_type)}[]"
    if pa.types.is_fixed_size_list(type_):
        return f"{sql_type(type_.value_type)}[{type_.list_size}]"
    if pa.types.is_struct(type_):
        return f"STRUCT({', '.join(f'{member.name} {sql_type(member.type)}' for member in type_)})"
    names = {
        "int8": "TINYINT", "int16": "SMALLINT", "int32": "INTEGER", "int64": "BIGINT", "float": "FLOAT",
        "double": "DOUBLE", "string": "VARCHAR", "bool": "BOOLEAN", "date32[day]": "DATE", "timestamp[us]": "TIMESTAMP",
    }  # fmt: skip
    if pa.types.is_decimal(type_):
        return f"DECIMAL({type_.precision},{type_.scale})"
    return names.get(str(type_), str(type_).upper())
