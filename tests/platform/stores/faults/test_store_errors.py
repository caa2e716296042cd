"""What stores cannot do is said in a message, with what is wrong and what to do, and not in a traceback."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from dovetail.platform.archive.writer import read_dataset
from dovetail.platform.config.redis import RedisConfig
from dovetail.platform.errors import ConfigError, ModelError, StoreError
from dovetail.platform.rows.accounts import Account
from dovetail.platform.rows.positions import Progress
from dovetail.platform.stores.label_stores import open_label_store
from dovetail.platform.stores.offline import OfflineStore
from dovetail.platform.stores.online_stores import open_online_store
from dovetail.platform.stores.registry.store import DataFile, Registry
from dovetail.trainer.models.container import unpack
from dovetail.trainer.models.numbered import NumberedFiles

ROWS = pa.table({"a": [1]})


@pytest.mark.parametrize("open_store", [open_online_store, open_label_store])
@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("postgresql+psycopg://host:x/db", r"store URL 'postgresql\+psycopg://host:x/db' cannot be used: .*'x'"),
        (
            "redis://127.0.0.1/x",
            "store URL 'redis://127.0.0.1/x': its path is no number of a database; try redis://HOST",
        ),
        ("redis://127.0.0.1:x/0", "store URL 'redis://127.0.0.1:x/0' cannot be used: Port could not be cast"),
    ],
)
def test_a_url_that_cannot_be_meant_is_refused(open_store: object, url: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        open_store(url, "project", RedisConfig())  # type: ignore[operator]


def damaged(folder: Path, what: str) -> OfflineStore:
    """A store whose only file is not what it should be."""
    file = folder / "d" / "f.parquet"
    file.parent.mkdir(parents=True)
    if what == "empty":
        file.write_bytes(b"")
    elif what == "damaged":
        file.write_bytes(b"PAR1 and not much behind it PAR1")
    else:
        file.mkdir()
    return OfflineStore(str(folder))


@pytest.mark.parametrize("what", ["empty", "damaged", "a folder"])
def test_a_registered_file_that_is_no_parquet_is_named(what: str, tmp_path: Path) -> None:
    offline, registry = damaged(tmp_path / "offline", what), Registry(f"sqlite:///{tmp_path}/registry.sqlite")
    file, account = DataFile("d", "2024-01-01", "d/f.parquet", 1, 0, 0, 0), Account("archive.d", "t", 0, "read", 1)
    registry.commit("archive.d", 0, expected=0, progress=Progress(1), accounts=[account], files=[file])
    with pytest.raises(StoreError, match=r"d/f\.parquet: registered, but no readable Parquet file: .*; restore it or"):
        read_dataset(registry, offline, "d")
    with pytest.raises(StoreError, match=r"d/f\.parquet: no readable Parquet file"), offline.open("d/f.parquet"):
        pass
    registry.close()


def test_an_offline_store_that_refuses_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("where a folder should be")
    store = OfflineStore(str(tmp_path))
    with pytest.raises(StoreError, match=r"file/x\.parquet: the offline store refuses: .*; see whether it is there"):
        store.write("file/x.parquet", ROWS)
    with pytest.raises(StoreError, match="the offline store refuses"):
        store.clear("gone", lambda _name: True)
    with pytest.raises(StoreError, match=r"offline store 'ftp://127\.0\.0\.1:1/x' cannot be used: .*refused"):
        OfflineStore("ftp://127.0.0.1:1/x")


def test_a_folder_where_a_model_file_should_be_is_named(tmp_path: Path) -> None:
    files = NumberedFiles(tmp_path, "checkpoint")
    files.path(7).mkdir()
    assert files.latest() == 7
    with pytest.raises(ModelError, match=r"checkpoint-000000000007\.npz: no readable model file: Is a directory; move"):
        unpack(files.path(7))
