"""The online store: feature state by key, beside the positions it includes.

State is kept per (view, key, source partition). Each source partition has one writer, so its state and its position
can be committed together without asking anybody; a reader merges the partitions of a key, which every supported
aggregate allows.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import sqlalchemy as sa

from dovetail.platform.accounts import Account
from dovetail.platform.stores.engine import Database
from dovetail.platform.stores.ledger import Ledger, Progress

__all__ = ["KeyStates", "OnlineStore", "SqlOnlineStore", "ViewCommit"]

_KEYS_PER_QUERY = 5_000


@dataclass(frozen=True, slots=True)
class ViewCommit:
    """The change of one view's state by a part of one partition: keys to new state, and the position after it."""

    view: str
    expected: int
    progress: Progress
    changed: Mapping[bytes, bytes]


@dataclass(frozen=True, slots=True)
class KeyStates:
    """States of the keys asked for, all partitions: ``blobs[i]`` belongs to key ``key_index[i]`` (int32).

    Sorted by key index, then partition. ``progress`` is what these states include, by partition: read in the same
    snapshot, so a position is never ahead of or behind the states.
    """

    key_index: npt.NDArray[np.int32]
    blobs: Sequence[bytes]
    progress: Mapping[int, Progress]


class OnlineStore(ABC):
    """Feature state with the compare-and-set commit. Safe for use from several threads."""

    @abstractmethod
    def progress(self, view: str) -> Mapping[int, Progress]:
        """What the state of ``view`` includes, by source partition."""

    @abstractmethod
    def read(self, keys: Mapping[str, Sequence[bytes]]) -> dict[str, KeyStates]:
        """States of several views' keys, from one consistent snapshot."""

    @abstractmethod
    def read_partition(self, view: str, partition: int, keys: Sequence[bytes]) -> list[bytes | None]:
        """States of ``keys`` from one source partition, in the order asked; None where there is none."""

    @abstractmethod
    def commit(self, partition: int, commits: Sequence[ViewCommit], accounts: Sequence[Account]) -> None:
        """Store all of it or none of it.

        Raises:
            StaleCommit: a view's stored position is not the expected one.
        """

    @abstractmethod
    def promote(self, source: str, target: str, *, expected: Mapping[int, int]) -> None:
        """Let the state, positions and accounts of view ``source`` take the place of ``target``'s, all or nothing.

        ``expected`` is ``target``'s next offset by partition, empty when it has no state. ``source`` is gone after it.

        Raises:
            StaleCommit: ``target``'s positions are others, or ``source`` has none; nothing was changed.
        """

    @abstractmethod
    def accounts(self) -> list[Account]:
        """The accounts kept with this store."""

    @abstractmethod
    def close(self) -> None:
        """Release connections."""


class SqlOnlineStore(OnlineStore):
    """The online store on a SQL database: SQLite when embedded, PostgreSQL otherwise."""

    def __init__(self, url: str) -> None:
        metadata = sa.MetaData()
        self._ledger = Ledger(metadata)
        self._state = sa.Table(
            "feature_state",
            metadata,
            sa.Column("view", sa.Text, primary_key=True),
            sa.Column("key", sa.LargeBinary, primary_key=True),
            sa.Column("partition", sa.Integer, primary_key=True),
            sa.Column("state", sa.LargeBinary, nullable=False),
            sqlite_with_rowid=False,
        )
        self._database = Database(url, metadata)
        columns = self._state.c
        self._by_keys = sa.select(columns.key, columns.partition, columns.state).where(
            columns.view == sa.bindparam("view"), columns.key.in_(sa.bindparam("keys", expanding=True))
        )
        insert = self._database.insert(self._state)
        self._upsert = insert.on_conflict_do_update(
            index_elements=["view", "key", "partition"], set_={"state": insert.excluded.state}
        )

    def progress(self, view: str) -> Mapping[int, Progress]:
        with self._database.read() as connection:
            return self._ledger.progress(connection, _scope(view))

    def read(self, keys: Mapping[str, Sequence[bytes]]) -> dict[str, KeyStates]:
        states = {}
        with self._database.read() as connection:
            for view, wanted in keys.items():
                rows = self._rows(connection, view, wanted)
                index_of = {key: index for index, key in enumerate(wanted)}
                found = sorted((index_of[key], partition, state) for key, partition, state in rows)
                states[view] = KeyStates(
                    np.fromiter((index for index, _, _ in found), dtype=np.int32, count=len(found)),
                    [state for _, _, state in found],
                    self._ledger.progress(connection, _scope(view)),
                )
        return states

    def read_partition(self, view: str, partition: int, keys: Sequence[bytes]) -> list[bytes | None]:
        with self._database.read() as connection:
            mine = {key: state for key, owner, state in self._rows(connection, view, keys) if owner == partition}
        return [mine.get(key) for key in keys]

    def commit(self, partition: int, commits: Sequence[ViewCommit], accounts: Sequence[Account]) -> None:
        with self._database.write() as connection:
            for commit in commits:
                self._ledger.advance(
                    connection, _scope(commit.view), partition, expected=commit.expected, progress=commit.progress
                )
                rows = [
                    {"view": commit.view, "key": key, "partition": partition, "state": state}
                    for key, state in commit.changed.items()
                ]
                if rows:
                    connection.execute(self._upsert, rows)
            self._ledger.credit(connection, self._database, accounts)

    def promote(self, source: str, target: str, *, expected: Mapping[int, int]) -> None:
        state = self._state
        with self._database.write() as connection:
            self._ledger.rename(connection, _scope(source), _scope(target), expected=expected)
            self._ledger.rename_accounts(connection, f"features.{source}", f"features.{target}")
            connection.execute(sa.delete(state).where(state.c.view == target))
            connection.execute(sa.update(state).where(state.c.view == source).values(view=target))

    def accounts(self) -> list[Account]:
        with self._database.read() as connection:
            return self._ledger.accounts(connection)

    def close(self) -> None:
        self._database.close()

    def _rows(self, connection: sa.Connection, view: str, keys: Sequence[bytes]) -> list[tuple[bytes, int, bytes]]:
        rows: list[tuple[bytes, int, bytes]] = []
        for start in range(0, len(keys), _KEYS_PER_QUERY):
            part = list(keys[start : start + _KEYS_PER_QUERY])
            rows += [tuple(row) for row in connection.execute(self._by_keys, {"view": view, "keys": part})]
        return rows


def _scope(view: str) -> str:
    return f"view:{view}"
