"""The offline store: Parquet datasets in a folder or at any fsspec URL.

A file appears under its name only when it is complete. Whether it *counts* is the registry's word.
"""

from __future__ import annotations

import posixpath
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from dovetail.platform.errors import StoreError

__all__ = ["OfflineStore"]


class OfflineStore:
    """Reads and writes Parquet files by path relative to the store."""

    def __init__(self, url: str) -> None:
        """Open the store at ``url``: a folder, or an fsspec URL like ``s3://bucket/prefix``.

        Raises:
            StoreError: the URL's filesystem is unknown or its driver is not installed.
        """
        try:
            self._filesystem, self._root = fsspec.core.url_to_fs(url)
        except (ValueError, ImportError) as error:
            raise StoreError(f"offline store {url!r} cannot be used: {error}") from error

    def path(self, relative: str) -> str:
        """Where ``relative`` is, as a reader outside Dovetail would open it."""
        return posixpath.join(self._root, relative)

    def write(self, relative: str, table: pa.Table) -> None:
        """Write ``table``; a file of that name is replaced, and is never seen half written."""
        final = self.path(relative)
        staged = _staged(final)
        self._filesystem.makedirs(posixpath.dirname(final), exist_ok=True)
        with self._filesystem.open(staged, "wb") as sink:
            pq.write_table(table, sink, compression="zstd")
        self._filesystem.mv(staged, final)

    @contextmanager
    def writer(self, relative: str, schema: pa.Schema) -> Iterator[pq.ParquetWriter]:
        """Write a file row group by row group. Under its name it appears when the block ends, not if that raises."""
        final = self.path(relative)
        staged = _staged(final)
        self._filesystem.makedirs(posixpath.dirname(final), exist_ok=True)
        with self._filesystem.open(staged, "wb") as sink, pq.ParquetWriter(sink, schema, compression="zstd") as writer:
            yield writer
        self._filesystem.mv(staged, final)

    @contextmanager
    def open(self, relative: str) -> Iterator[pq.ParquetFile]:
        """A file to read in parts.

        Raises:
            StoreError: there is no such file, or it is no Parquet file.
        """
        try:
            with self._filesystem.open(self.path(relative), "rb") as source, pq.ParquetFile(source) as file:
                yield file
        except (FileNotFoundError, pa.ArrowInvalid) as error:
            raise StoreError(f"{self.path(relative)}: no readable Parquet file: {error}") from error

    def exists(self, relative: str) -> bool:
        """Whether the file is there."""
        return bool(self._filesystem.exists(self.path(relative)))

    def delete(self, relative: str) -> None:
        """Remove a file, if it is there."""
        if self._filesystem.exists(self.path(relative)):
            self._filesystem.rm(self.path(relative))

    def find(self) -> list[tuple[str, str]]:
        """Every Parquet file below the store, by name: its relative path, and what changes when it is replaced.

        Files whose name, or a folder's, begins with ``_`` or ``.`` are not there.
        """
        found = []
        for path, info in sorted(self._filesystem.find(self._root, detail=True).items()):
            relative = posixpath.relpath(path, self._root)
            hidden = any(part.startswith(("_", ".")) for part in relative.split("/"))
            if relative.endswith(".parquet") and not hidden:
                stamp = info.get("mtime") or info.get("etag") or info.get("LastModified") or ""
                found.append((relative, f"{info.get('size')}:{stamp}"))
        return found

    def read(self, relative: str, columns: Sequence[str] | None = None) -> pa.Table:
        """Read one file, or the named columns of it.

        Raises:
            StoreError: there is no such file.
        """
        try:
            with self._filesystem.open(self.path(relative), "rb") as source:
                return pq.read_table(source, columns=columns, partitioning=None)
        except FileNotFoundError as error:
            raise StoreError(
                f"{self.path(relative)}: registered, but gone; restore it or rebuild the dataset"
            ) from error


def _staged(final: str) -> str:
    """A hidden name beside ``final``, of this writer's own.

    A worker that was paused while it wrote must not go on in a file that its successor has meanwhile put in place.
    """
    return f"{posixpath.dirname(final)}/_{posixpath.basename(final)}.{uuid.uuid4().hex}.partial"
