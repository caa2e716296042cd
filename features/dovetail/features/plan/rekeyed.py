"""Re-keyed streams: the name of the agent that makes one, and the types of the columns that its rows may get."""

from __future__ import annotations

import pyarrow as pa

__all__ = ["carried", "stage_name"]

_PLAIN = (
    *(pa.bool_(), pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.float32(), pa.float64()),
    *(pa.string(), pa.date32(), pa.timestamp("us")),
)
_MAX_DIGITS = 18


def stage_name(rekeyed: str) -> str:
    """Under which the agent that makes stream ``rekeyed`` has its positions and accounts."""
    return f"rekey.{rekeyed}"


def carried(type_: pa.DataType) -> bool:
    """Whether rows of a stream may have a column of the type: one that columns can be declared with."""
    if pa.types.is_list(type_):
        return carried(type_.value_type)
    if pa.types.is_struct(type_):
        return all(carried(member.type) for member in type_)
    return type_ in _PLAIN or (isinstance(type_, pa.Decimal128Type) and type_.precision <= _MAX_DIGITS)
