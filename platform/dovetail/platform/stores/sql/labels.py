"""The label store on a SQL database."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import sqlalchemy as sa

from dovetail.platform.rows.accounts import READ, Account
from dovetail.platform.rows.positions import Progress
from dovetail.platform.stores.labels import (
    EVENT_KEY,
    KEY,
    LABEL_EVENTS,
    LABEL_ROWS,
    ORDER,
    PENDING,
    LabelStore,
    as_table,
    earliest_per_key,
    first_per_key,
    let_go_accounts,
    repeated_accounts,
    retired_accounts,
    stand_ins,
    with_retired,
)
from dovetail.platform.stores.sql.bulk import Upsert, rows_as_arrays
from dovetail.platform.stores.sql.committed import Committed
from dovetail.platform.stores.sql.database import Database, scheme_of
from dovetail.platform.stores.sql.keys import by_stored, storable
from dovetail.platform.stores.sql.ledger import Ledger
from dovetail.platform.stores.sql.lookup import Lookup
from dovetail.platform.stores.sql.prepared import Prepared

__all__ = ["SqlLabelStore"]

#: The parts of a key that come from outside.
_TEXTS = ("request_id", "item_id")


class _Tables:
    """The store's tables, of no database."""

    def __init__(self) -> None:
        self.metadata = metadata = sa.MetaData()
        self.ledger = Ledger(metadata)
        self.labels = sa.Table(
            "labels",
            metadata,
            *(sa.Column(name, sa.Text, primary_key=True) for name in KEY),
            *(sa.Column(name, sa.BigInteger, nullable=False) for name in ORDER),
            sa.Column("outcome", sa.Text, nullable=False, server_default=PENDING),
            sa.Index("labels_by_effect", "effective_us"),
            sqlite_with_rowid=False,
        )
        self.events = sa.Table(
            "label_events",
            metadata,
            *(sa.Column(name, sa.Text, primary_key=True) for name in KEY),
            *(sa.Column(name, sa.BigInteger, primary_key=True) for name in EVENT_KEY[len(KEY) :]),
            sa.Column("effective_us", sa.BigInteger, nullable=False),
            sa.Column("event_time_us", sa.BigInteger, nullable=False),
            sa.Column("payload", sa.Text),
            sa.Index("label_events_by_effect", "effective_us"),
            sqlite_with_rowid=False,
        )


@cache
def _tables(scheme: str) -> _Tables:
    """Declared once for all databases of a kind."""
    del scheme
    return _Tables()


