"""Files of the offline store are whole or not there, and what dies half written is cleared away by who comes next."""

from __future__ import annotations

import io
import uuid
import weakref
from collections.abc import Generator, Iterator
from pathlib import Path

import fsspec
import pyarrow as pa
import pytest
from fsspec.implementations.local import LocalFileSystem
from fsspec.implementations.memory import MemoryFileSystem

from dovetail.platform.errors import StoreError
from dovetail.platform.stores.offline import OfflineStore

ROWS = pa.table({"x": [1, 2], "y": ["a", "b"]})


@pytest.fixture(params=["folder", "fsspec"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "folder":
        yield str(tmp_path)
        return
    bucket = f"memory://{uuid.uuid4().hex}"
    yield bucket
    filesystem, root = fsspec.core.url_to_fs(bucket)
    if filesystem.exists(root):
        filesystem.rm(root, recursive=True)


def files(url: str) -> list[str]:
    """The names of all files, drafts without their writers' marks."""
    filesystem, root = fsspec.core.url_to_fs(url)
    names = [path.rpartition("/")[2] for path in filesystem.find(root)]
    return sorted(f"{name.split('.parquet')[0]} draft" if name.endswith(".partial") else name for name in names)


def test_whole_files_are_written_and_a_missing_one_is_named(url: str) -> None:
    store = OfflineStore(url)
    store.write("a/b/c.parquet", ROWS)
    assert store.read("a/b/c.parquet", columns=["y"]).to_pylist() == [{"y": "a"}, {"y": "b"}]
    assert files(url) == ["c.parquet"]
    with pytest.raises(StoreError, match="registered, but gone"):
        store.read("a/missing.parquet")


def test_an_unknown_filesystem_is_refused() -> None:
    with pytest.raises(StoreError, match="cannot be used"):
        OfflineStore("nosuchfs://bucket/x")


def slow(store: OfflineStore, relative: str) -> Generator[None, None, None]:
    with store.writer(relative, ROWS.schema) as writer:
        writer.write_table(ROWS)
        yield


def begin(store: OfflineStore, relative: str) -> Generator[None, None, None]:
    """Begin to write, and go on when asked for the next; until then nobody can tell the writer from a dead one."""
    writing = slow(store, relative)
    next(writing)
    return writing


def test_what_cannot_be_written_leaves_nothing(url: str) -> None:
    store = OfflineStore(url)
    store.write("a.parquet", ROWS)
    writing = begin(store, "a.parquet")
    with pytest.raises(LookupError):
        writing.throw(LookupError())
    assert files(url) == ["a.parquet"]
    assert store.read("a.parquet").equals(ROWS)


def test_what_cannot_be_put_in_place_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def mv(*_arguments: object) -> None:
        raise PermissionError("not here")

    monkeypatch.setattr(LocalFileSystem, "mv", mv)
    with pytest.raises(StoreError, match="the offline store refuses: PermissionError: not here"):
        OfflineStore(str(tmp_path)).write("a.parquet", ROWS)
    assert files(str(tmp_path)) == []


def test_the_next_writer_of_a_file_clears_its_drafts_away_and_no_others(tmp_path: Path) -> None:
    store = OfflineStore(str(tmp_path))
    dead, other, elsewhere = (begin(store, name) for name in ("d/a.parquet", "d/aa.parquet", "e/a.parquet"))
    assert files(str(tmp_path)) == ["_a draft", "_a draft", "_aa draft"]
    store.write("d/a.parquet", ROWS)
    assert files(str(tmp_path)) == ["_a draft", "_aa draft", "a.parquet"]
    for living in (other, elsewhere):
        assert next(living, "done") == "done"
    assert files(str(tmp_path)) == ["a.parquet", "a.parquet", "aa.parquet"]
    assert next(dead, "done") == "done"  # it was slow: the file is there already, so all is well
    assert files(str(tmp_path)) == ["a.parquet", "a.parquet", "aa.parquet"]
    assert store.read("d/a.parquet").equals(ROWS)


def test_names_that_only_look_like_drafts_stay(url: str) -> None:
    filesystem, root = fsspec.core.url_to_fs(url)
    store = OfflineStore(url)
    store.write("a.parquet", ROWS)
    for name in ("_a.parquet.partial", f"a.parquet.{uuid.uuid4().hex}.partial", f"_a.parquet.{uuid.uuid4().hex}"):
        filesystem.pipe_file(f"{root}/{name}", b"somebody's")
    before = sorted(filesystem.find(root))
    store.write("a.parquet", ROWS)
    assert sorted(filesystem.find(root)) == before


def test_drafts_on_any_filesystem_are_cleared_away(url: str) -> None:
    filesystem, root = fsspec.core.url_to_fs(url)
    store = OfflineStore(url)
    store.write("d/b.parquet", ROWS)
    for name in ("a", "b", "c"):
        filesystem.pipe_file(f"{root}/d/_{name}.parquet.{uuid.uuid4().hex}.partial", b"half of")
    store.clear("d", lambda name: name in ("a.parquet", "b.parquet"))
    assert files(url) == ["_c draft", "b.parquet"]


def test_a_writer_whose_draft_is_gone_without_a_file_says_so(tmp_path: Path) -> None:
    store = OfflineStore(str(tmp_path))
    writing = begin(store, "a.parquet")
    store.clear("", lambda _name: True)
    with pytest.raises(StoreError, match=r"a\.parquet: .* has been removed: another one has gone further"):
        next(writing)
    assert files(str(tmp_path)) == []


def test_two_that_clear_at_once_do_not_disturb_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = OfflineStore(str(tmp_path))
    writing = begin(store, "a.parquet")
    remove, removed = LocalFileSystem.rm, []

    def twice(self: LocalFileSystem, path: str) -> None:
        remove(self, path)
        removed.append(path)
        remove(self, path)

    monkeypatch.setattr(LocalFileSystem, "rm", twice)
    store.clear("", lambda _name: True)
    assert len(removed) == 1
    assert files(str(tmp_path)) == []
    writing.close()


@pytest.mark.parametrize("way", ["read", "open"])
def test_a_file_that_was_read_is_let_go_of_at_once(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread of Arrow that lets go of one of Python's files later aborts a process that is ending by then."""
    store = OfflineStore(f"memory://{uuid.uuid4().hex}")
    store.write("wide.parquet", pa.table({f"c{number}": range(50) for number in range(12)}))
    opened: list[weakref.ref[io.BytesIO]] = []
    plain = MemoryFileSystem.open

    def watched(self: MemoryFileSystem, path: str, mode: str = "rb") -> io.BytesIO:
        file = io.BytesIO(plain(self, path, mode).read())
        opened.append(weakref.ref(file))
        return file

    monkeypatch.setattr(MemoryFileSystem, "open", watched)
    for _ in range(200):
        if way == "read":
            store.read("wide.parquet")
        else:
            with store.open("wide.parquet") as file:
                next(file.iter_batches(batch_size=1))
            del file
        assert opened[-1]() is None
