"""Says which files of an archived dataset may have what is looked for, by what the registry has noted of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from dovetail.platform.archive.key_filters import filter_of, marks_of, may_hold
from dovetail.platform.stores.registry.archived.file_marks import FileMarks
from dovetail.platform.stores.registry.store import Registry

__all__ = ["FileIndex", "marks_of_file"]


def marks_of_file(dataset: str, path: str, rows: pa.Table, time_column: str, keys: Sequence[str]) -> FileMarks:
    """The marks of a file of ``rows``, at least one, whose ``keys`` are columns that rows are looked for by."""
    times = pc.min_max(rows.column(time_column).cast(pa.timestamp("us")).cast(pa.int64())).as_py()
    filters = {key: filter_of(rows.column(key)) for key in keys if key in rows.column_names}
    known = {key: bits for key, bits in filters.items() if bits is not None}
    return FileMarks(dataset, path, times["min"], times["max"], known)


@dataclass(frozen=True, slots=True)
class FileIndex:
    """The marks of a dataset's files, read from the registry at each call."""

    registry: Registry
    dataset: str

    def excluded(self, column: str, values: Sequence[Any], low_us: int | None, high_us: int) -> set[str]:
        """The paths of files that have no row with one of ``values`` in ``column``, or none in ``[low, high]``."""
        marks = marks_of(values)
        without = {path for path, bits in self.registry.key_filters(self.dataset, column) if not may_hold(bits, marks)}
        return without | self.outside(low_us, high_us)

    def outside(self, low_us: int | None, high_us: int) -> set[str]:
        """The paths of files that have no row in ``[low, high]``."""
        return {
            path
            for path, (first, last) in self.registry.file_spans(self.dataset).items()
            if first > high_us or (low_us is not None and last < low_us)
        }
