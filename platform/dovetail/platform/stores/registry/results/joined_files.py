"""The files that a join has made in a folder: which they are, and which of them are still to be put in place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import sqlalchemy as sa

from dovetail.platform.stores.sql.database import Database

__all__ = ["JoinLog", "JoinedFile", "JoinedFileTable"]


class JoinedFile(NamedTuple):
    """A file of samples, ``rows`` of them, at ``path`` below the folder of a join.

    With a ``draft``, the file of that name beside it is the one that counts, and is to be put in its place. Without
    rows, whatever is at ``path`` is to be removed.
    """

    path: str
    rows: int
    draft: str = ""

    @property
    def settled(self) -> bool:
        """Whether nothing is to be done about it."""
        return self.rows > 0 and not self.draft


class JoinedFileTable:
    """The table, declared in the registry's metadata."""

    def __init__(self, metadata: sa.MetaData) -> None:
        self._files = sa.Table(
            "joined_files",
            metadata,
            sa.Column("out", sa.Text, primary_key=True),
            sa.Column("path", sa.Text, primary_key=True),
            sa.Column("rows", sa.BigInteger, nullable=False),
            sa.Column("draft", sa.Text, nullable=False),
        )

    def of(self, connection: sa.Connection, out: str) -> list[JoinedFile]:
        """The files of ``out``, by path."""
        columns = self._files.c
        mine = sa.select(columns.path, columns.rows, columns.draft).where(columns.out == out).order_by(columns.path)
        return [JoinedFile(*row) for row in connection.execute(mine)]

    def unsettled(self, connection: sa.Connection) -> list[str]:
        """The folders with files that something is to be done about."""
        columns = self._files.c
        wanted = sa.select(columns.out).where((columns.rows == 0) | (columns.draft != "")).distinct()
        return list(connection.execute(wanted.order_by(columns.out)).scalars())

    def replace(self, connection: sa.Connection, out: str, files: Sequence[JoinedFile]) -> None:
        """Put ``files`` in the place of all that are known of ``out``."""
        connection.execute(sa.delete(self._files).where(self._files.c.out == out))
        if files:
            connection.execute(sa.insert(self._files), [{"out": out, **file._asdict()} for file in files])


class JoinLog:
    """The joins of a registry. Thread-safe."""

    def __init__(self, table: JoinedFileTable, database: Database) -> None:
        self._table, self._database = table, database

    def files(self, out: str) -> list[JoinedFile]:
        """The files that joins into ``out`` have made, by path."""
        with self._database.read() as connection:
            return self._table.of(connection, out)

    def unsettled(self) -> list[str]:
        """The folders in which files are still to be put in place or removed: a driver was ended on the way."""
        with self._database.read() as connection:
            return self._table.unsettled(connection)

    def replace(self, out: str, known: Sequence[JoinedFile], files: Sequence[JoinedFile]) -> bool:
        """Let ``files`` be what counts in ``out``, all or none, where :meth:`files` still gives what is ``known``.

        Returns:
            Whether it does; if not, nothing was changed.
        """

        def work(connection: sa.Connection) -> bool:
            if self._database.postgresql:  # a folder without files has no row that could be held
                held = sa.func.hashtext("joined_files"), sa.func.hashtext(out)
                connection.execute(sa.select(sa.func.pg_advisory_xact_lock(*held)))
            if self._table.of(connection, out) != list(known):
                return False
            self._table.replace(connection, out, files)
            return True

        return self._database.transact(work)
