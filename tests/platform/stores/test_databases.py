"""Stores are opened, refused, and do not tear under concurrent writers."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import sqlalchemy as sa

from dovetail.platform.errors import ConfigError, StaleCommit, StoreError
from dovetail.platform.rows.accounts import Account
from dovetail.platform.rows.positions import Progress
from dovetail.platform.stores.online import ViewCommit
from dovetail.platform.stores.registry.store import BatchVersion, DataFile, Registry
from dovetail.platform.stores.sql.labels import SqlLabelStore
from dovetail.platform.stores.sql.online import SqlOnlineStore


@pytest.mark.parametrize("url", ["no url at all", "nosuchdb://host/x"])
def test_a_store_url_that_cannot_be_used_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match=r"store URL .* cannot be used: .*; use sqlite:///PATH, postgresql"):
        Registry(url)


def test_a_password_in_a_url_that_cannot_be_used_is_not_shown() -> None:
    with pytest.raises(ConfigError, match=r"'nosuchdb://me:\*\*\*@host/x' cannot be used") as refused:
        Registry("nosuchdb://me:secret@host/x")
    assert refused.value.__cause__ is None


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.sqlite").write_bytes(b"this is not a database, however long it is. " * 100)
    with pytest.raises(StoreError, match=r"cannot be opened: .*; the file is damaged: restore it"):
        Registry(f"sqlite:///{tmp_path / 'x.sqlite'}")


@pytest.mark.parametrize("kind", [SqlOnlineStore, SqlLabelStore, Registry])
def test_a_database_belongs_to_one_project(kind: type[Registry], tmp_path: Path) -> None:
    """Views and streams of two projects may have the same names, and so would their positions."""
    url = f"sqlite:///{tmp_path / 'store.sqlite'}"
    kind(url).close()  # made before databases had owners, or without a project
    for _ in range(2):
        kind(url, "shop").close()
    with pytest.raises(
        ConfigError, match=r"store.sqlite belongs to project 'shop', this is 'zoo': .* a database of its"
    ):
        kind(url, "zoo")


def test_of_many_writers_with_the_same_idea_of_the_position_one_wins(tmp_path: Path) -> None:
    store = SqlOnlineStore(f"sqlite:///{tmp_path / 'online.sqlite'}")

    def attempt(writer: int) -> bool:
        change = ViewCommit("v", 0, Progress(1), {b"k": str(writer).encode()})
        try:
            store.commit(0, [change], [Account("s", "t", 0, "read", 1)])
        except StaleCommit:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(attempt, range(32)))
    assert sum(won) == 1
    assert store.read_partition("v", 0, [b"k"]) == [str(won.index(True)).encode()]
    assert store.accounts() == [Account("s", "t", 0, "read", 1)]
    store.close()


def test_files_and_position_are_registered_together(tmp_path: Path) -> None:
    registry = Registry(f"sqlite:///{tmp_path / 'registry.sqlite'}")
    file = DataFile("d", "2024-01-01", "d/1.parquet", 3, 0, 0, 2)
    registry.commit("a", 0, expected=0, progress=Progress(3), accounts=[], files=[file])
    with pytest.raises(StaleCommit):
        registry.commit(
            "a", 0, expected=0, progress=Progress(6), accounts=[], files=[file._replace(path="d/2.parquet")]
        )
    assert registry.files("d") == [file]
    assert registry.progress("a") == {0: Progress(3)}
    registry.close()


def test_a_batch_version_registered_twice_is_one(tmp_path: Path) -> None:
    registry = Registry(f"sqlite:///{tmp_path / 'registry.sqlite'}")
    for rows in (1, 2):
        registry.add_version(BatchVersion("v", 86_400_000_000, "p", rows))
    assert registry.versions("v") == [BatchVersion("v", 86_400_000_000, "p", 2)]
    registry.close()


@pytest.mark.parametrize("kind", [SqlOnlineStore, SqlLabelStore, Registry])
def test_a_database_that_is_opened_to_read_is_not_made_and_not_changed(kind: type[Registry], tmp_path: Path) -> None:
    path = tmp_path / "dir" / "store.sqlite"
    url = f"sqlite:///{path}"
    with pytest.raises(StoreError, match="cannot be opened"):
        kind(url, "ours", read_only=True)
    assert not path.parent.exists()
    path.parent.mkdir()
    kind(url, "ours").close()
    reader = kind(url, "ours", read_only=True)
    before = path.read_bytes()
    assert reader.progress("nothing") == {}
    with pytest.raises(StoreError, match="readonly database"), reader._database.write() as connection:
        connection.execute(sa.text("CREATE TABLE more (x INTEGER)"))
    reader.close()
    assert path.read_bytes() == before
    with pytest.raises(ConfigError, match="belongs to project 'ours', this is 'theirs'"):
        kind(url, "theirs", read_only=True)


def test_a_reader_sees_what_a_writer_commits_meanwhile(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'a database ? # %.sqlite'}"
    writer = Registry(url)
    reader = Registry(url, read_only=True)
    writer.add_version(BatchVersion("view", 1, "a.parquet", 3))
    assert [version.path for version in reader.versions("view")] == ["a.parquet"]
    reader.close()
    writer.close()
