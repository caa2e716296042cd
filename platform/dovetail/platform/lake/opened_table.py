"""Finding out that a place is a table of Iceberg or Delta, and reading it: a version of it, file by file.

A folder of such a table is not read as plain Parquet: its files hold rows that were deleted, and columns as they were
called before. What its current version holds is for the format's own library to say.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

import fsspec
import pyarrow as pa

from dovetail.platform.errors import ConfigError

__all__ = ["LakeTable", "RowFile", "lake_table"]


class RowFile(Protocol):
    """A file with rows, as :class:`pyarrow.parquet.ParquetFile` is one; of a table, it cannot be cut further."""

    @property
    def schema_arrow(self) -> pa.Schema:
        """Its columns."""
        ...

    def iter_batches(
        self, batch_size: int = ..., columns: Sequence[str] | None = None, row_groups: Sequence[int] | None = None
    ) -> Iterator[pa.RecordBatch]:
        """Its rows, in order; of ``columns``, if given."""
        ...


class LakeTable(Protocol):
    """A version of a table: which files it has does not change any more. It can be sent to other processes."""

    def find(self) -> list[tuple[str, str]]:
        """Every file, by name, and what changes when the table has other rows of it."""
        ...

    def path(self, relative: str) -> str:
        """Where a file is."""
        ...

    def open(self, relative: str) -> AbstractContextManager[RowFile]:
        """A file, as the table has its rows.

        Raises:
            StoreError: it cannot be read.
        """
        ...

    def read(self, columns: Sequence[str]) -> pa.Table:
        """All rows, with these columns.

        Raises:
            WireError: there is no such column.
            StoreError: a file cannot be read.
        """
        ...


def lake_table(where: str) -> LakeTable | None:
    """The current version of the table at ``where``; None where that is no such table.

    ``where`` is the folder of a Delta table, the folder of an Iceberg table whose catalog is its folder
    (``metadata/version-hint.text``), a metadata file of one (``….metadata.json``), or ``iceberg://CATALOG/NAMESPACE.TABLE``,
    of a catalog that PyIceberg's own configuration knows.

    Raises:
        ConfigError: the format's library is not installed, the table is not there or cannot be read, or the folder does
            not say which of its versions is the current one.
    """
    where = where if "://" in where else str(Path(where).absolute())
    if where.startswith("iceberg://") or where.endswith(".metadata.json"):
        return _iceberg(where)
    try:
        files, root = fsspec.core.url_to_fs(where)
        if files.exists(posixpath.join(root, "_delta_log")):
            from dovetail.platform.lake.delta import open_delta

            return open_delta(where)
        metadata = posixpath.join(root, "metadata")
        if not files.isdir(metadata):
            return None
        if files.exists(posixpath.join(metadata, "version-hint.text")):
            return _iceberg(where)
        names = sorted(posixpath.basename(name) for name in files.ls(metadata, detail=False))
    except (ValueError, ImportError, OSError):
        return None  # who reads it as files says why that cannot be done
    if not any(name.endswith(".metadata.json") for name in names):
        return None
    raise ConfigError(
        f"{where} is an Iceberg table, and its catalog knows which version of it is the current one: write "
        "iceberg://CATALOG/NAMESPACE.TABLE, or the metadata file of a version, metadata/….metadata.json"
    )


def _iceberg(where: str) -> LakeTable:
    from dovetail.platform.lake.iceberg import open_iceberg

    return open_iceberg(where)
