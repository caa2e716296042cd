"""Answers of calls that have a key, for those that are repeated; a table of the registry."""

from __future__ import annotations

from typing import NamedTuple

import sqlalchemy as sa

from dovetail.platform.stores.sql.database import Database

__all__ = ["AnsweredCall", "AnsweredCallTable", "AnsweredCalls"]


class AnsweredCall(NamedTuple):
    """A call answered at ``at_us`` (µs, by the clock on the wall): a digest of what it said, and the answer as JSON."""

    digest: str
    answer: str
    at_us: int


class AnsweredCallTable:
    """The table, declared in the registry's metadata."""

    def __init__(self, metadata: sa.MetaData) -> None:
        self.table = sa.Table(
            "answered_calls",
            metadata,
            sa.Column("topic", sa.Text, primary_key=True),
            sa.Column("key", sa.Text, primary_key=True),
            sa.Column("digest", sa.Text, nullable=False),
            sa.Column("answer", sa.Text, nullable=False),
            sa.Column("at_us", sa.BigInteger, nullable=False),
            sa.Index("answered_calls_by_time", "topic", "at_us"),
        )


class AnsweredCalls:
    """The calls answered of every topic. Thread-safe."""

    def __init__(self, declared: AnsweredCallTable, database: Database) -> None:
        self._table, self._database = declared.table, database

    def of(self, topic: str, key: str, since_us: int) -> AnsweredCall | None:
        """The call of that key, if it was answered at ``since_us`` or later."""
        columns = self._table.c
        asked = sa.select(*(columns[name] for name in AnsweredCall._fields)).where(
            columns.topic == topic, columns.key == key, columns.at_us >= since_us
        )
        with self._database.read() as connection:
            found = connection.execute(asked).first()
        return None if found is None else AnsweredCall(*found)

    def put(self, topic: str, key: str, call: AnsweredCall, before_us: int) -> None:
        """Keep the answer of a call, in the place of an older one of its key; forget those of before ``before_us``."""
        columns = self._table.c
        insert = self._database.insert(self._table)
        kept = {name: insert.excluded[name] for name in AnsweredCall._fields}
        upsert = insert.on_conflict_do_update(index_elements=["topic", "key"], set_=kept)

        def work(connection: sa.Connection) -> None:
            connection.execute(sa.delete(self._table).where(columns.topic == topic, columns.at_us < before_us))
            connection.execute(upsert, {"topic": topic, "key": key, **call._asdict()})

        self._database.transact(work)
