"""SQLAlchemy engines, set up so that a transaction means the same on every database."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

import sqlalchemy as sa
from sqlalchemy import event, exc

from dovetail.platform.errors import ConfigError, StoreError
from dovetail.platform.extras import DISTRIBUTION
from dovetail.platform.owned import owned_file
from dovetail.platform.stores.sql.sqlite import SqliteFile

__all__ = ["Database", "scheme_of"]

T = TypeVar("T")

#: Of libpq: seconds to connect; milliseconds without an answer from the network until the connection counts as lost.
_POSTGRESQL = {"connect_timeout": 10, "keepalives_idle": 30, "tcp_user_timeout": 60_000}
_STATEMENT_TIMEOUT_MS = 120_000
_LOCK_TIMEOUT_MS = 60_000
#: Two transactions met; PostgreSQL has undone this one, and asks for it again: serialization failure, deadlock.
_AGAIN = ("40001", "40P01")
_ATTEMPTS = 10
_CREATING_TABLES = 0x646F7665
#: Of SQLite: the file is none of its own, or parts of it are lost.
_DAMAGED = ("not a database", "malformed")
_OWNER = sa.Table("owner", sa.MetaData(), sa.Column("project", sa.Text, primary_key=True))


def scheme_of(url: str) -> str:
    """The part of a store URL that names the kind of database and its driver, whatever follows it."""
    return url.partition("://")[0]


class Database:
    """A database and the two kinds of transactions Dovetail uses on it.

    SQLite runs in WAL mode with ``synchronous=NORMAL``: what is committed survives the death of the process at any
    point; a power failure may take the last commits, and state and positions go back together. On PostgreSQL a
    connection is tried before it is used, so a server that was restarted is found again; a transaction that was open
    then has failed.
    """

    def __init__(self, url: str, metadata: sa.MetaData, owner: str = "", *, read_only: bool = False) -> None:
        """Open ``url`` and create the tables of ``metadata`` that are missing.

        A database belongs to the first project whose name is given as ``owner``: positions go by names that two
        projects have in common, and one would resume from the other's. With ``read_only`` nothing is created, and the
        database itself refuses whatever would change it.

        Raises:
            ConfigError: the URL is malformed, its driver is not installed, or the database is another project's.
            StoreError: the database cannot be opened.
        """
        try:
            self.url = sa.make_url(url)
            self.postgresql = self.url.get_backend_name() == "postgresql"
            opened = self.url
            if self.url.get_backend_name() == "sqlite" and self.url.database not in (None, "", ":memory:"):
                if read_only:
                    there = f"file:{quote(str(self.url.database))}"
                    opened = self.url.set(database=there, query={"mode": "ro", "uri": "true"})
                else:
                    owned_file(Path(str(self.url.database)))
            options = {"pool_pre_ping": True, "connect_args": dict(_POSTGRESQL)} if self.postgresql else {}
            self.engine = sa.create_engine(opened, **options)
        except (exc.ArgumentError, ModuleNotFoundError, ValueError) as error:
            raise ConfigError(
                f"store URL {url!r} cannot be used: {error}; use sqlite:///PATH, "
                f"postgresql+psycopg://HOST/DB (its driver: pip install '{DISTRIBUTION}[postgresql]') or, for online "
                "and label store, redis://HOST:6379/0"
            ) from None
        self._file: SqliteFile | None = None
        if self.engine.dialect.name == "sqlite":
            event.listen(self.engine, "connect", _configure_sqlite_reader if read_only else _configure_sqlite)
            self._file = SqliteFile(self.engine)
        if self.postgresql:
            event.listen(self.engine, "connect", partial(_configure_postgresql, read_only=read_only))
        try:
            if read_only:
                with self._read() as connection:
                    self._require_owner(connection, owner)
                return
            with self._write() as connection:
                if self.postgresql:  # CREATE TABLE IF NOT EXISTS fails when two workers start at once
                    connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_CREATING_TABLES)))
                self._create(connection, metadata)
                if owner:
                    self._own(connection, owner)
        except (exc.SQLAlchemyError, self.engine.dialect.loaded_dbapi.Error) as error:
            said = " ".join(str(getattr(error, "orig", None) or error).split())
            remedy = "is it there, and are URL and login right?"
            if self._file is not None and any(words in said for words in _DAMAGED):
                remedy = "the file is damaged: restore it from a copy, or move it away to begin with an empty one"
            self.close()
            raise StoreError(f"{self.url.render_as_string()}: cannot be opened: {said}; {remedy}") from error
        except ConfigError:
            self.close()
            raise

    def _create(self, connection: sa.Connection, metadata: sa.MetaData) -> None:
        """Create what is missing; on SQLite by one question, where SQLAlchemy asks for each table."""
        if self.engine.dialect.name != "sqlite":
            return metadata.create_all(connection)
        there = set(connection.execute(sa.text("SELECT name FROM sqlite_master WHERE type = 'table'")).scalars())
        missing = [table for table in metadata.sorted_tables if table.name not in there]
        return metadata.create_all(connection, missing, checkfirst=False) if missing else None

    def _own(self, connection: sa.Connection, owner: str) -> None:
        _OWNER.metadata.create_all(connection)
        found = connection.execute(sa.select(_OWNER.c.project)).scalars().first()
        if found is None:
            connection.execute(sa.insert(_OWNER).values(project=owner))
        elif found != owner:
            raise self._of_another(found, owner)

    def _require_owner(self, connection: sa.Connection, owner: str) -> None:
        found = connection.execute(sa.select(_OWNER.c.project)).scalars().first() if owner else None
        if found is not None and found != owner:
            raise self._of_another(found, owner)

    def _of_another(self, found: str, owner: str) -> ConfigError:
        return ConfigError(
            f"{self.url.render_as_string()} belongs to project {found!r}, this is {owner!r}: its positions would "
            "be taken for ours; give each project a database of its own (PostgreSQL: or a schema, "
            "?options=-csearch_path%3DSCHEMA), or this one its old name"
        )

    @contextmanager
    def write(self) -> Iterator[sa.Connection]:
        """A transaction that will write.

        On SQLite it holds the write lock from its start. On PostgreSQL it sees what others commit meanwhile (READ
        COMMITTED): what must not be torn is one statement, or behind a row that this transaction has updated.

        Raises:
            StoreError: the database failed. If it did so while committing, whether it has is not known.
        """
        with self._failing(), self._write() as connection:
            yield connection

    def transact(self, work: Callable[[sa.Connection], T], committed: Callable[[], None] | None = None) -> T:
        """``work`` in a transaction that writes, done again when it met another one in a way that only one survives.

        ``committed`` is called after the commit; on SQLite before the next transaction of this object.

        Raises:
            StoreError: as :meth:`write`.
        """
        with self._failing():
            for _ in range(_ATTEMPTS - 1):
                try:
                    with self._write(committed) as connection:
                        return work(connection)
                except (exc.DBAPIError, self.engine.dialect.loaded_dbapi.Error) as error:
                    if getattr(getattr(error, "orig", error), "sqlstate", None) not in _AGAIN:
                        raise
            with self._write(committed) as connection:
                return work(connection)

    @contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """A transaction that only reads, from one consistent snapshot.

        Raises:
            StoreError: the database failed.
        """
        with self._failing(), self._read() as connection:
            yield connection

    def version(self) -> int | None:
        """A number that is another one once anyone but this object has committed; None where none is known.

        It costs some microseconds and no transaction. SQLite in a file has it.

        Raises:
            StoreError: the database failed.
        """
        if self._file is None:
            return None
        with self._failing():
            return self._file.others_commits()

    @contextmanager
    def _write(self, committed: Callable[[], None] | None = None) -> Iterator[sa.Connection]:
        if self._file is not None:
            with self._file.write(committed) as connection:
                yield connection
            return
        with self.engine.begin() as connection:
            yield connection
        if committed is not None:
            committed()

    @contextmanager
    def _read(self) -> Iterator[sa.Connection]:
        if self._file is not None:
            with self._file.read() as connection:
                yield connection
            return
        level: dict[str, Any] = {"isolation_level": "REPEATABLE READ"} if self.postgresql else {}
        with self.engine.connect().execution_options(**level) as connection, connection.begin():
            yield connection

    @contextmanager
    def _failing(self) -> Iterator[None]:
        # The driver's own errors come from `lookup.py` and `prepared.py`, which go past SQLAlchemy.
        try:
            yield
        except (exc.SQLAlchemyError, self.engine.dialect.loaded_dbapi.Error) as error:
            what = getattr(error, "orig", None) or error
            raise StoreError(
                f"{self.url.render_as_string()}: the database failed: {type(what).__name__}: {what}; a worker "
                "ends by this, and goes on from what is stored once the database answers"
            ) from error

    def insert(self, table: sa.Table) -> Any:
        """This dialect's INSERT, which knows ``on_conflict_do_update``."""
        if self.postgresql:
            from sqlalchemy.dialects import postgresql

            return postgresql.insert(table)
        from sqlalchemy.dialects import sqlite

        return sqlite.insert(table)

    def among(self, column: sa.Column[Any], name: str) -> sa.ColumnElement[bool]:
        """The condition that ``column`` is one of the values bound to ``name``, a list."""
        if self.postgresql:
            from sqlalchemy.dialects.postgresql import ARRAY

            return column == sa.func.any(sa.bindparam(name, type_=ARRAY(column.type)))
        return column.in_(sa.bindparam(name, expanding=True))

    def close(self) -> None:
        """Close all connections."""
        if self._file is not None:
            self._file.close()
        self.engine.dispose()


def _configure_sqlite(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # transactions are ours: the driver would begin them late
    for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "busy_timeout=30000"):
        connection.execute(f"PRAGMA {pragma}").close()


def _configure_sqlite_reader(connection: Any, _record: Any) -> None:
    connection.isolation_level = None
    connection.execute("PRAGMA busy_timeout=30000").close()


def _configure_postgresql(connection: Any, _record: Any, *, read_only: bool) -> None:
    if hasattr(connection, "adapters"):  # psycopg 3: arrays go as bytes, which is more than twice as fast as text
        from psycopg.types.array import ListBinaryDumper

        connection.adapters.register_dumper(list, ListBinaryDumper)
    # Not as libpq's "options": the URL may have those.
    for name, value in (("statement_timeout", _STATEMENT_TIMEOUT_MS), ("lock_timeout", _LOCK_TIMEOUT_MS)):
        connection.execute(f"SET {name} = {value}")
    if read_only:
        connection.execute("SET default_transaction_read_only = on")
    connection.commit()
