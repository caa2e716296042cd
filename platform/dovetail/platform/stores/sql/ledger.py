"""The one rule as two tables: how far each reader has come, and what became of every row.

A store that keeps state keeps a ledger in the same database, and changes both in one transaction. ``advance`` is the
compare-and-set: it moves a position only from where the caller believes it to be.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from dovetail.platform.errors import StaleCommit
from dovetail.platform.rows.accounts import Account
from dovetail.platform.rows.positions import Progress
from dovetail.platform.stores.sql.bulk import Upsert, columns_of
from dovetail.platform.stores.sql.database import Database
from dovetail.platform.stores.sql.lookup import Lookup
from dovetail.platform.stores.sql.prepared import Prepared

__all__ = ["Ledger"]


class Ledger:
    """Progress and accounts of the readers whose state lives in one database."""

    def __init__(self, metadata: sa.MetaData) -> None:
        """Declare the two tables in ``metadata``; the database is handed in with each call."""
        self._progress = sa.Table(
            "progress",
            metadata,
            sa.Column("scope", sa.Text, primary_key=True),
            sa.Column("partition", sa.Integer, primary_key=True),
            sa.Column("next_offset", sa.BigInteger, nullable=False),
            sa.Column("watermark_us", sa.BigInteger),
            sa.Column("timestamp_ms", sa.BigInteger),
            sa.Column("sources", sa.Text, nullable=False),
        )
        self._accounts = sa.Table(
            "accounts",
            metadata,
            sa.Column("stage", sa.Text, primary_key=True),
            sa.Column("topic", sa.Text, primary_key=True),
            sa.Column("partition", sa.Integer, primary_key=True),
            sa.Column("outcome", sa.Text, primary_key=True),
            sa.Column("rows", sa.BigInteger, nullable=False),
        )
        table = self._progress
        of_scope = sa.select(*list(table.c)[1:]).where(table.c.scope == sa.bindparam("of_scope"))
        here = (table.c.scope == sa.bindparam("of_scope")) & (table.c.partition == sa.bindparam("of_partition"))
        moved: dict[str, Any] = {column.name: sa.bindparam(column.name) for column in list(table.c)[2:]}
        self._of_scope = Prepared(of_scope)
        self._of_scope_held = Prepared(of_scope.with_for_update())
        self._at = Prepared(sa.select(table.c.next_offset).where(here))
        self._move = Prepared(
            sa.update(table).where(here, table.c.next_offset == sa.bindparam("expected")).values(moved)
        )
        self._begin = Prepared(sa.insert(table))
        self._credit: Upsert | None = None

    def progress(self, connection: sa.Connection, scope: str, *, hold: bool = False) -> dict[int, Progress]:
        """Progress of ``scope`` by partition; a partition never read is absent.

        With ``hold``, nobody else moves these positions until the surrounding transaction ends.
        """
        query = self._of_scope_held if hold else self._of_scope
        return {partition: _progress(*of) for partition, *of in query.rows(connection, {"of_scope": scope})}

    def reader(self, database: Database) -> Callable[[sa.Connection, Sequence[str]], dict[str, dict[int, Progress]]]:
        """A reader of several scopes' :meth:`progress` in one statement; a scope never read has no partitions."""
        lookup = Lookup(database, list(self._progress.c), among=self._progress.c.scope, fixed=None)

        def read(connection: sa.Connection, scopes: Sequence[str]) -> dict[str, dict[int, Progress]]:
            found: dict[str, dict[int, Progress]] = {scope: {} for scope in scopes}
            for scope, partition, *of in lookup.rows(connection, scopes):
                found[scope][partition] = _progress(*of)
            return found

        return read

    def advance(
        self, connection: sa.Connection, scope: str, partition: int, *, expected: int, progress: Progress
    ) -> None:
        """Move ``scope`` in ``partition`` from offset ``expected`` (0 when never read) to ``progress``.

        Raises:
            StaleCommit: the stored offset is another one; the surrounding transaction must not commit.
        """
        values = {
            "next_offset": progress.next_offset,
            "watermark_us": progress.watermark_us,
            "timestamp_ms": progress.timestamp_ms,
            "sources": json.dumps(progress.sources),
        }
        here = {"of_scope": scope, "of_partition": partition}
        if self._move.run(connection, {**here, **values, "expected": expected}) == 1:
            return
        found = self._at.rows(connection, here)
        if found or expected != 0:
            raise StaleCommit(scope, partition, expected=expected, found=found[0][0] if found else 0)
        try:
            self._begin.run(connection, {"scope": scope, "partition": partition, **values})
        except connection.dialect.loaded_dbapi.IntegrityError as error:
            raise StaleCommit(scope, partition, expected=0, found=-1) from error

    def rename(self, connection: sa.Connection, source: str, target: str, *, expected: Mapping[int, int]) -> None:
        """Give the positions of ``source`` to ``target``, whose own, by partition, are ``expected`` and are dropped.

        Raises:
            StaleCommit: they are not, or ``source`` has none; the surrounding transaction must not commit.
        """
        table = self._progress
        held = self.progress(connection, target, hold=True)
        found = {partition: progress.next_offset for partition, progress in held.items()}
        for partition in sorted(found.keys() | expected.keys()):
            here, wanted = found.get(partition, 0), expected.get(partition, 0)
            if here != wanted:
                raise StaleCommit(target, partition, expected=wanted, found=here)
        connection.execute(sa.delete(table).where(table.c.scope == target))
        moved = connection.execute(sa.update(table).where(table.c.scope == source).values(scope=target))
        if moved.rowcount == 0:
            raise StaleCommit(source, 0, expected=0, found=0)

    def rename_accounts(self, connection: sa.Connection, source: str, target: str) -> None:
        """Let the accounts of stage ``source`` take the place of ``target``'s."""
        table = self._accounts
        connection.execute(sa.delete(table).where(table.c.stage == target))
        connection.execute(sa.update(table).where(table.c.stage == source).values(stage=target))

    def credit(self, connection: sa.Connection, database: Database, accounts: Iterable[Account]) -> None:
        """Add to the accounts."""
        # In one order everywhere: two workers that credit the same accounts must not wait for each other.
        credited: dict[tuple[str, str, int, str], int] = {}
        for account in accounts:
            credited[account[:4]] = credited.get(account[:4], 0) + account.rows
        rows = [Account(*key, count) for key, count in sorted(credited.items()) if count]
        if rows:
            if self._credit is None:
                upsert = Upsert(database, self._accounts)
                self._credit = upsert.replacing({"rows": self._accounts.c.rows + upsert.excluded.rows})
            self._credit.execute(connection, columns_of(rows))

    def accounts(self, connection: sa.Connection) -> list[Account]:
        """All accounts kept in this database."""
        table = self._accounts
        rows = connection.execute(sa.select(table).order_by(*table.primary_key.columns))
        return [Account(row.stage, row.topic, row.partition, row.outcome, row.rows) for row in rows]

    def topics(self, connection: sa.Connection, stage: str) -> list[str]:
        """The topics that ``stage`` has accounts of."""
        columns = self._accounts.c
        return list(connection.execute(sa.select(columns.topic).where(columns.stage == stage).distinct()).scalars())


def _progress(next_offset: int, watermark_us: int | None, timestamp_ms: int | None, sources: str) -> Progress:
    included = {} if sources == "{}" else {int(partition): last for partition, last in json.loads(sources).items()}
    return Progress(next_offset, watermark_us, timestamp_ms, included)
