"""The offline store: Parquet datasets in a folder or at any fsspec URL.

A file appears under its name only when it is complete. Whether it *counts* is the registry's word.

Until then it is a *draft*, hidden beside its name. A process that is killed leaves its draft behind, and nobody can see
whether the writer of a draft is dead or slow. So drafts are removed by what they are for, not by whose they are: once a
file is there, every draft of it is superfluous, since two that write one file write the same rows. A writer that
lives and finds its draft gone has nothing left to do. Which other drafts can come to nothing is for the owner of the
files to say (:meth:`OfflineStore.clear`).
"""

from __future__ import annotations

import posixpath
import re
import uuid
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
from fsspec.implementations.local import LocalFileSystem

from dovetail.platform.errors import StoreError

__all__ = ["OfflineStore"]

_DRAFT = re.compile(r"_(?P<name>.+)\.[0-9a-f]{32}\.partial")


class OfflineStore:
    """Reads and writes Parquet files by path relative to the store."""

    def __init__(self, url: str) -> None:
        """Open the store at ``url``: a folder, or an fsspec URL like ``s3://bucket/prefix``.

        Raises:
            StoreError: the URL's filesystem is unknown, its driver is not installed, or it refuses.
        """
        try:
            self._filesystem, self._root = fsspec.core.url_to_fs(url)
        except (ValueError, ImportError, OSError) as error:
            raise StoreError(
                f"offline store {url!r} cannot be used: {error}; write a folder, or a URL like s3://BUCKET/PATH"
            ) from error

    def path(self, relative: str) -> str:
        """Where ``relative`` is, as a reader outside Dovetail would open it."""
        return posixpath.join(self._root, relative)

    def write(self, relative: str, table: pa.Table) -> None:
        """Write ``table``; a file of that name is replaced, and is never seen half written.

        Whoever else writes ``relative`` meanwhile must be writing the same rows. On an error nothing is left.

        Raises:
            StoreError: what was being written has been cleared away, by somebody who has gone further; or the store
                refuses: no space, no permission, nobody there.
        """
        with self.writer(relative, table.schema) as writer:
            writer.write_table(table)

    @contextmanager
    def drafting(self, relative: str, schema: pa.Schema) -> Iterator[tuple[str, pq.ParquetWriter]]:
        """Write a draft of the file ``relative`` row group by row group: its name, and the writer.

        A draft is of this writer alone and is no file until it is kept (:meth:`keep`), by whoever has its name. It is
        removed if the block raises.

        Raises:
            StoreError: the store refuses.
        """
        final = self.path(relative)
        folder, name = posixpath.split(final)
        # A name of this writer's own: one that was paused while it wrote must not go on in a file that its successor
        # has meanwhile put in place.
        draft = f"_{name}.{uuid.uuid4().hex}.partial"
        with self._refusing(final):
            self._filesystem.makedirs(folder, exist_ok=True)
            try:
                with (
                    self._filesystem.open(f"{folder}/{draft}", "wb") as sink,
                    pq.ParquetWriter(sink, schema, compression="zstd") as writer,
                ):
                    yield draft, writer
            except BaseException:
                with suppress(OSError):  # what it says of the draft, or of a store that is away, says less
                    self._filesystem.rm(f"{folder}/{draft}")
                raise

    def keep(self, draft: str, relative: str) -> None:
        """Put a draft of ``relative`` in place. A file of that name is replaced, and other drafts of it are removed.

        Raises:
            StoreError: the draft has been cleared away, by somebody who has gone further; or the store refuses.
        """
        folder, name = posixpath.split(relative)
        try:
            self.put(draft, relative)
        except BaseException:
            with suppress(OSError):
                self._filesystem.rm(self.path(posixpath.join(folder, draft)))
            raise
        self.clear(folder, lambda other: other == name)

    def put(self, draft: str, relative: str) -> None:
        """Put a draft of ``relative`` in place, and do no more: it stays if the store refuses, and so do other drafts.

        A draft that is not there any more, where there is a file, has been put in place.

        Raises:
            StoreError: there is neither; or the store refuses.
        """
        final = self.path(relative)
        with self._refusing(final):
            self._put(posixpath.join(posixpath.dirname(final), draft), final)

    @contextmanager
    def writer(self, relative: str, schema: pa.Schema) -> Iterator[pq.ParquetWriter]:
        """Write a file row group by row group. Under its name it appears when the block ends, not if that raises.

        Otherwise as :meth:`write`.
        """
        with self.drafting(relative, schema) as (draft, writer):
            yield writer
        self.keep(draft, relative)

    @contextmanager
    def _refusing(self, path: str) -> Iterator[None]:
        """Say of what the store refuses, at ``path``, that it does."""
        try:
            yield
        except OSError as error:
            raise StoreError(
                f"{path}: the offline store refuses: {type(error).__name__}: {error}; see whether it is there, has "
                "space, and may be written by this user"
            ) from error

    def _put(self, draft: str, final: str) -> None:
        try:
            self._filesystem.mv(draft, final)
        except FileNotFoundError as error:
            self._filesystem.invalidate_cache(posixpath.dirname(final))
            if not self._filesystem.exists(final):
                raise StoreError(
                    f"{final}: what this process was writing has been removed: another one has gone further meanwhile, "
                    "and this one's rows no longer count; start it again"
                ) from error

    def clear(self, folder: str, superseded: Callable[[str], bool], but: Collection[str] = ()) -> None:
        """Remove the drafts in ``folder`` of files with a ``superseded`` name, whoever writes or wrote them.

        Those that are named in ``but`` stay.
        """
        path = self.path(folder)
        with self._refusing(path):
            self._filesystem.invalidate_cache(path)  # drafts are other processes'
            for file in self._filesystem.ls(path, detail=False):
                draft = _DRAFT.fullmatch(posixpath.basename(file))
                if draft is not None and superseded(draft["name"]) and draft[0] not in but:
                    with suppress(FileNotFoundError):  # somebody else was faster
                        self._filesystem.rm(file)

    @contextmanager
    def open(self, relative: str) -> Iterator[pq.ParquetFile]:
        """A file to read in parts.

        Raises:
            StoreError: there is no such file, or it is no Parquet file.
        """
        path = self.path(relative)
        try:
            with self._opened(path) as file:
                yield file
        except (OSError, pa.ArrowInvalid) as error:
            raise StoreError(f"{path}: no readable Parquet file: {error}") from error

    @contextmanager
    def _opened(self, path: str) -> Iterator[pq.ParquetFile]:
        if isinstance(self._filesystem, LocalFileSystem):  # read without a call of Python, in a third of the time
            with pq.ParquetFile(path) as file:
                yield file
        else:
            # A thread of Arrow that reads ahead, as those of ``read_table`` do, may outlive the reading, and so be the
            # one that lets go of a file of Python's. Where the process is ending by then, it aborts.
            with self._filesystem.open(path, "rb") as source, pq.ParquetFile(source, pre_buffer=False) as file:
                yield file

    def exists(self, relative: str) -> bool:
        """Whether the file is there."""
        with self._refusing(self.path(relative)):
            return bool(self._filesystem.exists(self.path(relative)))

    def delete(self, relative: str) -> None:
        """Remove a file, if it is there."""
        with self._refusing(self.path(relative)):
            if self._filesystem.exists(self.path(relative)):
                self._filesystem.rm(self.path(relative))

    def find(self) -> list[tuple[str, str]]:
        """Every Parquet file below the store, by name: its relative path, and what changes when it is replaced.

        Files whose name, or a folder's, begins with ``_`` or ``.`` are not there.
        """
        found = []
        with self._refusing(self._root):
            there = self._filesystem.find(self._root, detail=True)
        for path, info in sorted(there.items()):
            relative = posixpath.relpath(path, self._root)
            hidden = any(part.startswith(("_", ".")) for part in relative.split("/"))
            if relative.endswith(".parquet") and not hidden:
                stamp = info.get("mtime") or info.get("etag") or info.get("LastModified") or ""
                found.append((relative, f"{info.get('size')}:{stamp}"))
        return found

    def read(self, relative: str, columns: Sequence[str] | None = None) -> pa.Table:
        """Read one file, or the named columns of it.

        Raises:
            StoreError: there is no such file, or it cannot be read.
        """
        path = self.path(relative)
        try:
            with self._opened(path) as file:
                return file.read(columns)
        except FileNotFoundError as error:
            raise StoreError(f"{path}: registered, but gone; restore it or rebuild the dataset") from error
        except (OSError, pa.ArrowInvalid) as error:
            raise StoreError(
                f"{path}: registered, but no readable Parquet file: {error}; restore it or rebuild the dataset"
            ) from error
