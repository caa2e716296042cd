"""Rows by a list of keys, on SQLite: any number of keys, and errors as every other."""

from __future__ import annotations

from pathlib import Path

import pytest
import sqlalchemy as sa

from dovetail.platform.errors import StoreError
from dovetail.platform.stores.sql.database import Database
from dovetail.platform.stores.sql.lookup import Lookup

TABLE = sa.Table("pairs", sa.MetaData(), sa.Column("kind", sa.Text), sa.Column("key", sa.LargeBinary))


@pytest.fixture
def database(tmp_path: Path) -> Database:
    return Database(f"sqlite:///{tmp_path / 'lookup.sqlite'}", TABLE.metadata)


@pytest.mark.parametrize("count", [0, 1, 2, 15, 16, 17, 200, 5_000, 5_001])
def test_a_lookup_finds_the_keys_asked_for_once_each(database: Database, count: int) -> None:
    keys = [b"%d" % number for number in range(count)]
    with database.write() as connection:
        rows = [{"kind": kind, "key": key} for kind in ("mine", "other") for key in [*keys, b"not asked"]]
        connection.execute(sa.insert(TABLE), rows)
    of_kind = Lookup(database, list(TABLE.c), among=TABLE.c.key, fixed=TABLE.c.kind)
    of_any = Lookup(database, [TABLE.c.key], among=TABLE.c.key, fixed=None)
    with database.read() as connection:
        assert sorted(of_kind.rows(connection, keys, "mine")) == sorted(("mine", key) for key in keys)
        assert sorted(of_any.rows(connection, keys)) == sorted((key,) for key in [*keys, *keys])


def test_what_the_driver_refuses_is_a_store_error(database: Database) -> None:
    lookup = Lookup(database, list(TABLE.c), among=TABLE.c.key, fixed=None)
    with database.write() as connection:
        TABLE.drop(connection)
    failed = "the database failed: OperationalError: no such table"
    with pytest.raises(StoreError, match=failed), database.read() as connection:
        lookup.rows(connection, [b"k"])
