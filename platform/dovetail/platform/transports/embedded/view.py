"""The embedded log, to look at: read only, and also while another process has it open."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import quote

import numpy as np

from dovetail.platform.errors import TransportError
from dovetail.platform.stage import Poll
from dovetail.platform.transports.embedded.format import FORMAT, OFFSET_MASK, PartitionState
from dovetail.platform.transports.embedded.headers import decode_headers

__all__ = ["EmbeddedView"]

_RECORDS = 2_000


class EmbeddedView:
    """The log at ``path``, as it is at each call. One that is not there yet has no topics."""

    def __init__(self, path: Path) -> None:
        self._path = path

    async def __aenter__(self) -> EmbeddedView:
        return self

    async def __aexit__(self, *_: object) -> None:
        """There is nothing to release."""

    async def bounds(self, topic: str) -> Mapping[int, tuple[int, int]]:
        with self._reader() as connection:
            return {number: (p.start, p.end) for number, p in self._partitions(connection, topic).items()}

    async def read(self, topic: str, partition: int, offset: int) -> Poll | None:
        with self._reader() as connection:
            # One snapshot: retention may remove rows between two statements.
            connection.execute("BEGIN")
            found = self._partitions(connection, topic).get(partition)
            if found is None or (first := max(offset, found.start)) >= found.end:
                return None
            rows = connection.execute(
                "SELECT id, timestamp_ms, key, value, headers FROM message "
                "WHERE id BETWEEN ? AND ? ORDER BY id LIMIT ?",
                (found.rowid(first), found.rowid(found.end - 1), _RECORDS),
            ).fetchall()
        ids, stamps, keys, values, headers = zip(*rows, strict=True)
        return Poll(
            topic,
            partition,
            np.array(ids, dtype=np.int64) & OFFSET_MASK,
            np.array(stamps, dtype=np.int64),
            keys,
            values,
            [decode_headers(encoded) for encoded in headers],
        )

    @contextmanager
    def _reader(self) -> Iterator[sqlite3.Connection]:
        """A connection for one look: one kept open would keep SQLite from clearing what it has written ahead."""
        if not self._path.exists():
            with closing(sqlite3.connect(":memory:")) as nothing:
                nothing.execute("CREATE TABLE partition (id, start, end, written, newest_ms, topic, number)")
                yield nothing
            return
        try:
            uri = f"file:{quote(str(self._path))}?mode=ro"
            with closing(sqlite3.connect(uri, uri=True, isolation_level=None)) as connection:
                version = connection.execute("PRAGMA user_version").fetchone()[0]
                if version != FORMAT:
                    raise TransportError(f"{self._path} is not an embedded log of format {FORMAT} (found {version})")
                yield connection
        except sqlite3.Error as error:
            raise TransportError(f"cannot read the embedded log {self._path}: {error}") from error

    @staticmethod
    def _partitions(connection: sqlite3.Connection, topic: str) -> dict[int, PartitionState]:
        query = 'SELECT number, id, start, "end", written, newest_ms FROM partition WHERE topic = ?'
        return {number: PartitionState(*state) for number, *state in connection.execute(query, (topic,))}
