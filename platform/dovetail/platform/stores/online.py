"""The online store: feature state by key, beside the positions it includes.

State is kept per (view, key, source partition). Each source partition has one writer, so its state and its position
can be committed together without asking anybody; a reader merges the partitions of a key, which every supported
aggregate allows.

A key's state leaves when event time has passed its last use: when the watermark of its partition is more than the
view's ``retention_us`` beyond what it was when the state last changed. Each commit removes what has become old, a
bounded number of keys and the oldest first, together with moving the watermark. A clock on the wall has no say in it:
a worker that stands still, or replays last month, loses nothing that its positions say is there.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import sqlalchemy as sa

from dovetail.platform.rows.accounts import Account
from dovetail.platform.stores.sql.bulk import Upsert
from dovetail.platform.stores.sql.database import Database
from dovetail.platform.stores.sql.ledger import Ledger, Progress
from dovetail.platform.stores.sql.lookup import Lookup

__all__ = ["KeyStates", "OnlineStore", "SqlOnlineStore", "ViewCommit", "scope_of"]

_KEYS_PER_QUERY = 5_000


@dataclass(frozen=True, slots=True)
class ViewCommit:
    """The change of one view's state by a part of one partition: keys to new state, and the position after it.

    An empty state removes the key. ``retention_us`` is how long, in event time, a state can matter after its last
    change; None is for ever.
    """

    view: str
    expected: int
    progress: Progress
    changed: Mapping[bytes, bytes]
    retention_us: int | None = None

    @property
    def age_us(self) -> int | None:
        """The watermark that the changed keys are remembered by; None where they stay for ever.

        Rounded up, so that a busy key's is seldom rewritten; and so a key stays up to a sixteenth longer.
        """
        if self.retention_us is None or self.progress.watermark_us is None:
            return None
        grain = max(1, self.retention_us // 16)
        return -(-self.progress.watermark_us // grain) * grain

    @property
    def leaving_before_us(self) -> int | None:
        """Keys remembered by a watermark below this may leave."""
        if self.retention_us is None or self.progress.watermark_us is None:
            return None
        return self.progress.watermark_us - self.retention_us

    @property
    def leaving(self) -> int:
        """How many keys may leave: more than come, and a bounded amount of work."""
        return 500 + 2 * len(self.changed)


@dataclass(frozen=True, slots=True)
class KeyStates:
    """States of the keys asked for, all partitions: ``blobs[i]`` belongs to key ``key_index[i]`` (int32).

    Sorted by key index, then partition. ``progress`` is what these states include, by partition: a partition's position
    and its states, of all views asked for, are read in one snapshot, so a position is never ahead of or behind them.
    Different partitions may be read at slightly different moments; nothing compares their positions.
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
        """States of several views' distinct keys, each source partition from one consistent snapshot."""

    @abstractmethod
    def read_partition(self, view: str, partition: int, keys: Sequence[bytes]) -> list[bytes | None]:
        """States of ``keys`` from one source partition, in the order asked; None where there is none."""

    @abstractmethod
    def commit(self, partition: int, commits: Sequence[ViewCommit], accounts: Sequence[Account]) -> None:
        """Store all of it or none of it, and let leave what has become old.

        Raises:
            StaleCommit: a view's stored position is not the expected one.
            StoreError: whether it was stored is not known; the worker must end and read the position again.
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

    def __init__(self, url: str, owner: str = "") -> None:
        metadata = sa.MetaData()
        self._ledger = Ledger(metadata)
        self._state = sa.Table(
            "feature_state",
            metadata,
            sa.Column("view", sa.Text, primary_key=True),
            sa.Column("key", sa.LargeBinary, primary_key=True),
            sa.Column("partition", sa.Integer, primary_key=True),
            sa.Column("state", sa.LargeBinary, nullable=False),
            sa.Column("age_us", sa.BigInteger),
            sqlite_with_rowid=False,
        )
        columns = self._state.c
        aged = columns.age_us.is_not(None)
        sa.Index(
            "feature_state_by_age", columns.view, columns.partition, columns.age_us,
            sqlite_where=aged, postgresql_where=aged,
        )  # fmt: skip
        self._database = Database(url, metadata, owner)
        self._read_progress = self._ledger.reader(self._database)
        wanted = [columns.key, columns.partition, columns.state]
        self._by_keys = Lookup(self._database, wanted, among=columns.key, fixed=columns.view)
        upsert = Upsert(self._database, self._state)
        self._upsert = upsert.replacing({"state": upsert.excluded.state, "age_us": upsert.excluded.age_us})
        here = (columns.view == sa.bindparam("in_view")) & (columns.partition == sa.bindparam("in_partition"))
        self._remove = sa.delete(self._state).where(here, self._database.among(columns.key, "keys"))
        oldest = sa.select(columns.key).where(here, columns.age_us < sa.bindparam("before_us"))
        self._oldest = oldest.order_by(columns.age_us).limit(sa.bindparam("leaving"))

    def progress(self, view: str) -> Mapping[int, Progress]:
        with self._database.read() as connection:
            return self._ledger.progress(connection, scope_of(view))

    def read(self, keys: Mapping[str, Sequence[bytes]]) -> dict[str, KeyStates]:
        with self._database.read() as connection:
            progress = self._read_progress(connection, [scope_of(view) for view in keys])
            rows = {view: self._by_keys.rows(connection, wanted, view) for view, wanted in keys.items()}
        return {view: _in_order(wanted, rows[view], progress[scope_of(view)]) for view, wanted in keys.items()}

    def read_partition(self, view: str, partition: int, keys: Sequence[bytes]) -> list[bytes | None]:
        with self._database.read() as connection:
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

    def _change(self, connection: sa.Connection, partition: int, commit: ViewCommit) -> None:
        """Put the changed states, remove the empty and the old ones."""
        here = {"in_view": commit.view, "in_partition": partition}
        kept = {key: state for key, state in commit.changed.items() if state}
        n = len(kept)
        columns: dict[str, list[Any]] = {"view": [commit.view] * n, "key": list(kept), "partition": [partition] * n}
        columns |= {"state": list(kept.values()), "age_us": [commit.age_us] * n}
        self._upsert.execute(connection, columns)
        gone = [key for key, state in commit.changed.items() if not state]
        if commit.leaving_before_us is not None:
            bounds = {"before_us": commit.leaving_before_us, "leaving": commit.leaving}
            gone += connection.execute(self._oldest, here | bounds).scalars()
        for start in range(0, len(gone), _KEYS_PER_QUERY):
            connection.execute(self._remove, here | {"keys": gone[start : start + _KEYS_PER_QUERY]})


def scope_of(view: str) -> str:
    """The ledger's name for the reader that keeps ``view``."""
    return f"view:{view}"


def _in_order(
    wanted: Sequence[bytes], rows: Sequence[tuple[bytes, int, bytes]], progress: Mapping[int, Progress]
) -> KeyStates:
    index_of = {key: index for index, key in enumerate(wanted)}
    found = sorted([(index_of[key], partition, state) for key, partition, state in rows])
    return KeyStates(np.array([row[0] for row in found], dtype=np.int32), [row[2] for row in found], progress)
