"""Dead letters that were sent again; a table of the registry.

A broker and a database have no transaction in common. So before a letter is sent, it is written down that it may be in
its topic from an offset on, and after that, that it is. Whoever comes after a crash in between looks there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import sqlalchemy as sa

from dovetail.platform.stores.sql.database import Database

__all__ = ["Resent", "ResentTable"]


class Resent(NamedTuple):
    """Where a letter was sent again: not before ``since``, an offset. ``sent``: it is there; else it may be."""

    topic: str
    partition: int
    since: int
    sent: bool


class ResentTable:
    """The table, declared in the registry's metadata."""

    def __init__(self, metadata: sa.MetaData) -> None:
        self._table = sa.Table(
            "resent_letters",
            metadata,
            sa.Column("letter", sa.BigInteger, primary_key=True, autoincrement=False),
            sa.Column("topic", sa.Text, nullable=False),
            sa.Column("partition", sa.Integer, nullable=False),
            sa.Column("since", sa.BigInteger, nullable=False),
            sa.Column("sent", sa.Boolean, nullable=False),
        )

    def all(self, connection: sa.Connection) -> dict[int, Resent]:
        """Every letter, by offset."""
        return {letter: Resent(*rest) for letter, *rest in connection.execute(sa.select(self._table))}

    def put(self, connection: sa.Connection, database: Database, letters: Mapping[int, Resent]) -> None:
        """Put letters in the place of those of the same offset."""
        insert = database.insert(self._table)
        replaced = {name: insert.excluded[name] for name in Resent._fields}
        upsert = insert.on_conflict_do_update(index_elements=["letter"], set_=replaced)
        connection.execute(upsert, [{"letter": at, **known._asdict()} for at, known in sorted(letters.items())])
