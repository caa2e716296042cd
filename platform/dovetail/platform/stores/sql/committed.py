"""Progress as it is committed, read again only when the database has changed.

A worker looks at the progress of its scopes far more often than anybody moves it: for watermarks, announcements and
what may be retired. SQLite says without a transaction whether anyone has committed since.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping

from dovetail.platform.rows.positions import Progress
from dovetail.platform.stores.sql.database import Database
from dovetail.platform.stores.sql.ledger import Ledger

__all__ = ["Committed"]


class Committed:
    """The progress of every scope of one database. Thread-safe."""

    def __init__(self, database: Database, ledger: Ledger) -> None:
        self._database = database
        self._ledger = ledger
        self._lock = threading.Lock()
        self._version: int | None = None
        self._known: dict[str, dict[int, Progress]] = {}

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
        with self._database.read() as connection:
            found = self._ledger.progress(connection, scope)
        with self._lock:
            if version == self._version:
                self._known[scope] = found
        return dict(found)
