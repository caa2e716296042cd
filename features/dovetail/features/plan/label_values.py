"""Columns of labels that samples may have, by their types."""

from __future__ import annotations

from collections.abc import Collection

import pyarrow as pa

from dovetail.platform.config.stream import Aggregate
from dovetail.platform.errors import DefinitionError
from dovetail.platform.rows.schema import TableSchema

__all__ = ["check_value", "unread_columns"]

_KEYS = ("request_id", "user_id", "item_id", "event_time")


def check_value(schema: TableSchema, kind: str, column: str, aggregate: Aggregate) -> None:
    """Refuse a column of a label stream that is not there, or of which ``aggregate`` makes nothing exact.

    Raises:
        DefinitionError: it is one of these.
    """
    wanted_by = f"labels.streams.{kind}.values"
    type_ = schema.field(column, wanted_by=wanted_by).type
    exact = pa.types.is_integer(type_) or pa.types.is_decimal(type_)
    ordered = exact or pa.types.is_temporal(type_)
    remedy = None
    if column in _KEYS:
        remedy = f"leave it out: samples have the request's keys, and {kind}_time"
    elif pa.types.is_nested(type_):
        remedy = "declare its members as columns of their own"
    elif aggregate == "sum" and not exact:
        remedy = f"declare {column} BIGINT or DECIMAL(p,s), whose sums are exact in any order"
    elif aggregate in ("min", "max") and not ordered:
        remedy = f'declare {column} a number that is exact, DATE or TIMESTAMP, or take "first" or "last"'
    if remedy is not None:
        raise DefinitionError(
            f"{wanted_by}: {column} is {type_}, of which there is no {aggregate} for samples",
            file=schema.file,
            line=schema.line,
            remedy=remedy,
        )


def unread_columns(schema: TableSchema, read: Collection[str | None]) -> list[str]:
    """The columns of a label stream that reach no sample and are not ``read`` otherwise."""
    return [name for name in schema.arrow.names if name not in _KEYS and name not in read]
