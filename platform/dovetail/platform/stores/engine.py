"""SQLAlchemy engines, set up so that a transaction means the same on every database."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event, exc

from dovetail.platform.errors import ConfigError, StoreError

__all__ = ["Database"]

_WRITE = "dovetail_write"


class Database:
    """A database and the two kinds of transactions Dovetail uses on it.

    SQLite runs in WAL mode with ``synchronous=NORMAL``: what is committed survives the death of the process at any
    point; a power failure may take the last commits, and state and positions go back together.
    """

    def __init__(self, url: str, metadata: sa.MetaData) -> None:
        """Open ``url`` and create the tables of ``metadata`` that are missing.

        Raises:
            ConfigError: the URL is malformed or its driver is not installed.
            StoreError: the database cannot be opened.
        """
        try:
            self.url = sa.make_url(url)
            if self.url.get_backend_name() == "sqlite" and self.url.database not in (None, "", ":memory:"):
                Path(str(self.url.database)).parent.mkdir(parents=True, exist_ok=True)
            self.engine = sa.create_engine(self.url)
        except (exc.ArgumentError, ModuleNotFoundError) as error:
            raise ConfigError(f"store URL {url!r} cannot be used: {error}; try sqlite:///PATH") from error
        if self.engine.dialect.name == "sqlite":
            event.listen(self.engine, "connect", _configure_sqlite)
            event.listen(self.engine, "begin", _begin_sqlite)
        try:
            with self.write() as connection:
                metadata.create_all(connection)
        except exc.SQLAlchemyError as error:
            raise StoreError(f"{self.url.render_as_string()}: cannot be opened: {error}") from error

    @contextmanager
    def write(self) -> Iterator[sa.Connection]:
        """A transaction that will write: it holds the write lock from its start, so compare-and-set cannot be torn."""
        with self.engine.connect().execution_options(**{_WRITE: True}) as connection, connection.begin():
            yield connection

    @contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """A transaction that only reads, from one consistent snapshot."""
        level: dict[str, Any] = {} if self.engine.dialect.name == "sqlite" else {"isolation_level": "REPEATABLE READ"}
        with self.engine.connect().execution_options(**level) as connection, connection.begin():
            yield connection

    def insert(self, table: sa.Table) -> Any:
        """This dialect's INSERT, which knows ``on_conflict_do_update``."""
        if self.engine.dialect.name == "postgresql":
            from sqlalchemy.dialects import postgresql

            return postgresql.insert(table)
        from sqlalchemy.dialects import sqlite

        return sqlite.insert(table)

    def close(self) -> None:
        """Close all pooled connections."""
        self.engine.dispose()


def _configure_sqlite(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # transactions are ours: the driver would begin them late
    for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "busy_timeout=30000"):
        connection.execute(f"PRAGMA {pragma}").close()


def _begin_sqlite(connection: sa.Connection) -> None:
    writes = connection.get_execution_options().get(_WRITE, False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
