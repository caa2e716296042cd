"""PostgreSQL that goes away, and transactions that meet."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import pytest
import sqlalchemy as sa

from dovetail.platform.errors import StoreError
from dovetail.platform.rows.accounts import Account
from dovetail.platform.rows.positions import Progress
from dovetail.platform.stores.label_stores import open_label_store
from dovetail.platform.stores.online import ViewCommit
from dovetail.platform.stores.registry.store import MetricRow, Registry
from dovetail.platform.stores.sql.alone import alone
from dovetail.platform.stores.sql.database import Database
from dovetail.platform.stores.sql.ledger import Ledger
from dovetail.platform.stores.sql.online import SqlOnlineStore

pytestmark = pytest.mark.services

_numbers = itertools.count()
READ = Account("features.v", "t", 0, "read", 5)


@pytest.fixture
def url(postgresql_url: str) -> Iterator[str]:
    """An empty schema."""
    engine, schema = sa.create_engine(postgresql_url), f"faults{next(_numbers)}"
    with engine.begin() as connection:
        connection.execute(sa.text(f"CREATE SCHEMA {schema}"))
    yield f"{postgresql_url}?options=-csearch_path%3D{schema}"
    engine.dispose()


def change(expected: int, state: bytes) -> ViewCommit:
    return ViewCommit("v", expected, Progress(expected + 1), {b"k": state})


def test_a_connection_lost_in_a_commit_stores_nothing_and_the_next_one_works(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, admin = SqlOnlineStore(url), sa.create_engine(url)
    store.commit(0, [change(0, b"1")], [READ])

    def end(connection: sa.Connection) -> None:
        pid = connection.execute(sa.text("SELECT pg_backend_pid()")).scalar_one()
        with admin.begin() as other:
            other.execute(sa.text("SELECT pg_terminate_backend(:pid)"), {"pid": pid})

    def dies(_ledger: Ledger, connection: sa.Connection, *_: Any) -> None:
        end(connection)
        connection.execute(sa.text("SELECT 1"))

    with monkeypatch.context() as patched:
        patched.setattr(Ledger, "credit", dies)
        with pytest.raises(StoreError, match=r"the database failed: AdminShutdown.*goes on from what is stored"):
            store.commit(0, [change(1, b"2")], [READ])
    assert store.progress("v") == {0: Progress(1)}
    assert store.read_partition("v", 0, [b"k"]) == [b"1"]
    with store._database.engine.connect() as pooled:
        end(pooled.execution_options(isolation_level="AUTOCOMMIT"))
    store.commit(0, [change(1, b"2")], [READ])
    assert store.accounts() == [READ._replace(rows=10)]
    store.close()
    admin.dispose()


def test_transactions_that_meet_in_a_deadlock_are_done_again(url: str) -> None:
    metadata = sa.MetaData()
    table = sa.Table("counts", metadata, sa.Column("name", sa.Text, primary_key=True), sa.Column("n", sa.Integer))
    database, met = Database(url, metadata), Barrier(2)
    with database.write() as connection:
        connection.execute(sa.insert(table), [{"name": "a", "n": 0}, {"name": "b", "n": 0}])
    attempts = [0, 0]

    def both(number: int) -> None:
        def work(connection: sa.Connection) -> None:
            attempts[number] += 1
            for name in ("ab", "ba")[number]:
                connection.execute(sa.update(table).where(table.c.name == name).values(n=table.c.n + 1))
                if sum(attempts) <= 2 and name == "ab"[number]:
                    met.wait(10)

        database.transact(work)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(both, range(2)))
    assert sum(attempts) == 3
    with database.read() as connection:
        assert connection.execute(sa.select(table.c.n)).scalars().all() == [2, 2]
    with pytest.raises(StoreError, match="the database failed"), database.write() as connection:
        connection.execute(sa.text("SELECT nothing"))
    with pytest.raises(StoreError, match="the database failed"):
        database.transact(lambda connection: connection.execute(sa.text("SELECT nothing")))
    database.close()


def test_a_transaction_that_always_meets_another_is_an_error_in_the_end(url: str) -> None:
    database, attempts = Database(url, sa.MetaData()), itertools.count()

    def work(connection: sa.Connection) -> None:
        next(attempts)
        connection.execute(sa.text("DO $$ BEGIN RAISE EXCEPTION 'met' USING ERRCODE = '40001'; END $$"))

    with pytest.raises(StoreError, match="the database failed: SerializationFailure"):
        database.transact(work)
    assert next(attempts) == 10
    database.close()


def test_workers_that_start_at_once_create_the_tables_once(url: str) -> None:
    with ThreadPoolExecutor(4) as pool:
        for store in pool.map(lambda _: open_label_store(url, "x"), range(4)):
            store.close()


def test_metrics_are_replaced_in_one_statement(url: str) -> None:
    registry = Registry(url)
    rows = [MetricRow("m", f"s{i}", 1, 5, 1.0, 0.5, None, 0.5, 0.1, None, 1.0, 0.9, 1, 2, 3, 4) for i in range(50)]
    registry.add_metrics(rows)
    registry.add_metrics([row._replace(auc=0.75) for row in rows[:2]])
    assert {row.scope: row.auc for row in registry.metrics("m") if row.auc != 0.5} == {"s0": 0.75, "s1": 0.75}
    registry.close()


def test_only_one_process_does_what_is_done_alone(url: str) -> None:
    one, other = Database(url, sa.MetaData()), Database(url, sa.MetaData())
    with alone(one, "resend"):
        with pytest.raises(StoreError, match=r"another process does the same .*\(resend\)"), alone(other, "resend"):
            pass
        with alone(other, "something-else"):
            pass
    with alone(other, "resend"):
        pass
    one.close()
    other.close()
