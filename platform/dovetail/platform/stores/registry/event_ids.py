"""Events by their id, and the places of those that repeat others (``rows/identity``); tables of the registry."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from dovetail.platform.rows.identity import NewEvents, RememberedEvent
from dovetail.platform.rows.positions import Progress
from dovetail.platform.stores.sql.bulk import Upsert
from dovetail.platform.stores.sql.committed import Committed
from dovetail.platform.stores.sql.database import Database
from dovetail.platform.stores.sql.lookup import Lookup

__all__ = ["EventIdTables", "RegistryEvents"]


class EventIdTables:
    """The tables, declared in the registry's metadata."""

    def __init__(self, metadata: sa.MetaData) -> None:
        #: Ids by ``place``, which is topic and partition, and key.
        self.events = sa.Table(
            "remembered_events",
            metadata,
            sa.Column("place", sa.Text, primary_key=True),
            sa.Column("key", sa.LargeBinary, primary_key=True),
            sa.Column("known_us", sa.BigInteger, nullable=False),
            sa.Column("offset", sa.BigInteger, nullable=False),
            sa.Column("row", sa.Integer, nullable=False),
            sa.Index("remembered_events_by_time", "place", "known_us"),
            sqlite_with_rowid=False,
        )
        self.repeated = sa.Table(
            "repeated_events",
            metadata,
            sa.Column("place", sa.Text, primary_key=True),
            sa.Column("offset", sa.BigInteger, primary_key=True, autoincrement=False),
            sa.Column("row", sa.Integer, primary_key=True, autoincrement=False),
        )


class RegistryEvents:
    """The ids and decisions of every topic; an :class:`~dovetail.platform.rows.identity.EventLog`. Thread-safe."""

    def __init__(self, tables: EventIdTables, database: Database, committed: Committed) -> None:
        self._events, self._repeated = tables.events, tables.repeated
        self._database, self._committed = database, committed
        events = self._events.c
        wanted = [events.key, events.known_us, events.offset, events.row]
        self._by_keys = Lookup(database, wanted, among=events.key, fixed=events.place)
        upsert = Upsert(database, self._events)
        self._put = upsert.replacing({name: upsert.excluded[name] for name in RememberedEvent._fields})
        self._add = Upsert(database, self._repeated)

    def progress(self, topic: str) -> Mapping[int, Progress]:
        """How far the rows of ``topic`` are decided, by partition."""
        return self._committed.progress(_scope(topic))

    def remembered(self, topic: str, partition: int, keys: Sequence[bytes]) -> Mapping[bytes, RememberedEvent]:
        """The events of a partition that are remembered by these keys."""
        with self._database.read() as connection:
            found = self._by_keys.rows(connection, keys, _place(topic, partition))
        return {bytes(key): RememberedEvent(*event) for key, *event in found}

    def repeated(self, topic: str, partition: int, first: int, last: int) -> Sequence[tuple[int, int]]:
        """The places of repetitions from offset ``first`` to ``last``, in order."""
        columns = self._repeated.c
        here = (columns.place == _place(topic, partition)) & columns.offset.between(first, last)
        asked = sa.select(columns.offset, columns.row).where(here).order_by(columns.offset, columns.row)
        with self._database.read() as connection:
            return [(offset, row) for offset, row in connection.execute(asked)]

    def repeated_before(self, topic: str, partition: int, offset: int) -> int:
        """How many repetitions stand before ``offset``."""
        columns = self._repeated.c
        here = (columns.place == _place(topic, partition)) & (columns.offset < offset)
        with self._database.read() as connection:
            return int(connection.execute(sa.select(sa.func.count()).where(here)).scalar_one())

    def decide(self, topic: str, partition: int, *, expected: int, progress: Progress, new: NewEvents) -> None:
        """Store what was decided and move from offset ``expected`` to ``progress``, all or nothing.

        Raises:
            StaleCommit: the stored offset is another one.
        """
        place = _place(topic, partition)

        def work(connection: sa.Connection) -> None:
            columns = self._events.c
            if new.before_us is not None:
                gone = (columns.place == place) & (columns.known_us < new.before_us)
                connection.execute(sa.delete(self._events).where(gone))
            known = [list(values) for values in zip(*new.events.values(), strict=True)] or [[], [], []]
            events: dict[str, Sequence[Any]] = {"place": [place] * len(new.events), "key": list(new.events)}
            self._put.execute(connection, events | dict(zip(RememberedEvent._fields, known, strict=True)))
            offsets, rows = ([at[side] for at in new.repeated] for side in (0, 1))
            self._add.execute(connection, {"place": [place] * len(offsets), "offset": offsets, "row": rows})

        self._committed.transact(_scope(topic), partition, expected, progress, work)


def _scope(topic: str) -> str:
    """The ledger's name for how far the rows of ``topic`` are decided."""
    return f"event_ids:{topic}"


def _place(topic: str, partition: int) -> str:
    return f"{topic}:{partition}"
