"""Work that two processes must not do at once, behind a lock of the database that ends with its holder."""

from __future__ import annotations

import fcntl
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy import exc

from dovetail.platform.errors import StoreError
from dovetail.platform.stores.sql.database import Database

__all__ = ["alone"]


@contextmanager
def alone(database: Database, purpose: str) -> Iterator[None]:
    """Hold the database's lock for ``purpose``, a short word; does not wait for it.

    On PostgreSQL it is an advisory lock of the schema that a connection of its own holds, on SQLite a lock on a file
    beside the database's, which stays. A database in memory has no second process.

    Raises:
        StoreError: another process holds it, or the database failed.
    """
    if database.postgresql:
        with _schema_locked(database, purpose):
            yield
    elif database.url.database in (None, "", ":memory:"):
        yield
    else:
        with _file_locked(Path(str(database.url.database)), purpose):
            yield


@contextmanager
def _schema_locked(database: Database, purpose: str) -> Iterator[None]:
    number = zlib.crc32(purpose.encode()) - (1 << 31)  # a signed integer of 32 bits
    lock = (sa.literal(number, sa.Integer), sa.func.hashtext(sa.func.current_schema()))
    try:
        with database.engine.connect() as connection:
            if not connection.execute(sa.select(sa.func.pg_try_advisory_lock(*lock))).scalar():
                raise _held(purpose)
            connection.commit()
            try:
                yield
            finally:
                connection.execute(sa.select(sa.func.pg_advisory_unlock(*lock)))
    except exc.SQLAlchemyError as error:
        raise StoreError(f"{database.url.render_as_string()}: the database failed: {error}") from error


@contextmanager
def _file_locked(path: Path, purpose: str) -> Iterator[None]:
    with path.with_name(f"{path.name}.{purpose}.lock").open("a") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise _held(purpose) from None
        yield


def _held(purpose: str) -> StoreError:
    return StoreError(f"another process does the same with this registry now ({purpose}): wait until it has ended")