class SqlLabelStore(LabelStore):
    """The label store on a SQL database: SQLite when embedded, PostgreSQL otherwise."""

    def __init__(self, url: str, owner: str = "", *, read_only: bool = False) -> None:
        tables = _tables(scheme_of(url))
        self._ledger, self._labels, self._events = tables.ledger, tables.labels, tables.events
        self._database = Database(url, tables.metadata, owner, read_only=read_only)
        self._committed = Committed(self._database, self._ledger)
        columns = self._labels.c
        selected = [columns[name] for name in (*KEY, *ORDER)]
        self._lookup = Lookup(self._database, selected, among=columns.request_id, fixed=None)
        events = [self._events.c[name] for name in LABEL_EVENTS.names]
        self._lookup_events = Lookup(self._database, events, among=self._events.c.request_id, fixed=None)
        self._insert = Upsert(self._database, self._labels)
        self._keep = Upsert(self._database, self._events)
        upsert = Upsert(self._database, self._labels)
        mine, theirs = (sa.tuple_(*(side[name] for name in ORDER)) for side in (upsert.excluded, columns))
        self._merge = upsert.replacing({name: upsert.excluded[name] for name in ORDER}, where=mine < theirs)
        self._counted = sa.select(columns.kind, columns.outcome, sa.func.count()).group_by(
            columns.kind, columns.outcome
        )
        self._mark = Prepared(self._marking())
        self._lock = Prepared(self._locking() if self._database.postgresql else None)

    def progress(self, scope: str) -> Mapping[int, Progress]:
        return self._committed.progress(scope)

    def lookup(self, request_ids: Sequence[str]) -> pa.Table:
        with self._database.read() as connection:
            return self._select(connection, request_ids)

    def lookup_events(self, request_ids: Sequence[str]) -> pa.Table:
        with self._database.read() as connection:
            return self._select_events(connection, request_ids)

    def lookup_both(self, request_ids: Sequence[str]) -> tuple[pa.Table, pa.Table]:
        with self._database.read() as connection:
            return self._select(connection, request_ids), self._select_events(connection, request_ids)

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
        repeated: int = 0,
        events: pa.Table | None = None,
    ) -> None:
        first = earliest_per_key(rows)

        def work(connection: sa.Connection) -> None:
            new, known = self._put(connection, first, keep_known=events is None)
            alone = stand_ins(pa.concat_tables([rows.cast(LABEL_ROWS), known])) if events is None else events
            kept = []
            if alone.num_rows:
                put = self._keep.execute(connection, self._stored_columns(alone, LABEL_EVENTS.names))
                kept = [Account(f"{scope}.kept", topic, partition, outcome, put) for outcome in (READ, "kept")]
            counts = {
                READ: rows.num_rows + dead + late + unattributed + repeated,
                "late": late,
                "unattributed": unattributed,
                "inserted": new,
                "duplicate": rows.num_rows - new + repeated,
                "dead_letter": dead,
            }
            accounts = [Account(scope, topic, partition, outcome, n) for outcome, n in counts.items()]
            self._ledger.credit(connection, self._database, [*accounts, *kept])

        self._committed.transact(scope, partition, expected, progress, work)

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
        first = first_per_key(outcomes).sort_by([(name, "ascending") for name in KEY])

        def work(connection: sa.Connection) -> None:
            repeated = Counter(_of_each(outcomes))
            if outcomes.num_rows:
                repeated.subtract(self._mark_rows(connection, first))
            again = repeated_accounts(partition, repeated)
            self._ledger.credit(connection, self._database, [*accounts, *again])

        self._committed.transact(scope, partition, expected, progress, work)

    def retire(self, before_us: int, limit: int = 50_000) -> int:
        effective = self._labels.c.effective_us
        nth = sa.select(effective).where(effective < before_us).order_by(effective).limit(1).offset(limit - 1)

        def work(connection: sa.Connection) -> int:
            last = connection.execute(nth).scalar_one_or_none()
            gone = self._events.c.effective_us
            let_go = self._let_go(connection, gone < before_us if last is None else gone <= last)
            counts = self._remove(connection, effective < before_us if last is None else effective <= last)
            accounts = [*retired_accounts(counts), *let_go_accounts(let_go)]
            self._ledger.credit(connection, self._database, accounts)
            return sum(counts.values())

        return self._database.transact(work)

    def rows(self) -> int:
        with self._database.read() as connection:
            return int(connection.execute(sa.select(sa.func.count()).select_from(self._labels)).scalar_one())

    def events(self) -> Mapping[str, int]:
        kind = self._events.c.kind
        with self._database.read() as connection:
            rows = connection.execute(sa.select(kind, sa.func.count()).group_by(kind))
            return {name: held for name, held in rows}  # noqa: C416  (rows are no pairs to dict)

    def outcomes(self) -> dict[tuple[str, str], int]:
        with self._database.read() as connection:
            held = {(kind, outcome): rows for kind, outcome, rows in connection.execute(self._counted)}
            return with_retired(held, self._ledger.accounts(connection))

    def accounts(self) -> list[Account]:
        with self._database.read() as connection:
            return self._ledger.accounts(connection)

    def close(self) -> None:
        self._database.close()

    def _put(self, connection: sa.Connection, first: pa.Table, *, keep_known: bool) -> tuple[int, pa.Table]:
        """Insert or merge rows of different keys; how many keys are new.

        And, if wanted, the rows of those that are not, as they were before, among others of the same requests.
        """
        none = LABEL_ROWS.empty_table()
        if not first.num_rows:
            return 0, none
        columns = self._stored_columns(first, (*KEY, *ORDER))
        columns["outcome"] = [PENDING] * first.num_rows
        # On PostgreSQL others insert meanwhile: only the INSERT itself knows what was new.
        new = self._insert.execute(connection, columns)
        if new == first.num_rows:
            return new, none
        known = self._known(connection, first, columns) if keep_known else none
        self._merge.execute(connection, columns)
        return new, known

    def _known(self, connection: sa.Connection, rows: pa.Table, columns: Mapping[str, list[Any]]) -> pa.Table:
        """The stored rows of the requests of ``rows``; those with its keys change no more but in this transaction."""
        if self._database.postgresql:
            self._lock.rows(connection, {f"at_{name}": columns[name] for name in KEY})
        return self._select(connection, pc.unique(rows.column("request_id")).to_pylist())

    def _locking(self) -> Any:
        """PostgreSQL: lock the rows of ``at_`` keys, in their order: of two that lock the same, one waits."""
        keys = [self._labels.c[name] for name in KEY]
        given = rows_as_arrays(keys, "at_")
        same = sa.and_(*(key == given.c[f"at_{key.name}"] for key in keys))
        return (
            sa.select(sa.literal(1))
            .select_from(self._labels.join(given, same))
            .order_by(*keys)
            .with_for_update(of=self._labels)
        )

    def _stored_columns(self, rows: pa.Table, names: Sequence[str]) -> dict[str, list[Any]]:
        columns = {name: rows.column(name).to_pylist() for name in names}
        if self._database.postgresql:
            columns |= {name: [storable(text) for text in columns[name]] for name in _TEXTS}
        return columns

    def _mark_rows(self, connection: sa.Connection, marks: pa.Table) -> dict[tuple[str, str], int]:
        """Mark label rows of different keys that are not marked yet; how many, by kind and outcome."""
        names = (*KEY, "outcome")
        if self._database.postgresql:
            columns = {f"at_{name}": marks.column(name).to_pylist() for name in names}
            columns |= {f"at_{name}": [storable(text) for text in columns[f"at_{name}"]] for name in _TEXTS}
            return {(kind, outcome): rows for kind, outcome, rows in self._mark.rows(connection, columns)}
        counts = {}
        for kind, outcome in _of_each(marks):
            same = pc.and_(pc.equal(marks.column("kind"), kind), pc.equal(marks.column("outcome"), outcome))
            of_these = marks.filter(same)
            columns = {f"at_{name}": of_these.column(name).to_pylist() for name in names}
            counts[kind, outcome] = self._mark.run_columns(connection, columns)
        return counts

    def _marking(self) -> Any:
        """UPDATE of pending rows by ``at_`` key to ``at_outcome``: of rows one by one, or of arrays, then counted."""
        columns = self._labels.c
        given: Any = {name: sa.bindparam(f"at_{name}") for name in (*KEY, "outcome")}
        if self._database.postgresql:
            arrays = rows_as_arrays([columns[name] for name in (*KEY, "outcome")], "at_")
            given = {name: arrays.c[f"at_{name}"] for name in (*KEY, "outcome")}
        matching = (columns[name] == given[name] for name in KEY)
        pending = columns.outcome == sa.literal_column(f"'{PENDING}'")
        update = sa.update(self._labels).where(*matching, pending).values(outcome=given["outcome"])
        if not self._database.postgresql:
            return update
        done = update.returning(columns.kind, columns.outcome).cte("done")
        return sa.select(done.c.kind, done.c.outcome, sa.func.count()).group_by(done.c.kind, done.c.outcome)

    def _remove(self, connection: sa.Connection, leaving: sa.ColumnElement[bool]) -> dict[tuple[str, str], int]:
        """Delete rows; what they were, counted as they go: others delete and mark at the same time."""
        columns = self._labels.c
        counted = self._counted.where(leaving)
        if self._database.postgresql:
            gone = sa.delete(self._labels).where(leaving).returning(columns.kind, columns.outcome).cte("gone")
            counted = sa.select(gone.c.kind, gone.c.outcome, sa.func.count()).group_by(gone.c.kind, gone.c.outcome)
        counts = {(kind, outcome): rows for kind, outcome, rows in connection.execute(counted)}
        if counts and not self._database.postgresql:
            connection.execute(sa.delete(self._labels).where(leaving))
        return counts

    def _let_go(self, connection: sa.Connection, leaving: sa.ColumnElement[bool]) -> dict[str, int]:
        """Delete labels that are kept by themselves; how many, by kind, counted as they go."""
        kind = self._events.c.kind
        counted = sa.select(kind, sa.func.count()).where(leaving).group_by(kind)
        if self._database.postgresql:
            gone = sa.delete(self._events).where(leaving).returning(kind).cte("let_go")
            counted = sa.select(gone.c.kind, sa.func.count()).group_by(gone.c.kind)
        counts = {name: rows for name, rows in connection.execute(counted)}  # noqa: C416
        if counts and not self._database.postgresql:
            connection.execute(sa.delete(self._events).where(leaving))
        return counts

    def _select(self, connection: sa.Connection, request_ids: Sequence[str]) -> pa.Table:
        return as_table(self._found(connection, self._lookup, request_ids), LABEL_ROWS)

    def _select_events(self, connection: sa.Connection, request_ids: Sequence[str]) -> pa.Table:
        return as_table(self._found(connection, self._lookup_events, request_ids), LABEL_EVENTS)

    def _found(self, connection: sa.Connection, lookup: Lookup, request_ids: Sequence[str]) -> Sequence[Any]:
        """The rows of requests; on PostgreSQL their ids are stored otherwise where they are long or hold U+0000."""
        if not self._database.postgresql:
            return lookup.rows(connection, request_ids)
        rows = lookup.rows(connection, [storable(text) for text in request_ids])
        other = by_stored(request_ids, (text for row in rows for text in row[:2]))
        if other:
            rows = [(other.get(row[0], row[0]), other.get(row[1], row[1]), *row[2:]) for row in rows]
        return rows


def _of_each(marks: pa.Table) -> dict[tuple[str, str], int]:
    """Rows by kind and outcome."""
    if marks.num_rows == 0:
        return {}
    kinds, outcomes = (marks.column(name).combine_chunks().dictionary_encode() for name in ("kind", "outcome"))
    each = len(outcomes.dictionary)
    counts = np.bincount(kinds.indices.to_numpy() * each + outcomes.indices.to_numpy())
    names = kinds.dictionary.to_pylist(), outcomes.dictionary.to_pylist()
    return {(names[0][at // each], names[1][at % each]): int(counts[at]) for at in np.flatnonzero(counts).tolist()}
