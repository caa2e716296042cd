"""Requests by their id, remembered for those that come again; tables of the registry.

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
    """A change: ``requests`` by id are remembered in place of older ones, those from before ``before_us`` forgotten.

    ``scene``: whose they are; empty for the one without a name.
    """

    requests: Mapping[str, RememberedRequest]
    before_us: int
    scene: str = ""


class RememberedTable:
    """The tables, declared in the registry's metadata: one of the scene without a name, and one of all others."""

    def __init__(self, metadata: sa.MetaData) -> None:
        scene = sa.Column("scene", sa.String(255), primary_key=True)
        self._plain = _table("remembered_requests", "remembered_by_time", metadata)
        self._scened = _table("remembered_of_scenes", "remembered_of_scenes_by_time", metadata, scene)
        self._upserts: dict[sa.Table, Upsert] = {}

    def change(self, connection: sa.Connection, database: Database, partition: int, change: RequestMemory) -> None:
        """Remember and forget requests of a partition."""
        table, mine = self._of(change.scene, partition)
        connection.execute(sa.delete(table).where(*mine, table.c.known_us < change.before_us))
        if not change.requests:
            return
        if table not in self._upserts:
            upsert = Upsert(database, table)
            fields = {name: upsert.excluded[name] for name in RememberedRequest._fields}
            self._upserts[table] = upsert.replacing(fields)
        rows = list(change.requests.values())
        values = columns_of(rows)
        values["partition"] = [partition] * len(rows)
        values["request"] = [_key(name) for name in change.requests]
        values["answered"] = [int(request.answered) for request in rows]
        if change.scene:
            values["scene"] = [change.scene] * len(rows)
        self._upserts[table].execute(connection, values)

    def of(
        self, connection: sa.Connection, partition: int, ids: Sequence[str], scene: str = ""
    ) -> dict[str, RememberedRequest]:
        """Those of ``ids`` that are remembered of a partition of a scene."""
        table, mine = self._of(scene, partition)
        by_key = {_key(name): name for name in ids}
        keys, found = list(by_key), {}
        for start in range(0, len(keys), _IDS_PER_QUERY):
            part = keys[start : start + _IDS_PER_QUERY]
            fields = (table.c[name] for name in RememberedRequest._fields)
            asked = sa.select(table.c.request, *fields).where(*mine, table.c.request.in_(part))
            for key, known_us, offset, row, answered in connection.execute(asked):
                found[by_key[key]] = RememberedRequest(known_us, offset, row, bool(answered))
        return found

    def _of(self, scene: str, partition: int) -> tuple[sa.Table, list[sa.ColumnElement[bool]]]:
        """The table of a scene, and which rows of it are of the partition."""
        if not scene:
            return self._plain, [self._plain.c.partition == partition]
        return self._scened, [self._scened.c.scene == scene, self._scened.c.partition == partition]


def _table(name: str, index: str, metadata: sa.MetaData, *scene: sa.Column[str]) -> sa.Table:
    return sa.Table(
        name,
        metadata,
        *scene,
        sa.Column("partition", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("request", sa.Text, primary_key=True),
        sa.Column("known_us", sa.BigInteger, nullable=False),
        sa.Column("offset", sa.BigInteger, nullable=False),
        sa.Column("row", sa.Integer, nullable=False),
        sa.Column("answered", sa.Integer, nullable=False),
        sa.Index(index, *(column.name for column in scene), "partition", "known_us"),
    )


def _key(request_id: str) -> str:
    return hashlib.blake2b(request_id.encode(errors="surrogatepass"), digest_size=16).hexdigest()
