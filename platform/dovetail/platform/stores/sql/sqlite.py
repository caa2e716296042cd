"""Transactions on a SQLite file, on connections that are kept: one that writes, and some that read.

SQLAlchemy takes 0.3 ms to hand out a connection, begin, commit and take it back, where SQLite needs 0.05 ms. So the
connections are taken once, and transactions are begun and ended by the driver.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa

__all__ = ["SqliteFile"]


class SqliteFile:
    """The connections of one SQLAlchemy engine to a file in WAL mode. Thread-safe; statements are SQLAlchemy's."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine
        self._writing = threading.Lock()
        self._writer: sa.Connection | None = None
        # Appended and popped by any thread; a list does that whole.
        self._readers: list[sa.Connection] = []

    @contextmanager
    def write(self, committed: Callable[[], None] | None = None) -> Iterator[sa.Connection]:
        """A transaction that holds the write lock from its start, one at a time. Rolled back by what is raised in it.

        ``committed`` is called after the commit, before the next transaction of this object.
        """
        with self._writing:
            with _transaction(self._the_writer(), "BEGIN IMMEDIATE") as connection:
                yield connection
            if committed is not None:
                committed()

    @contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """A transaction that sees one state of the file."""
        connection = self._readers.pop() if self._readers else self._engine.connect()
        try:
            with _transaction(connection, "BEGIN"):
                yield connection
        except BaseException:
            connection.close()
            raise
        self._readers.append(connection)

    def others_commits(self) -> int:
        """A number that is another one once anybody else has committed: another process, or another object."""
        with self._writing:  # SQLite does not count what the connection asked has committed itself
            return int(_driver(self._the_writer()).execute("PRAGMA data_version").fetchone()[0])

    def close(self) -> None:
        """Close the connections that are not in use; they are opened again when asked for."""
        with self._writing:
            if self._writer is not None:
                self._writer.close()
                self._writer = None
        while self._readers:
            self._readers.pop().close()

    def _the_writer(self) -> sa.Connection:
        if self._writer is None:
            self._writer = self._engine.connect()
        return self._writer


@contextmanager
def _transaction(connection: sa.Connection, begin: str) -> Iterator[sa.Connection]:
    driver = _driver(connection)
    driver.execute(begin)
    try:
        yield connection
        driver.commit()
    except BaseException:
        driver.rollback()
        connection.rollback()
        raise
    if connection.in_transaction():  # so SQLAlchemy believes, once it has executed a statement
        connection.commit()


def _driver(connection: sa.Connection) -> Any:
    return connection.connection.driver_connection
