"""A table of Delta Lake, by delta-rs, which says what files a version has and the values of its partitions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import pyarrow as pa
from pyarrow.fs import LocalFileSystem, SubTreeFileSystem

from dovetail.platform.errors import ConfigError, StoreError
from dovetail.platform.extras import needs_extra
from dovetail.platform.lake.plain import plain_schema, plain_table, whole_table

__all__ = ["DeltaVersion", "open_delta"]


def open_delta(where: str) -> DeltaVersion:
    """The current version of the table in the folder ``where``.

    Raises:
        ConfigError: delta-rs is not installed, there is no such table, or it has what can only be read by others.
    """
    with needs_extra(where, "lake"):
        from deltalake import DeltaTable
        from deltalake.exceptions import DeltaError, DeltaProtocolError
    try:
        found = DeltaVersion(where, DeltaTable(where).version())
        _version(found)
    except DeltaProtocolError as error:
        raise ConfigError(
            f"{where}: {error} Write a copy of the table without it, or give Parquet files of its rows"
        ) from error
    except (OSError, ValueError, DeltaError) as error:
        raise ConfigError(f"{where}: no Delta table that can be read: {type(error).__name__}: {error}") from error
    return found


@dataclass(frozen=True, slots=True)
class DeltaVersion:
    """The table in a folder, as of a version."""

    where: str
    version: int

    def find(self) -> list[tuple[str, str]]:
        """Every data file of the version, by name. A file never changes; what it is read by is in its stamp."""
        version = _version(self)
        return [(path, f"delta:{','.join(version.schema.names)}") for path in sorted(version.fragments)]

    def path(self, relative: str) -> str:
        """Where a data file is."""
        return f"{self.where.rstrip('/')}/{relative}"

    @contextmanager
    def open(self, relative: str) -> Iterator[_DataFile]:
        """A data file, with the columns of the table.

        Raises:
            StoreError: it cannot be read.
        """
        from deltalake.exceptions import DeltaError

        try:
            version = _version(self)
            yield _DataFile(version, version.fragments[relative])
        except (OSError, ValueError, KeyError, pa.ArrowException, DeltaError) as error:
            raise StoreError(f"{self.path(relative)}: {type(error).__name__}: {error}") from error

    def read(self, columns: Sequence[str]) -> pa.Table:
        """All rows, with these columns.

        Raises:
            WireError: there is no such column.
            StoreError: a file cannot be read.
        """
        files = (self.open(path) for path, _ in self.find())
        return whole_table(self.where, _version(self).schema, columns, files)


@dataclass(frozen=True, slots=True)
class _Version:
    """The columns of a table as they are written and as they are given, and the fragment of each data file."""

    written: pa.Schema
    schema: pa.Schema
    fragments: Mapping[str, Any]


@lru_cache(maxsize=8)
def _version(of: DeltaVersion) -> _Version:
    from deltalake import DeltaTable

    # Files on this machine are read without those of Python: a thread of Arrow that lets go of one late, when the
    # process is ending, aborts it.
    local = None if "://" in of.where else SubTreeFileSystem(of.where, LocalFileSystem())
    dataset = DeltaTable(of.where, version=of.version).to_pyarrow_dataset(filesystem=local)
    fragments = {fragment.path: fragment for fragment in dataset.get_fragments()}
    return _Version(dataset.schema, plain_schema(dataset.schema), fragments)


@dataclass(frozen=True, slots=True)
class _DataFile:
    """A data file, as :class:`~dovetail.platform.lake.opened_table.RowFile`."""

    version: _Version
    fragment: Any

    @property
    def schema_arrow(self) -> pa.Schema:
        return self.version.schema

    def iter_batches(
        self,
        batch_size: int = 131_072,
        columns: Sequence[str] | None = None,
        row_groups: Sequence[int] | None = None,  # it is not cut
    ) -> Iterator[pa.RecordBatch]:
        names = self.version.schema.names if columns is None else list(columns)
        plain = pa.schema([self.version.schema.field(name) for name in names])
        batches = self.fragment.to_batches(
            schema=self.version.written, columns=names, batch_size=batch_size, use_threads=False
        )
        for batch in batches:
            yield from plain_table(batch, plain).to_batches()
