"""The column by which the rows of a topic are known when they come again."""

from __future__ import annotations

import pyarrow as pa

from dovetail.platform.errors import DefinitionError
from dovetail.platform.rows.schema import TableSchema

__all__ = ["check_event_id"]


def check_event_id(schema: TableSchema, column: str | None, wanted_by: str) -> None:
    """Refuse a column of ids that is not there, or whose values have several texts.

    Raises:
        DefinitionError: it is one of these.
    """
    if column is None:
        return
    type_ = schema.field(column, wanted_by=f"{wanted_by}.event_id").type
    if not (pa.types.is_string(type_) or pa.types.is_integer(type_)):
        raise DefinitionError(
            f"{wanted_by}.event_id: {column} is {type_}, which names no event",
            file=schema.file,
            line=schema.line,
            remedy=f"declare {column} VARCHAR or BIGINT; a row where it is NULL is an event of its own",
        )
