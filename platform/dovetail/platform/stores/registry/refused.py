"""Messages from outside that are refused, by position, and why (``rows/refusals.py``); a table of the registry."""

from __future__ import annotations

from collections.abc import Mapping

import sqlalchemy as sa

from dovetail.platform.stores.sql.database import Database

__all__ = ["RefusedTable"]


class RefusedTable:
    """The table, declared in the registry's metadata."""

    def __init__(self, metadata: sa.MetaData) -> None:
        self._table = sa.Table(
            "refused_messages",
            metadata,
            sa.Column("topic", sa.Text, primary_key=True),
            sa.Column("partition", sa.Integer, primary_key=True, autoincrement=False),
            sa.Column("offset", sa.BigInteger, primary_key=True, autoincrement=False),
            sa.Column("reason", sa.Text, nullable=False),
        )

    def add(self, connection: sa.Connection, database: Database, rows: list[tuple[str, int, int, str]]) -> None:
        """Refuse messages (topic, partition, offset, reason); one that is refused keeps its first reason."""
        insert = database.insert(self._table).on_conflict_do_nothing()
        rows = [(*place, reason.replace("\0", "\ufffd")) for *place, reason in rows]  # type: ignore[misc]
        names = ("topic", "partition", "offset", "reason")
        connection.execute(insert, [dict(zip(names, row, strict=True)) for row in rows])

    def of(self, connection: sa.Connection, topic: str, partition: int) -> Mapping[int, str]:
        """Offset and reason of what is refused of a partition."""
        columns = self._table.c
        asked = sa.select(columns.offset, columns.reason).where(columns.topic == topic, columns.partition == partition)
        return {row.offset: row.reason for row in connection.execute(asked)}

    def positions(self, connection: sa.Connection, topics: list[str]) -> list[tuple[int, int]]:
        """Partition and offset of what is refused of any of ``topics``, in order."""
        columns = self._table.c
        place = (columns.partition, columns.offset)
        asked = sa.select(*place).where(columns.topic.in_(topics)).order_by(*place)
        return [(partition, offset) for partition, offset in connection.execute(asked)]
