"""Tables as answers: columns as JSON that loses nothing, or Arrow."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pyarrow as pa

__all__ = ["columns_of", "json_value"]


def columns_of(table: pa.Table, names: Sequence[str]) -> dict[str, list[Any]]:
    """The named columns as JSON values: decimals, dates and times as text, NaN and infinities as their names."""
    return {name: _values(table.column(name)) for name in names}


def json_value(value: Any) -> Any:
    """One Python value as JSON can say it."""
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, Mapping):
        return {str(key): json_value(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [json_value(inner) for inner in value]
    if isinstance(value, bytes):
        return value.hex()
    iso: Callable[[], str] | None = getattr(value, "isoformat", None)
    return str(value) if iso is None else iso()


def _values(column: pa.ChunkedArray) -> list[Any]:
    type_ = column.type
    values: list[Any] = column.to_pylist()
    if pa.types.is_boolean(type_) or pa.types.is_integer(type_) or pa.types.is_string(type_):
        return values
    return [json_value(value) for value in values]
