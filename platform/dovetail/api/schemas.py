"""JSON Schemas of declared rows, for the OpenAPI page. What is taken exactly stands in ``docs/types.md``."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from dovetail.platform.rows.schema import TableSchema

__all__ = ["schema_of"]


def schema_of(declared: TableSchema) -> dict[str, Any]:
    """The schema of one row of ``declared``."""
    return {"title": declared.name, **_object(list(declared.arrow))}


def _object(fields: list[pa.Field]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {field.name: _field(field) for field in fields},
        "required": [field.name for field in fields if not field.nullable],
        "additionalProperties": True,
    }


def _field(field: pa.Field) -> dict[str, Any]:
    found = _type(field.type)
    return {"anyOf": [found, {"type": "null"}]} if field.nullable else found


def _type(type_: pa.DataType) -> dict[str, Any]:
    if pa.types.is_boolean(type_):
        return {"type": "boolean"}
    if pa.types.is_integer(type_):
        half = 1 << (type_.bit_width - 1)
        return {"type": "integer", "minimum": -half, "maximum": half - 1}
    if pa.types.is_floating(type_):
        return {"type": "number"}
    if pa.types.is_decimal(type_):
        digits = f"at most {type_.precision - type_.scale} digits before the point and {type_.scale} after it"
        return {"type": ["string", "number"], "description": f"DECIMAL({type_.precision},{type_.scale}): {digits}"}
    if pa.types.is_timestamp(type_):
        return {"type": "string", "format": "date-time"}
    if pa.types.is_date(type_):
        return {"type": "string", "format": "date"}
    if pa.types.is_struct(type_):
        return _object([type_.field(number) for number in range(type_.num_fields)])
    if pa.types.is_list(type_):
        return {"type": "array", "items": _field(type_.value_field)}
    return {"type": "string"}
