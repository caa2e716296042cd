"""A table of Apache Iceberg, by PyIceberg, which applies deletes and knows columns by their number."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from dovetail.platform.errors import ConfigError, StoreError
from dovetail.platform.extras import needs_extra
from dovetail.platform.lake.plain import plain_schema, plain_table, whole_table

if TYPE_CHECKING:
    from pyiceberg.table import FileScanTask, Table

__all__ = ["IcebergVersion", "open_iceberg"]

#: Raised by PyIceberg and below for what is not there, damaged, or beyond it (rows deleted by equality).
_REFUSALS = (OSError, ValueError, NotImplementedError, KeyError, pa.ArrowException)


def open_iceberg(where: str) -> IcebergVersion:
    """The current version of the table at ``where`` (:func:`~dovetail.platform.lake.opened_table.lake_table`).

    Raises:
        ConfigError: PyIceberg is not installed, there is no such catalog or table, or it cannot be read.
    """
    with needs_extra(where, "lake"):
        from pyiceberg.exceptions import NoSuchNamespaceError, NoSuchTableError, RESTError
        from pyiceberg.table import StaticTable
    catalog, _, name = where.removeprefix("iceberg://").partition("/")
    try:
        if not where.startswith("iceberg://"):
            table: Table = StaticTable.from_metadata(where)
            found = IcebergVersion(where, "", table.metadata_location)
        elif not name or "." not in name:
            raise ConfigError(f"{where}: write iceberg://CATALOG/NAMESPACE.TABLE")
        else:
            from pyiceberg.catalog import load_catalog

            found = IcebergVersion(where, catalog, load_catalog(catalog).load_table(name).metadata_location)
        _version(found)
    except (*_REFUSALS, NoSuchNamespaceError, NoSuchTableError, RESTError) as error:
        raise ConfigError(f"{where}: no Iceberg table that can be read: {type(error).__name__}: {error}") from error
    return found


@dataclass(frozen=True, slots=True)
class IcebergVersion:
    """The table as the file ``metadata`` says; ``catalog`` names the settings to read it by, none if empty."""

    where: str
    catalog: str
    metadata: str

    def find(self) -> list[tuple[str, str]]:
        """Every data file of the version, by name; its stamp says what was deleted of it, and the table's columns."""
        version = _version(self)
        return [
            (path, f"{version.schema_id}:{'|'.join(sorted(file.file_path for file in task.delete_files))}")
            for path, task in sorted(version.tasks.items())
        ]

    def path(self, relative: str) -> str:
        """Where a data file is."""
        return relative

    @contextmanager
    def open(self, relative: str) -> Iterator[_DataFile]:
        """A data file: its rows that are not deleted, with the columns of the version.

        Raises:
            StoreError: it cannot be read.
        """
        try:
            version = _version(self)
            yield _DataFile(version, version.tasks[relative])
        except _REFUSALS as error:
            raise StoreError(f"{self.where}, {relative}: {type(error).__name__}: {error}") from error

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
    """A table as loaded, its columns as they are given, and the task that reads each data file."""

    table: Any
    schema: pa.Schema
    schema_id: int
    tasks: Mapping[str, FileScanTask]


@lru_cache(maxsize=8)
def _version(of: IcebergVersion) -> _Version:
    from pyiceberg.catalog import load_catalog
    from pyiceberg.io.pyarrow import schema_to_pyarrow
    from pyiceberg.table import StaticTable

    properties = load_catalog(of.catalog).properties if of.catalog else {}
    table = StaticTable.from_metadata(of.metadata, properties)
    tasks = {task.file.file_path: task for task in table.scan().plan_files()}
    schema = plain_schema(schema_to_pyarrow(table.schema(), include_field_ids=False))
    return _Version(table, schema, table.schema().schema_id, tasks)


@dataclass(frozen=True, slots=True)
class _DataFile:
    """A data file, as :class:`~dovetail.platform.lake.opened_table.RowFile`."""

    version: _Version
    task: Any

    @property
    def schema_arrow(self) -> pa.Schema:
        return self.version.schema

    def iter_batches(
        self,
        batch_size: int = 0,  # PyIceberg's own, of 131,072 rows at most
        columns: Sequence[str] | None = None,
        row_groups: Sequence[int] | None = None,  # there is one
    ) -> Iterator[pa.RecordBatch]:
        from pyiceberg.expressions import AlwaysTrue
        from pyiceberg.io.pyarrow import ArrowScan

        table = self.version.table
        names = self.version.schema.names if columns is None else list(columns)
        plain = pa.schema([self.version.schema.field(name) for name in names])
        scan = ArrowScan(table.metadata, table.io, table.schema().select(*names), AlwaysTrue())
        for batch in scan.to_record_batches([self.task]):
            yield from plain_table(batch.select(names), plain).to_batches()
