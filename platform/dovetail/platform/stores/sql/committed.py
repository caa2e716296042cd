"""Progress as it is committed, read again only when somebody else has changed the database.

A worker looks at the progress of its scopes far more often than anybody moves it: for watermarks, announcements and
what may be retired. What it has committed itself it knows; whether anyone else has committed since, SQLite says without
a transaction.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping

import sqlalchemy as sa

from dovetail.platform.rows.positions import Progress
from dovetail.platform.stores.sql.database import Database
from dovetail.platform.stores.sql.ledger import Ledger

__all__ = ["Committed"]


class Committed:
    """The progress of every scope of one database, and the transactions that move it. Thread-safe."""

    def __init__(self, database: Database, ledger: Ledger) -> None:
        self._database = database
        self._ledger = ledger
        self._lock = threading.Lock()
        self._version: int | None = None
        self._known: dict[str, dict[int, Progress]] = {}
        # Counts the moves of this object: rows that were read while one was made may be from before it.
        self._moves = 0

    def progress(self, scope: str) -> Mapping[int, Progress]:
        """Progress of ``scope`` by partition, as of now: what any process had committed when this was called.

        Raises:
            StoreError: the database failed.
        """
        # Asked for before the rows are read: what is committed in between is read again the next time.
        version = self._database.version()
        if version is None:
            with self._database.read() as connection:
                return self._ledger.progress(connection, scope)
        with self._lock:
            if version != self._version:
                self._known.clear()
                self._version = version
            elif scope in self._known:
                return dict(self._known[scope])
            moves = self._moves
        with self._database.read() as connection:
            found = self._ledger.progress(connection, scope)
        with self._lock:
            if version == self._version and moves == self._moves:
                self._known[scope] = found
        return dict(found)

    def transact(
        self, scope: str, partition: int, expected: int, progress: Progress, work: Callable[[sa.Connection], None]
    ) -> None:
        """Move ``scope`` in ``partition`` from offset ``expected`` to ``progress``, and do ``work``, all or nothing.

        Raises:
            StaleCommit: the stored offset is another one; nothing has changed.
            StoreError: the database failed.
        """

        def moving(connection: sa.Connection) -> None:
            self._ledger.advance(connection, scope, partition, expected=expected, progress=progress)
            work(connection)

        def moved() -> None:
            with self._lock:
                self._moves += 1
                if scope in self._known:
                    self._known[scope][partition] = progress

        self._database.transact(moving, moved)
