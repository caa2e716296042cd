"""A project's stores on one Redis."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path

import pyarrow as pa
import pytest

from dovetail.app.storage import open_stores
from dovetail.platform.config.load import load_config
from dovetail.platform.rows.accounts import Account
from dovetail.platform.rows.positions import Progress
from dovetail.platform.stores.labels import LABEL_ROWS
from dovetail.platform.stores.online import ViewCommit
from tests.places import ROOT


def test_what_stores_of_one_database_account_for_counts_once(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'all.sqlite'}"
    storage = {"state": str(tmp_path), "online_store": url, "label_store": url, "registry": url}
    stores = open_stores(load_config(ROOT, storage=storage))
    accounts = [Account(stage, "t", 0, "read", 1) for stage in ("features.v", "archive.x")]
    stores.online.commit(0, [ViewCommit("v", 0, Progress(3), {b"k": b"1"})], accounts[:1])
    stores.registry.commit("archive.x", 0, expected=0, progress=Progress(1), accounts=accounts[1:])
    assert sorted(stores.accounts()) == sorted(accounts)
    stores.close()


def test_tables_and_their_indexes_that_are_missing_are_made_when_a_database_is_opened(tmp_path: Path) -> None:
    """Nothing else is shared by the stores of two databases that are open at once."""
    first, second = (load_config(ROOT, storage={"state": str(tmp_path / name)}) for name in ("first", "second"))
    stores, other = open_stores(first), open_stores(second)
    stores.registry.commit("archive.x", 0, expected=0, progress=Progress(1), accounts=[])
    assert other.registry.progress("archive.x") == {}
    stores.close()
    file = tmp_path / "first" / "label_store.sqlite"
    with closing(sqlite3.connect(file)) as connection:
        made = connection.execute("SELECT type, name FROM sqlite_master").fetchall()
        connection.execute("DROP TABLE label_events")
        assert len(connection.execute("SELECT type, name FROM sqlite_master").fetchall()) < len(made)
    open_stores(first).close()
    with closing(sqlite3.connect(file)) as connection:
        assert set(connection.execute("SELECT type, name FROM sqlite_master").fetchall()) == set(made)
    other.close()


@pytest.mark.services
def test_online_and_label_store_share_one_redis(redis_url: str, tmp_path: Path) -> None:
    storage = {"state": str(tmp_path), "online_store": redis_url, "label_store": redis_url}
    stores = open_stores(load_config(ROOT, storage=storage, name=f"shared_{os.getpid()}"))
    row = dict(zip(LABEL_ROWS.names, ("r", "1", "click", 1, 1, 0, 0, 0), strict=True))
    rows = pa.Table.from_pylist([row], LABEL_ROWS)
    account = Account("features.v", "t", 0, "read", 1)
    stores.online.commit(0, [ViewCommit("v", 0, Progress(3), {b"k": b"1"})], [account])
    stores.labels.insert("v", 0, expected=0, progress=Progress(1), rows=rows, topic="click")
    assert stores.online.progress("v") == {0: Progress(3)}
    assert stores.labels.progress("v") == {0: Progress(1)}
    assert stores.online.accounts() == [account]
    assert {a.stage for a in stores.labels.accounts()} == {"v"}
    stores.close()
