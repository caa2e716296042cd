"""The label store: label rows by ``(request_id, item_id, kind)``, inserted before their snapshot is known.

Each row keeps one event of its kind: the one with the smallest *effective time*, ties decided by position. The
effective time of a label is when the stream knew of it: its event time, or, when it came later than its partition's
clock allowed, just after that clock. A label counts for a request when its effective time is within the window, which
depends on the log alone and not on who read what first; and a minimum does not mind order or repetition.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import sqlalchemy as sa

from dovetail.platform.accounts import READ, Account
from dovetail.platform.stores.engine import Database
from dovetail.platform.stores.ledger import Ledger, Progress

__all__ = ["LABEL_ROWS", "LabelStore", "SqlLabelStore", "earliest_per_key", "joined_keys"]

#: A label row. ``item_id`` is the item's value as text; times are microseconds since 1970-01-01 UTC.
LABEL_ROWS = pa.schema(
    [
        pa.field("request_id", pa.string(), nullable=False),
        pa.field("item_id", pa.string(), nullable=False),
        pa.field("kind", pa.string(), nullable=False),
        pa.field("effective_us", pa.int64(), nullable=False),
        pa.field("event_time_us", pa.int64(), nullable=False),
        pa.field("partition", pa.int32(), nullable=False),
        pa.field("offset", pa.int64(), nullable=False),
        pa.field("row", pa.int32(), nullable=False),
    ]
)
_KEY = ["request_id", "item_id", "kind"]
_ORDER = ["effective_us", "event_time_us", "partition", "offset", "row"]
_REQUESTS_PER_QUERY = 5_000
_SEPARATOR = "\x1f"


def joined_keys(table: pa.Table, columns: Sequence[str]) -> pa.Array:
    """The key columns of each row as one string, to be looked up in those of another table."""
    parts = [table.column(name).cast(pa.string()) for name in columns]
    joined = pc.binary_join_element_wise(*parts, _SEPARATOR)
    return joined.combine_chunks() if isinstance(joined, pa.ChunkedArray) else joined


def earliest_per_key(rows: pa.Table) -> pa.Table:
    """One row per key of ``rows`` (LABEL_ROWS): the first by effective time, event time and position."""
    if rows.num_rows == 0:
        return rows
    ordered = rows.sort_by([(name, "ascending") for name in (*_KEY, *_ORDER)]).combine_chunks()
    changes = np.zeros(ordered.num_rows, dtype=np.bool_)
    changes[0] = True
    for name in _KEY:
        column = ordered.column(name).chunk(0)
        changes[1:] |= np.asarray(pc.not_equal(column[1:], column[:-1]).to_numpy(zero_copy_only=False))
    return ordered.filter(pa.array(changes))


class LabelStore(ABC):
    """Label rows with the compare-and-set commit. Safe for use from several threads."""

    @abstractmethod
    def progress(self, scope: str) -> Mapping[int, Progress]:
        """How far the reader ``scope`` has come, by partition."""

    @abstractmethod
    def lookup(self, request_ids: Sequence[str]) -> pa.Table:
        """The label rows (LABEL_ROWS) of these requests, in no particular order."""

    @abstractmethod
    def insert(
        self,
        scope: str,
        partition: int,
        *,
        expected: int,
        progress: Progress,
        rows: pa.Table,
        topic: str,
        dead: int = 0,
    ) -> None:
        """Insert or merge label rows and move the reader's position, all or nothing; credit the accounts.

        A row whose key is already known, from this call or an earlier one, is a ``duplicate``; the first of its key is
        ``inserted``; ``dead`` messages could not be read.

        Raises:
            StaleCommit: the stored position is not the expected one.
        """

    @abstractmethod
    def mark(
        self,
        scope: str,
        partition: int,
        *,
        expected: int,
        progress: Progress,
        outcomes: pa.Table,
        accounts: Sequence[Account],
    ) -> None:
        """Update label rows by key with what became of them, and move the reader's position, all or nothing.

        ``outcomes`` has string columns request_id, item_id, kind, outcome.

        Raises:
            StaleCommit: the stored position is not the expected one.
        """

    @abstractmethod
    def outcomes(self) -> dict[tuple[str, str], int]:
        """Number of label rows by (kind, outcome); a row not yet met by its snapshot is ``pending``."""

    @abstractmethod
    def accounts(self) -> list[Account]:
        """The accounts kept with this store."""

    @abstractmethod
    def close(self) -> None:
        """Release connections."""


class SqlLabelStore(LabelStore):
    """The label store on a SQL database: SQLite when embedded, PostgreSQL otherwise."""

    def __init__(self, url: str) -> None:
        metadata = sa.MetaData()
        self._ledger = Ledger(metadata)
        self._labels = sa.Table(
            "labels",
            metadata,
            *(sa.Column(name, sa.Text, primary_key=True) for name in _KEY),
            *(sa.Column(name, sa.BigInteger, nullable=False) for name in _ORDER),
            sa.Column("outcome", sa.Text, nullable=False, server_default="pending"),
            sqlite_with_rowid=False,
        )
        self._database = Database(url, metadata)
        columns = self._labels.c
        self._lookup = sa.select(*(columns[name] for name in (*_KEY, *_ORDER))).where(
            columns.request_id.in_(sa.bindparam("requests", expanding=True))
        )
        insert = self._database.insert(self._labels)
        earlier = sa.tuple_(*(insert.excluded[name] for name in _ORDER)) < sa.tuple_(
            *(columns[name] for name in _ORDER)
        )
        self._upsert = insert.on_conflict_do_update(
            index_elements=_KEY, set_={name: insert.excluded[name] for name in _ORDER}, where=earlier
        )
        self._mark = (
            sa.update(self._labels)
            .where(*(columns[name] == sa.bindparam(f"at_{name}") for name in _KEY))
            .values(outcome=sa.bindparam("to_outcome"))
        )

    def progress(self, scope: str) -> Mapping[int, Progress]:
        with self._database.read() as connection:
            return self._ledger.progress(connection, scope)

    def lookup(self, request_ids: Sequence[str]) -> pa.Table:
        with self._database.read() as connection:
            return self._select(connection, request_ids)

    def insert(
        self,
        scope: str,
        partition: int,
        *,
        expected: int,
        progress: Progress,
        rows: pa.Table,
        topic: str,
        dead: int = 0,
    ) -> None:
        first = earliest_per_key(rows)
        with self._database.write() as connection:
            self._ledger.advance(connection, scope, partition, expected=expected, progress=progress)
            new = 0
            if first.num_rows:
                known = self._select(connection, pc.unique(first.column("request_id")).to_pylist())
                new = first.num_rows - pc.sum(pc.is_in(joined_keys(first, _KEY), joined_keys(known, _KEY))).as_py()
                connection.execute(self._upsert, first.to_pylist())
            counts = {
                READ: rows.num_rows + dead,
                "inserted": new,
                "duplicate": rows.num_rows - new,
                "dead_letter": dead,
            }
            accounts = [Account(scope, topic, partition, outcome, n) for outcome, n in counts.items()]
            self._ledger.credit(connection, self._database, accounts)

    def mark(
        self,
        scope: str,
        partition: int,
        *,
        expected: int,
        progress: Progress,
        outcomes: pa.Table,
        accounts: Sequence[Account],
    ) -> None:
        with self._database.write() as connection:
            self._ledger.advance(connection, scope, partition, expected=expected, progress=progress)
            if outcomes.num_rows:
                renamed = outcomes.select([*_KEY, "outcome"]).rename_columns(
                    [f"at_{name}" for name in _KEY] + ["to_outcome"]
                )
                connection.execute(self._mark, renamed.to_pylist())
            self._ledger.credit(connection, self._database, accounts)

    def outcomes(self) -> dict[tuple[str, str], int]:
        columns = self._labels.c
        counted = sa.select(columns.kind, columns.outcome, sa.func.count()).group_by(columns.kind, columns.outcome)
        with self._database.read() as connection:
            return {(kind, outcome): rows for kind, outcome, rows in connection.execute(counted)}

    def accounts(self) -> list[Account]:
        with self._database.read() as connection:
            return self._ledger.accounts(connection)

    def close(self) -> None:
        self._database.close()

    def _select(self, connection: sa.Connection, request_ids: Sequence[str]) -> pa.Table:
        parts = []
        for start in range(0, len(request_ids), _REQUESTS_PER_QUERY):
            part = list(request_ids[start : start + _REQUESTS_PER_QUERY])
            rows = connection.execute(self._lookup, {"requests": part}).all()
            columns = list(zip(*rows, strict=True)) or [()] * len(LABEL_ROWS)
            arrays = [pa.array(column, type=field.type) for column, field in zip(columns, LABEL_ROWS, strict=True)]
            parts.append(pa.Table.from_arrays(arrays, schema=LABEL_ROWS))
        return pa.concat_tables(parts) if parts else LABEL_ROWS.empty_table()
