"""Tables of definitions: their text and version, the data made with them, the days backfilled.

Tables only; the registry puts their changes into its own transactions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import sqlalchemy as sa

from dovetail.platform.stores.sql.bulk import Upsert, columns_of
from dovetail.platform.stores.sql.database import Database

__all__ = ["BackfillDay", "DefinitionRecord", "DefinitionTables", "DefinitionUse"]


class DefinitionRecord(NamedTuple):
    """A definition as it was registered.

    ``fingerprint`` is a hash of what it means, ``state`` of how a streaming view's state is laid out (empty for other
    kinds). ``outputs`` are its columns, ``name type``, one per line.
    """

    name: str
    kind: str
    version: int
    fingerprint: str
    state: str
    text: str
    outputs: str


class DefinitionUse(NamedTuple):
    """Rows of one UTC day of a dataset were made with a definition of this fingerprint."""

    definition: str
    fingerprint: str
    dataset: str
    day: str


class BackfillDay(NamedTuple):
    """A day that was backfilled into the folder ``out``: its file, its rows, a hash of what it was made of."""

    out: str
    day: str
    path: str
    rows: int
    inputs: str


class DefinitionTables:
    """The tables, declared in the registry's metadata."""

    def __init__(self, metadata: sa.MetaData) -> None:
        self._definitions = sa.Table(
            "definitions",
            metadata,
            sa.Column("name", sa.Text, primary_key=True),
            sa.Column("kind", sa.Text, nullable=False),
            sa.Column("version", sa.Integer, nullable=False),
            sa.Column("fingerprint", sa.Text, nullable=False),
            sa.Column("state", sa.Text, nullable=False),
            sa.Column("text", sa.Text, nullable=False),
            sa.Column("outputs", sa.Text, nullable=False),
        )
        self._uses = sa.Table(
            "definition_uses",
            metadata,
            *(sa.Column(name, sa.Text, primary_key=True) for name in DefinitionUse._fields),
        )
        self._backfills = sa.Table(
            "backfills",
            metadata,
            sa.Column("out", sa.Text, primary_key=True),
            sa.Column("job", sa.Text, nullable=False),
        )
        self._days = sa.Table(
            "backfill_days",
            metadata,
            sa.Column("out", sa.Text, primary_key=True),
            sa.Column("day", sa.Text, primary_key=True),
            sa.Column("path", sa.Text, nullable=False),
            sa.Column("rows", sa.BigInteger, nullable=False),
            sa.Column("inputs", sa.Text, nullable=False),
        )

    def definitions(self, connection: sa.Connection) -> dict[str, DefinitionRecord]:
        """Every registered definition by name."""
        rows = connection.execute(sa.select(self._definitions).order_by(self._definitions.c.name))
        return {row.name: DefinitionRecord(*row) for row in rows}

    def put(
        self,
        connection: sa.Connection,
        database: Database,
        records: Sequence[DefinitionRecord],
        known: Mapping[str, DefinitionRecord],
    ) -> list[str]:
        """Register each definition where the registry still has what is ``known``, or the same meaning by now.

        Returns:
            The names of which it has another meaning; the caller rolls back then. Rows are written in the order of
            their names, so that two who register at once wait for each other and do not lock each other out.
        """
        lost, columns = [], self._definitions.c
        for record in sorted(records):
            before = known.get(record.name)
            if before is None:
                insert = database.insert(self._definitions).on_conflict_do_nothing()
                connection.execute(insert, record._asdict())
            else:
                still = (columns.fingerprint == before.fingerprint) & (columns.state == before.state)
                update = sa.update(self._definitions).where((columns.name == record.name) & still)
                connection.execute(update.values(**record._asdict()))
            meaning = sa.select(columns.fingerprint, columns.state).where(columns.name == record.name)
            if tuple(connection.execute(meaning).one()) != (record.fingerprint, record.state):
                lost.append(record.name)
        return lost

    def uses(self, connection: sa.Connection) -> list[DefinitionUse]:
        """The datasets and days made with each definition."""
        rows = connection.execute(sa.select(self._uses).order_by(*self._uses.primary_key.columns))
        return [DefinitionUse(*row) for row in rows]

    def use(self, connection: sa.Connection, database: Database, uses: Sequence[DefinitionUse]) -> None:
        """Note uses; those noted before are left alone."""
        if uses:
            Upsert(database, self._uses).execute(connection, columns_of(sorted(set(uses))))

    def backfill(self, connection: sa.Connection, out: str) -> tuple[str | None, Mapping[str, BackfillDay]]:
        """The backfill into ``out`` as it was asked for (None: there is none), and the days that are done."""
        job = connection.execute(sa.select(self._backfills.c.job).where(self._backfills.c.out == out)).scalar()
        rows = connection.execute(sa.select(self._days).where(self._days.c.out == out).order_by(self._days.c.day))
        return job, {row.day: BackfillDay(*row) for row in rows}

    def begin_backfill(self, connection: sa.Connection, database: Database, out: str, job: str) -> None:
        """Note what is backfilled into ``out``."""
        _upsert(connection, database, self._backfills, [_Backfill(out, job)])

    def finish_day(self, connection: sa.Connection, database: Database, day: BackfillDay) -> None:
        """Note a day as done; done again, it replaces what was noted."""
        _upsert(connection, database, self._days, [day])


class _Backfill(NamedTuple):
    out: str
    job: str


def _upsert(connection: sa.Connection, database: Database, table: sa.Table, rows: Sequence[tuple[Any, ...]]) -> None:
    if rows:
        upsert = Upsert(database, table)
        upsert.replacing({c.name: upsert.excluded[c.name] for c in table.columns if not c.primary_key})
        upsert.execute(connection, columns_of(rows))
