"""The types that a feature may have: those that the wire, Parquet and a bitwise comparison carry without loss."""

from __future__ import annotations

import pyarrow as pa

__all__ = ["feature_type"]

_PLAIN = (pa.bool_(), pa.string(), pa.date32(), pa.timestamp("us"))


def feature_type(type_: pa.DataType) -> pa.DataType | None:
    """``type_`` as features have it, or None when no feature has it.

    Numbers, VARCHAR, BOOLEAN, DATE and TIMESTAMP; and lists, maps and structs of such, however deep. Inside them,
    fields get Arrow's own names, so that one type has one schema whoever made it. An array of fixed size is a list.
    """
    if pa.types.is_integer(type_) or type_ in (pa.float32(), pa.float64()) or pa.types.is_decimal128(type_):
        return type_
    if type_ in _PLAIN:
        return type_
    if pa.types.is_list(type_) or pa.types.is_fixed_size_list(type_):
        element = feature_type(type_.value_type)
        return None if element is None else pa.list_(element)
    if pa.types.is_map(type_):
        key, item = feature_type(type_.key_type), feature_type(type_.item_type)
        return None if key is None or item is None else pa.map_(key, item)
    if pa.types.is_struct(type_) and type_.num_fields:
        members = [(field.name, feature_type(field.type)) for field in type_]
        return None if any(found is None for _, found in members) else pa.struct(members)
    return None
