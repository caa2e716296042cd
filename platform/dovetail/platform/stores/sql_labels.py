"""The label store on a SQL database."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pyarrow as pa
import pyarrow.compute as pc
import sqlalchemy as sa

from dovetail.platform.accounts import READ, Account
from dovetail.platform.stores.engine import Database
from dovetail.platform.stores.labels import (
    KEY,
    LABEL_ROWS,
    ORDER,
    LabelStore,
    earliest_per_key,
    joined_keys,
    retired_accounts,
    with_retired,
)
from dovetail.platform.stores.ledger import Ledger, Progress

__all__ = ["SqlLabelStore"]

_REQUESTS_PER_QUERY = 5_000


class SqlLabelStore(LabelStore):
    """The label store on a SQL database: SQLite when embedded, PostgreSQL otherwise."""

    def __init__(self, url: str) -> None:
        metadata = sa.MetaData()
        self._ledger = Ledger(metadata)
        self._labels = sa.Table(
            "labels",
            metadata,
            *(sa.Column(name, sa.Text, primary_key=True) for name in KEY),
            *(sa.Column(name, sa.BigInteger, nullable=False) for name in ORDER),
            sa.Column("outcome", sa.Text, nullable=False, server_default="pending"),
            sa.Index("labels_by_effect", "effective_us"),
            sqlite_with_rowid=False,
        )
        self._database = Database(url, metadata)
        columns = self._labels.c
        self._lookup = sa.select(*(columns[name] for name in (*KEY, *ORDER))).where(
            columns.request_id.in_(sa.bindparam("requests", expanding=True))
        )
        insert = self._database.insert(self._labels)
        earlier = sa.tuple_(*(insert.excluded[name] for name in ORDER)) < sa.tuple_(*(columns[name] for name in ORDER))
        self._upsert = insert.on_conflict_do_update(
            index_elements=KEY, set_={name: insert.excluded[name] for name in ORDER}, where=earlier
        )
        self._counted = sa.select(columns.kind, columns.outcome, sa.func.count()).group_by(
            columns.kind, columns.outcome
        )
        self._mark = (
            sa.update(self._labels)
            .where(*(columns[name] == sa.bindparam(f"at_{name}") for name in KEY))
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
        late: int = 0,
        unattributed: int = 0,
    ) -> None:
        first = earliest_per_key(rows)
        with self._database.write() as connection:
            self._ledger.advance(connection, scope, partition, expected=expected, progress=progress)
            new = 0
            if first.num_rows:
                known = self._select(connection, pc.unique(first.column("request_id")).to_pylist())
                new = first.num_rows - pc.sum(pc.is_in(joined_keys(first, KEY), joined_keys(known, KEY))).as_py()
                connection.execute(self._upsert, first.to_pylist())
            counts = {
                READ: rows.num_rows + dead + late + unattributed,
                "late": late,
                "unattributed": unattributed,
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
                renamed = outcomes.select([*KEY, "outcome"]).rename_columns(
                    [f"at_{name}" for name in KEY] + ["to_outcome"]
                )
                connection.execute(self._mark, renamed.to_pylist())
            self._ledger.credit(connection, self._database, accounts)

    def retire(self, before_us: int, limit: int = 50_000) -> int:
        effective = self._labels.c.effective_us
        nth = sa.select(effective).where(effective < before_us).order_by(effective).limit(1).offset(limit - 1)
        with self._database.write() as connection:
            last = connection.execute(nth).scalar_one_or_none()
            leaving = effective < before_us if last is None else effective <= last
            found = connection.execute(self._counted.where(leaving))
            counts = {(kind, outcome): rows for kind, outcome, rows in found}
            if counts:
                connection.execute(sa.delete(self._labels).where(leaving))
                self._ledger.credit(connection, self._database, retired_accounts(counts))
        return sum(counts.values())

    def rows(self) -> int:
        with self._database.read() as connection:
            return int(connection.execute(sa.select(sa.func.count()).select_from(self._labels)).scalar_one())

    def outcomes(self) -> dict[tuple[str, str], int]:
        with self._database.read() as connection:
            held = {(kind, outcome): rows for kind, outcome, rows in connection.execute(self._counted)}
            return with_retired(held, self._ledger.accounts(connection))

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
