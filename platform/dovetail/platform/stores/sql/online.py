"""The online store on a SQL database: one row per view, key and source partition, beside the ledger."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
import sqlalchemy as sa

from dovetail.platform.rows.accounts import Account
from dovetail.platform.rows.positions import Progress
from dovetail.platform.stores.online import KeyStates, OnlineStore, ViewCommit, scope_of
from dovetail.platform.stores.sql.bulk import Upsert
from dovetail.platform.stores.sql.database import Database, scheme_of
from dovetail.platform.stores.sql.keys import storable_bytes
from dovetail.platform.stores.sql.ledger import Ledger
from dovetail.platform.stores.sql.lookup import Lookup
from dovetail.platform.stores.sql.prepared import Prepared

__all__ = ["SqlOnlineStore"]


class _Tables:
    """The store's tables, of no database."""

    def __init__(self) -> None:
        self.metadata = metadata = sa.MetaData()
        self.ledger = Ledger(metadata)
        self.state = sa.Table(
            "feature_state",
            metadata,
            sa.Column("view", sa.Text, primary_key=True),
            sa.Column("key", sa.LargeBinary, primary_key=True),
            sa.Column("partition", sa.Integer, primary_key=True),
            sa.Column("state", sa.LargeBinary, nullable=False),
            sa.Column("age_us", sa.BigInteger),
            sqlite_with_rowid=False,
        )
        columns = self.state.c
        aged = columns.age_us.is_not(None)
        sa.Index(
            "feature_state_by_age", columns.view, columns.partition, columns.age_us,
            sqlite_where=aged, postgresql_where=aged,
        )  # fmt: skip


@cache
def _tables(scheme: str) -> _Tables:
    """Declared once for all databases of a kind."""
    del scheme
    return _Tables()


class SqlOnlineStore(OnlineStore):
    """The online store on a SQL database: SQLite when embedded, PostgreSQL otherwise."""

    def __init__(self, url: str, owner: str = "", *, read_only: bool = False) -> None:
        tables = _tables(scheme_of(url))
        self._ledger, self._state = tables.ledger, tables.state
        columns = self._state.c
        self._database = Database(url, tables.metadata, owner, read_only=read_only)
        self._read_progress = self._ledger.reader(self._database)
        wanted = [columns.key, columns.partition, columns.state]
        self._by_keys = Lookup(self._database, wanted, among=columns.key, fixed=columns.view)
        upsert = Upsert(self._database, self._state)
        self._upsert = upsert.replacing({"state": upsert.excluded.state, "age_us": upsert.excluded.age_us})
        here = (columns.view == sa.bindparam("in_view")) & (columns.partition == sa.bindparam("in_partition"))
        self._remove = Prepared(sa.delete(self._state).where(here, self._keyed(columns.key)))
        oldest = sa.select(columns.key).where(here, columns.age_us < sa.bindparam("before_us"))
        self._oldest = Prepared(oldest.order_by(columns.age_us).limit(sa.bindparam("leaving")))

    def progress(self, view: str) -> Mapping[int, Progress]:
        with self._database.read() as connection:
            return self._ledger.progress(connection, scope_of(view))

    def read(self, keys: Mapping[str, Sequence[bytes]]) -> dict[str, KeyStates]:
        with self._database.read() as connection:
            progress = self._read_progress(connection, [scope_of(view) for view in keys])
            rows = {view: self._by_keys.rows(connection, self._stored(mine), view) for view, mine in keys.items()}
        keys = {view: self._stored(mine) for view, mine in keys.items()}
        return {view: _in_order(wanted, rows[view], progress[scope_of(view)]) for view, wanted in keys.items()}

    def keys(self, view: str, limit: int) -> list[bytes]:
        columns = self._state.c
        asked = sa.select(columns.key).where(columns.view == view).distinct().order_by(columns.key).limit(limit)
        with self._database.read() as connection:
            return [bytes(key) for key in connection.execute(asked).scalars()]

    def read_partition(self, view: str, partition: int, keys: Sequence[bytes]) -> list[bytes | None]:
        with self._database.read() as connection:
            keys = self._stored(keys)
            rows = self._by_keys.rows(connection, keys, view)
        mine = {key: state for key, owner, state in rows if owner == partition}
        return [mine.get(key) for key in keys]

    def commit(self, partition: int, commits: Sequence[ViewCommit], accounts: Sequence[Account]) -> None:
        def work(connection: sa.Connection) -> None:
            for commit in commits:
                self._ledger.advance(
                    connection, scope_of(commit.view), partition, expected=commit.expected, progress=commit.progress
                )
                self._change(connection, partition, commit)
            self._ledger.credit(connection, self._database, accounts)

        self._database.transact(work)

    def promote(self, source: str, target: str, *, expected: Mapping[int, int]) -> None:
        state = self._state

        def work(connection: sa.Connection) -> None:
            self._ledger.rename(connection, scope_of(source), scope_of(target), expected=expected)
            self._ledger.rename_accounts(connection, f"features.{source}", f"features.{target}")
            connection.execute(sa.delete(state).where(state.c.view == target))
            connection.execute(sa.update(state).where(state.c.view == source).values(view=target))

        self._database.transact(work)

    def accounts(self) -> list[Account]:
        with self._database.read() as connection:
            return self._ledger.accounts(connection)

    def close(self) -> None:
        self._database.close()

    def _stored(self, keys: Iterable[bytes]) -> list[bytes]:
        """Keys as they are stored: PostgreSQL indexes no long ones."""
        return [storable_bytes(key) for key in keys] if self._database.postgresql else list(keys)

    def _keyed(self, key: sa.Column[Any]) -> sa.ColumnElement[bool]:
        """That a key is the one bound to ``gone``; on PostgreSQL, one of the list bound to it."""
        return self._database.among(key, "gone") if self._database.postgresql else key == sa.bindparam("gone")

    def _change(self, connection: sa.Connection, partition: int, commit: ViewCommit) -> None:
        """Put the changed states, remove the empty and the old ones."""
        here = {"in_view": commit.view, "in_partition": partition}
        kept = {key: state for key, state in commit.changed.items() if state}
        n = len(kept)
        columns: dict[str, list[Any]] = {"view": [commit.view] * n, "key": self._stored(kept)}
        columns["partition"] = [partition] * n
        columns |= {"state": list(kept.values()), "age_us": [commit.age_us] * n}
        self._upsert.execute(connection, columns)
        gone = self._stored(key for key, state in commit.changed.items() if not state)
        if commit.leaving_before_us is not None:
            bounds = {"before_us": commit.leaving_before_us, "leaving": commit.leaving}
            gone += [key for (key,) in self._oldest.rows(connection, here | bounds)]
        if gone and self._database.postgresql:
            self._remove.run(connection, here | {"gone": gone})
        elif gone:
            self._remove.run_columns(
                connection, {name: [value] * len(gone) for name, value in here.items()} | {"gone": gone}
            )


def _in_order(
    wanted: Sequence[bytes], rows: Sequence[tuple[bytes, int, bytes]], progress: Mapping[int, Progress]
) -> KeyStates:
    index_of = {key: index for index, key in enumerate(wanted)}
    found = sorted([(index_of[key], partition, state) for key, partition, state in rows])
    return KeyStates(np.array([row[0] for row in found], dtype=np.int32), [row[2] for row in found], progress)
