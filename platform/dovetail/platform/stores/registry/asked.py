"""Requests by user, remembered for labels that name user and item but no request.

One row per request, its candidates' items as one text; a table only, the registry puts its changes into the
transaction that moves the position of whoever reads the requests.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import sqlalchemy as sa

from dovetail.platform.stores.sql.keys import by_stored, escaped, storable, unescaped

__all__ = ["ASKED", "ITEM_SEPARATOR", "AskedTable"]

#: Between the items of a request, which do not contain it.
ITEM_SEPARATOR = "\x1f"
#: A request remembered. ``known_us``: when the stream knew of it (see ``dovetail.joiners.attribution``). Times in µs.
ASKED = pa.schema(
    [
        pa.field("user_id", pa.string(), nullable=False),
        pa.field("request_time_us", pa.int64(), nullable=False),
        pa.field("partition", pa.int32(), nullable=False),
        pa.field("offset", pa.int64(), nullable=False),
        pa.field("row", pa.int32(), nullable=False),
        pa.field("known_us", pa.int64(), nullable=False),
        pa.field("request_id", pa.string(), nullable=False),
        pa.field("items", pa.string(), nullable=False),
    ]
)
_USERS_PER_QUERY = 5_000


class AskedTable:
    """The table, declared in the registry's metadata."""

    def __init__(self, metadata: sa.MetaData) -> None:
        types = {pa.string(): sa.Text, pa.int64(): sa.BigInteger, pa.int32(): sa.Integer}
        key = ("user_id", "request_time_us", "partition", "offset", "row")
        self._table = sa.Table(
            "asked",
            metadata,
            *(
                sa.Column(f.name, types[f.type], primary_key=f.name in key, autoincrement=False, nullable=False)
                for f in ASKED
            ),
            # Not WITHOUT ROWID: in SQLite, rows as wide as these would spill over to pages of their own.
            sa.Index("asked_by_time", "request_time_us"),
        )
        columns = self._table.c
        self._of_users = sa.select(*(columns[name] for name in ASKED.names)).where(
            columns.user_id.in_(sa.bindparam("users", expanding=True)),
            columns.request_time_us.between(sa.bindparam("low"), sa.bindparam("high")),
        )

    def add(self, connection: sa.Connection, rows: pa.Table) -> None:
        """Remember requests (ASKED)."""
        if rows.num_rows:
            given = rows.to_pylist()
            if connection.dialect.name == "postgresql":
                written = {"user_id": storable, "request_id": escaped, "items": escaped}
                given = [row | {name: write(row[name]) for name, write in written.items()} for row in given]
            connection.execute(sa.insert(self._table), given)

    def of_users(self, connection: sa.Connection, users: Sequence[str], low_us: int, high_us: int) -> pa.Table:
        """The requests (ASKED) of these users with ``low_us <= request time <= high_us``, in no particular order."""
        parts = []
        for start in range(0, len(users), _USERS_PER_QUERY):
            part = list(users[start : start + _USERS_PER_QUERY])
            stored = connection.dialect.name == "postgresql"
            names = [storable(user) for user in part] if stored else part
            rows = connection.execute(self._of_users, {"users": names, "low": low_us, "high": high_us}).all()
            columns: list[Sequence[Any]] = list(zip(*rows, strict=True)) or [()] * len(ASKED)
            if stored:
                other = by_stored(part, columns[0])
                columns[0] = [other.get(user, user) for user in columns[0]]
                columns[-2:] = [[unescaped(text) for text in column] for column in columns[-2:]]
            arrays = [pa.array(column, type=field.type) for column, field in zip(columns, ASKED, strict=True)]
            parts.append(pa.Table.from_arrays(arrays, schema=ASKED))
        return pa.concat_tables(parts) if parts else ASKED.empty_table()

    def forget(self, connection: sa.Connection, before_us: int) -> int:
        """Forget requests older than that; returns how many."""
        return int(connection.execute(sa.delete(self._table).where(self._table.c.request_time_us < before_us)).rowcount)
