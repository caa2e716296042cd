"""Transactions on kept connections: whole or not at all, seen by others when committed."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from dovetail.platform.errors import StoreError
from dovetail.platform.stores.sql.database import Database

METADATA = sa.MetaData()
NUMBERS = sa.Table("numbers", METADATA, sa.Column("n", sa.Integer, primary_key=True))


@pytest.fixture
def databases(tmp_path: Path) -> Iterator[tuple[Database, Database]]:
    """Two on one file: to SQLite they are two processes."""
    both = (
        Database(f"sqlite:///{tmp_path / 'x.sqlite'}", METADATA),
        Database(f"sqlite:///{tmp_path / 'x.sqlite'}", METADATA),
    )
    yield both
    for database in both:
        database.close()


def put(database: Database, *numbers: int) -> None:
    database.transact(lambda connection: connection.execute(sa.insert(NUMBERS), [{"n": n} for n in numbers]))


def numbers(database: Database) -> list[int]:
    with database.read() as connection:
        return list(connection.execute(sa.select(NUMBERS.c.n).order_by(NUMBERS.c.n)).scalars())


@pytest.mark.parametrize("by_driver", [True, False])
def test_what_raises_leaves_nothing_and_the_next_transaction_works(
    databases: tuple[Database, Database], *, by_driver: bool
) -> None:
    database, other = databases

    def work(connection: sa.Connection) -> None:
        if by_driver:
            connection.connection.cursor().execute("INSERT INTO numbers VALUES (1)")
        else:
            connection.execute(sa.insert(NUMBERS), {"n": 1})
        raise KeyError("no")

    told: list[int] = []
    with pytest.raises(KeyError):
        database.transact(work, lambda: told.append(1))
    with pytest.raises(StoreError), database.read() as connection:
        connection.execute(sa.text("SELECT nothing FROM nowhere"))
    assert told == []
    assert numbers(database) == numbers(other) == []
    put(other, 3)
    put(database, 2)
    assert numbers(database) == numbers(other) == [2, 3]


def test_who_has_committed_is_told_after_the_commit(databases: tuple[Database, Database]) -> None:
    database, other = databases
    told: list[list[int]] = []
    insert = sa.insert(NUMBERS).values(n=1)
    database.transact(lambda connection: connection.execute(insert), lambda: told.append(numbers(other)))
    assert told == [[1]]


def test_the_version_moves_by_commits_of_others_alone(databases: tuple[Database, Database]) -> None:
    database, other = databases
    at_first = database.version()
    put(database, 1)
    numbers(other)
    assert database.version() == at_first
    put(other, 2)
    assert database.version() != at_first
    database.close()  # and is opened again
    assert numbers(database) == [1, 2]


def test_a_reader_sees_one_state_while_others_commit(databases: tuple[Database, Database]) -> None:
    database, _ = databases
    put(database, 1)
    with database.read() as connection:
        count = sa.select(sa.func.count()).select_from(NUMBERS)
        assert connection.execute(count).scalar_one() == 1
        put(database, 2)
        assert connection.execute(count).scalar_one() == 1
    assert numbers(database) == [1, 2]


def test_writers_of_many_threads_wait_for_each_other(databases: tuple[Database, Database]) -> None:
    threads = [threading.Thread(target=put, args=(databases[n % 2], n)) for n in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert numbers(databases[0]) == list(range(16))
