"""Requests by their id, remembered for those that come again; a table of the registry.

The registry puts its changes into the transaction that moves the position of whoever reads the requests. An id is kept
as a hash of 128 bits: whatever its length, and however many there are, a row is small.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import sqlalchemy as sa

from dovetail.platform.stores.sql.bulk import Upsert, columns_of
from dovetail.platform.stores.sql.database import Database

__all__ = ["RememberedRequest", "RememberedTable", "RequestMemory"]

_IDS_PER_QUERY = 5_000


class RememberedRequest(NamedTuple):
    """A request read at ``(offset, row)`` of its partition and known of at ``known_us`` (µs): answered, or refused."""

    known_us: int
    offset: int
    row: int
    answered: bool


class RequestMemory(NamedTuple):
    """A change: ``requests`` by id are remembered in place of older ones, those from before ``before_us`` forgotten."""

    requests: Mapping[str, RememberedRequest]
    before_us: int


class RememberedTable:
    """The table, declared in the registry's metadata."""

    def __init__(self, metadata: sa.MetaData) -> None:
        self._table = sa.Table(
            "remembered_requests",
            metadata,
            sa.Column("partition", sa.Integer, primary_key=True, autoincrement=False),
            sa.Column("request", sa.Text, primary_key=True),
            sa.Column("known_us", sa.BigInteger, nullable=False),
            sa.Column("offset", sa.BigInteger, nullable=False),
            sa.Column("row", sa.Integer, nullable=False),
            sa.Column("answered", sa.Integer, nullable=False),
            sa.Index("remembered_by_time", "partition", "known_us"),
        )
        self._upsert: Upsert | None = None

    def change(self, connection: sa.Connection, database: Database, partition: int, change: RequestMemory) -> None:
        """Remember and forget requests of a partition."""
        columns = self._table.c
        gone = sa.delete(self._table).where(columns.partition == partition, columns.known_us < change.before_us)
        connection.execute(gone)
        if not change.requests:
            return
        if self._upsert is None:
            upsert = Upsert(database, self._table)
            self._upsert = upsert.replacing({name: upsert.excluded[name] for name in RememberedRequest._fields})
        rows = list(change.requests.values())
        values = columns_of(rows)
        values["partition"] = [partition] * len(rows)
        values["request"] = [_key(name) for name in change.requests]
        values["answered"] = [int(request.answered) for request in rows]
        self._upsert.execute(connection, values)

    def of(self, connection: sa.Connection, partition: int, ids: Sequence[str]) -> dict[str, RememberedRequest]:
        """Those of ``ids`` that are remembered of a partition."""
        columns = self._table.c
        by_key = {_key(name): name for name in ids}
        keys, found = list(by_key), {}
        for start in range(0, len(keys), _IDS_PER_QUERY):
            part = keys[start : start + _IDS_PER_QUERY]
            asked = sa.select(columns.request, *(columns[name] for name in RememberedRequest._fields)).where(
                columns.partition == partition, columns.request.in_(part)
            )
            for key, known_us, offset, row, answered in connection.execute(asked):
                found[by_key[key]] = RememberedRequest(known_us, offset, row, bool(answered))
        return found


def _key(request_id: str) -> str:
    return hashlib.blake2b(request_id.encode(errors="surrogatepass"), digest_size=16).hexdigest()
