"""Rows over many Parquet files, read by time and in parts: what batch work reads, however much there is.

Three kinds of places have the same face: an archived dataset, whose files the registry names by day, any file or folder
of Parquet, and a table of Iceberg or Delta, in the version that is current when it is looked at. Rows come in the order
of the files' names (an archive: day, partition, offset) and within a file as they stand there, so reading twice gives
the same.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from dovetail.platform.archive.file_index import FileIndex
from dovetail.platform.errors import ConfigError, WireError
from dovetail.platform.lake.opened_table import LakeTable, lake_table
from dovetail.platform.rows.encodings.shared import Spreader, shared_names, spread_schema, stored_as
from dovetail.platform.rows.evolution import conformed, fits
from dovetail.platform.rows.positions import OWN_COLUMNS, lacking, without_messages
from dovetail.platform.stores.offline import OfflineStore
from dovetail.platform.stores.registry.store import Registry

__all__ = ["DAY_US", "NEVER_US", "DayFile", "DayFiles", "day_of", "day_start_us"]

#: Later than any time.
NEVER_US = 2**63 - 1

DAY_US = 86_400_000_000
_ROWS_AT_ONCE = 131_072


def day_of(time_us: int) -> str:
    """The UTC day of a moment, ``YYYY-MM-DD``."""
    return datetime.fromtimestamp(time_us // 1_000_000, UTC).strftime("%Y-%m-%d")


def day_start_us(day: str) -> int:
    """The first microsecond of a day."""
    return (date.fromisoformat(day) - date(1970, 1, 1)).days * DAY_US


class DayFile(NamedTuple):
    """One file: its path in the store, rows by day, and ``stamp``, which changes when its content may have."""

    path: str
    days: dict[str, int]
    stamp: str
    #: Only the row groups from the first number to before the second.
    groups: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class DayFiles:
    """Rows with a timestamp column, in files.

    Rows of the ``refused`` messages, by partition and offset, are in files and not in what is read. Files may be older
    than a change of the ``declared`` columns: those they lack are NULL, those that were narrower are widened, and of a
    STRUCT that was declared otherwise there are the ``struct_members`` that are read, the others NULL.
    """

    store: OfflineStore | LakeTable
    files: Sequence[DayFile]
    time_column: str
    refused: Sequence[tuple[int, int]] = ()
    declared: pa.Schema | None = None
    struct_members: Mapping[str, pa.DataType] | None = None
    #: Of an archive: what is known of its files without opening them.
    index: FileIndex | None = None

    @classmethod
    def archived(
        cls,
        registry: Registry,
        store: OfflineStore,
        dataset: str,
        time_column: str,
        declared: pa.Schema | None = None,
        before: Mapping[int, int] | None = None,
        struct_members: Mapping[str, pa.DataType] | None = None,
    ) -> DayFiles:
        """The files that are archived of ``dataset`` now, whose rows have the columns ``declared``.

        ``before``: only those whose messages are before these offsets, by partition. ``struct_members``: STRUCT columns
        with the members that are read of them.
        """
        files = [
            DayFile(file.path, {file.day: file.rows}, str(file.rows))
            for file in registry.files(dataset)
            if before is None or file.last_offset < before.get(file.partition, 0)
        ]
        refused, index = registry.refused_rows(dataset), FileIndex(registry, dataset)
        return cls(store, files, time_column, refused, declared, struct_members, index)

    @classmethod
    def at(cls, path: str | Path, time_column: str) -> DayFiles:
        """The Parquet file, or every Parquet file in the folder, at ``path`` (or an fsspec URL); or the table there.

        Tables are named as :func:`~dovetail.platform.lake.opened_table.lake_table` takes them.

        Raises:
            ConfigError: there is none.
            WireError: a file has no such column, or not as a timestamp.
        """
        name = str(path)
        if (table := lake_table(name)) is not None:
            rows = [DayFile(p, _days(table, p, time_column), stamp) for p, stamp in table.find()]
            return cls(table, rows, time_column)
        folder, _, leaf = name.rpartition("/")
        store = OfflineStore((folder or ".") if leaf.endswith(".parquet") else name)
        found = [(p, stamp) for p, stamp in store.find() if not leaf.endswith(".parquet") or p == leaf]
        if not found:
            raise ConfigError(f"{name}: no Parquet file there; give a .parquet file or a folder that holds some")
        files = [DayFile(p, _days(store, p, time_column), stamp) for p, stamp in found]
        return cls(store, files, time_column)

    def days(self, low_us: int | None = None, high_us: int = NEVER_US) -> dict[str, int]:
        """Rows by day, of the days that ``[low, high]`` touches, ascending."""
        counts: Counter[str] = Counter()
        for file in self.files:
            counts.update(file.days)
        return {day: counts[day] for day in sorted(counts) if _touches(day, low_us, high_us)}

    def rows(self, low_us: int | None, high_us: int) -> int:
        """At least as many rows as have their time in ``[low, high]``: those of the days touched."""
        return sum(self.days(low_us, high_us).values())

    def ends_us(self, low_us: int | None, high_us: int) -> tuple[int, int] | None:
        """The first and last time of rows in ``[low, high]``, or None without any; no day between them is read."""
        days = list(self.days(low_us, high_us))
        first = next((times for day in days if (times := self._times(day, low_us, high_us)).size), None)
        if first is None:
            return None
        last = next(times for day in reversed(days) if (times := self._times(day, low_us, high_us)).size)
        return int(first.min()), int(last.max())

    def _times(self, day: str, low_us: int | None, high_us: int) -> npt.NDArray[np.int64]:
        start = day_start_us(day)
        low, high = start if low_us is None else max(start, low_us), min(start + DAY_US - 1, high_us)
        parts = self.read([self.time_column], low, high)
        return np.concatenate(
            [np.empty(0, np.int64), *(_microseconds(part.column(self.time_column)) for part in parts)]
        )

    def identity(self, low_us: int | None, high_us: int) -> str:
        """A hash of which files may hold rows of ``[low, high]``: equal as long as reading gives the same."""
        digest = hashlib.sha256()
        for file in self.touching(low_us, high_us):
            digest.update(f"{file.path}|{file.stamp}\n".encode())
        if self.refused:
            digest.update(repr(sorted(self.refused)).encode())
        return digest.hexdigest()[:16]

    def paths(self, low_us: int | None, high_us: int) -> list[str]:
        """Where the files are that may hold rows of ``[low, high]``, as a reader outside Dovetail would open them."""
        return [self.store.path(file.path) for file in self.touching(low_us, high_us)]

    def read(
        self, columns: Sequence[str] | None, low_us: int | None, high_us: int, *, optional: Sequence[str] = ()
    ) -> Iterator[pa.Table]:
        """Rows with ``low <= time <= high`` in bounded parts; all columns, or those named.

        Of those named, the ``optional`` ones are read of files that have them. Where parts are cut depends on what is
        read.

        Raises:
            WireError: a file lacks a column that is not declared, or has one that was declared otherwise.
        """
        needed = [self.time_column, *(OWN_COLUMNS[:2] if self.refused else ())]
        wanted = None if columns is None else list(dict.fromkeys([*columns, *optional, self.time_column]))
        fetched = None if wanted is None else list(dict.fromkeys([*wanted, *needed]))
        declared = [f for f in self.declared or () if fetched is None or f.name in fetched]
        own = {*(field.name for field in declared), *(name for name in optional if name not in needed)}
        for file in self.touching(low_us, high_us):
            path = self.store.path(file.path)
            with self.store.open(file.path) as parquet:
                there = None
                if fetched is not None:
                    _require([name for name in fetched if name not in own], parquet.schema_arrow, path)
                    there = stored_as(fetched, parquet.schema_arrow.names)
                spreader = Spreader()
                groups = None if file.groups is None else list(range(*file.groups))
                for batch in parquet.iter_batches(batch_size=_ROWS_AT_ONCE, columns=there, row_groups=groups):
                    for part in spreader.parts(pa.Table.from_batches([batch])):
                        whole = without_messages(part, self.refused)
                        table = _between(whole, self.time_column, low_us, high_us)
                        if table.num_rows:
                            table = conformed(
                                table,
                                pa.schema(declared),
                                called=path,
                                strict=wanted is not None,
                                read=self.struct_members,
                            )
                            yield (
                                table
                                if wanted is None
                                else table.select([n for n in wanted if n in table.schema.names])
                            )

    def alone(self, file: DayFile) -> DayFiles:
        """The rows of one of the files, as a value that can be sent."""
        return replace(self, files=[file], index=None)

    def portable(self) -> DayFiles:
        """The same rows, as a value that other processes can be sent: without what the registry knows of files."""
        return replace(self, index=None)

    def parts(self, low_us: int | None, high_us: int, rows: int) -> Iterator[DayFiles]:
        """The files of ``[low, high]`` one by one, those with more than ``rows`` by row groups; together they are all.

        Not for files with columns that are stored once for several rows (``rows/encodings/shared.py``).
        """
        for file in self.touching(low_us, high_us):
            if sum(file.days.values()) <= rows or not isinstance(self.store, OfflineStore):
                yield self.alone(file)
                continue
            with self.store.open(file.path) as parquet:
                sizes = [parquet.metadata.row_group(group).num_rows for group in range(parquet.num_row_groups)]
            first, held = 0, 0
            for group, size in enumerate(sizes):
                if held and held + size > rows:
                    yield self.alone(file._replace(groups=(first, group)))
                    first, held = group, 0
                held += size
            yield self.alone(file._replace(groups=(first, len(sizes))))

    def schemas(self, low_us: int | None, high_us: int) -> Iterator[pa.Schema]:
        """The columns of each file that may have rows of ``[low, high]``, as it is written."""
        for file in self.touching(low_us, high_us):
            with self.store.open(file.path) as parquet:
                yield parquet.schema_arrow

    def columns(self, low_us: int | None, high_us: int) -> pa.Schema:
        """The columns that some file with rows of ``[low, high]`` has, of the widest type there."""
        schemas = [
            self._without_conflicts(spread_schema(schema).remove_metadata()) for schema in self.schemas(low_us, high_us)
        ]
        return pa.unify_schemas(schemas, promote_options="permissive") if schemas else pa.schema([])

    def _without_conflicts(self, there: pa.Schema) -> pa.Schema:
        """``there``, its STRUCT columns that were declared otherwise as they are declared now."""
        for field in self.declared or ():
            at = there.get_field_index(field.name)
            if field.name in (self.struct_members or {}) and at >= 0 and not fits(there.field(at).type, field.type):
                there = there.set(at, field)
        return there

    def schema(self) -> pa.Schema | None:
        """The columns of the first file; None when there is no file."""
        if not self.files:
            return None
        with self.store.open(self.files[0].path) as parquet:
            return spread_schema(parquet.schema_arrow)

    def touching(self, low_us: int | None, high_us: int) -> list[DayFile]:
        """The files that may hold rows of ``[low, high]``."""
        return [file for file in self.files if any(_touches(day, low_us, high_us) for day in file.days)]


def _touches(day: str, low_us: int | None, high_us: int) -> bool:
    start = day_start_us(day)
    return start <= high_us and (low_us is None or start + DAY_US > low_us)


def _between(table: pa.Table, column: str, low_us: int | None, high_us: int) -> pa.Table:
    times = _microseconds(table.column(column))
    keep = times <= high_us if low_us is None else (times >= low_us) & (times <= high_us)
    return table if keep.all() else table.filter(pa.array(keep))


def _microseconds(column: pa.ChunkedArray) -> npt.NDArray[np.int64]:
    return np.asarray(column.cast(pa.timestamp("us")).cast(pa.int64()).to_numpy(), dtype=np.int64)


def _require(columns: Sequence[str], schema: pa.Schema, path: str) -> None:
    known = {*schema.names, *shared_names(schema.names)}
    missing = [name for name in columns if name not in known]
    if missing:
        raise lacking(path, missing[0], schema.names)


def _days(store: OfflineStore | LakeTable, path: str, time_column: str) -> dict[str, int]:
    """Rows by day."""
    counts: Counter[str] = Counter()
    with store.open(path) as parquet:
        _require([time_column], parquet.schema_arrow, store.path(path))
        if not pa.types.is_timestamp(parquet.schema_arrow.field(time_column).type):
            found = parquet.schema_arrow.field(time_column).type
            raise WireError(f"{store.path(path)}: {time_column} is {found}, not a timestamp; write it as TIMESTAMP")
        for batch in parquet.iter_batches(_ROWS_AT_ONCE, columns=[time_column]):
            for day, rows in _batch_days(batch.column(0), time_column, store.path(path)):
                counts[day] += rows
    return dict(counts)


def _batch_days(times: pa.Array, time_column: str, path: str) -> Iterator[tuple[str, int]]:
    if times.null_count:
        raise WireError(f"{path} has {times.null_count} rows or more without {time_column}; leave them out")
    days = times.cast(pa.timestamp("us")).cast(pa.date32(), safe=False)
    for entry in pc.value_counts(days).to_pylist():
        yield entry["values"].isoformat(), entry["counts"]
