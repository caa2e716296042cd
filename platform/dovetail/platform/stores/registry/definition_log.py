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
    kinds). ``outputs`` are its columns, ``name type``, one per line. ``reads`` are the columns it reads, a text of the
    caller's; empty where the definition was registered before that was kept. ``mark`` is what stored states of a
    streaming view bear.
    """

    name: str
    kind: str
    version: int
    fingerprint: str
    state: str
    text: str
    outputs: str
    reads: str = ""
    mark: str = ""


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
        # A table of its own, so that a database of the version that did not have it needs no change.
        self._reads = sa.Table(
            "definition_reads",
            metadata,
            sa.Column("name", sa.Text, primary_key=True),
            sa.Column("reads", sa.Text, nullable=False),
            sa.Column("mark", sa.Text, nullable=False),
        )
        self._uses = sa.Table(
            "definition_uses",
            metadata,
            *(sa.Column(name, sa.Text, primary_key=True) for name in DefinitionUse._fields),
        )
        self._use: Upsert | None = None
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
        both = self._definitions.outerjoin(self._reads, self._definitions.c.name == self._reads.c.name)
        read = [sa.func.coalesce(self._reads.c[name], "") for name in ("reads", "mark")]
        rows = connection.execute(
            sa.select(self._definitions, *read).select_from(both).order_by(self._definitions.c.name)
        )
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
            before, given = known.get(record.name), record._asdict()
            read = {name: given.pop(name) for name in ("reads", "mark")}
            if before is None:
                connection.execute(database.insert(self._definitions).on_conflict_do_nothing(), given)
            else:
                still = (columns.fingerprint == before.fingerprint) & (columns.state == before.state)
                update = sa.update(self._definitions).where((columns.name == record.name) & still)
                connection.execute(update.values(**given))
            meaning = sa.select(columns.fingerprint, columns.state).where(columns.name == record.name)
            same = tuple(connection.execute(meaning).one()) == (record.fingerprint, record.state)
            if not same or not self._put_reads(connection, database, record.name, read, before):
                lost.append(record.name)
        return lost

    def _put_reads(
        self,
        connection: sa.Connection,
        database: Database,
        name: str,
        read: Mapping[str, str],
        before: DefinitionRecord | None,
    ) -> bool:
        """Note what a definition reads, where the registry still has what was known; whether it has that now."""
        columns = self._reads.c
        was = ("", "") if before is None else (before.reads, before.mark)
        connection.execute(database.insert(self._reads).on_conflict_do_nothing(), {"name": name, **read})
        still = (columns.name == name) & (columns.reads == was[0]) & (columns.mark == was[1])
        connection.execute(sa.update(self._reads).where(still).values(**read))
        found = connection.execute(sa.select(columns.reads, columns.mark).where(columns.name == name)).one()
        return tuple(found) == (read["reads"], read["mark"])

    def rename(self, connection: sa.Connection, renamed: Mapping[str, tuple[str, str]]) -> None:
        """Note the uses of definitions under another fingerprint: by name, the one before and the one from now on."""
        columns = self._uses.c
        for name, (before, after) in sorted(renamed.items()):
            mine = (columns.definition == name) & (columns.fingerprint == before)
            connection.execute(sa.update(self._uses).where(mine).values(fingerprint=after))

    def uses(self, connection: sa.Connection) -> list[DefinitionUse]:
        """The datasets and days made with each definition."""
        rows = connection.execute(sa.select(self._uses).order_by(*self._uses.primary_key.columns))
        return [DefinitionUse(*row) for row in rows]

    def use(self, connection: sa.Connection, database: Database, uses: Sequence[DefinitionUse]) -> None:
        """Note uses; those noted before are left alone."""
        if uses:
            if self._use is None:
                self._use = Upsert(database, self._uses)
            self._use.execute(connection, columns_of(sorted(set(uses))))

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
