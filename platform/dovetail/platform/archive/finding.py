"""Rows of an archive found by the value of a column: of a file that column is read, and more where it matches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from dovetail.platform.archive.dayfiles import NEVER_US, DayFile, DayFiles
from dovetail.platform.rows.encodings.shared import SHARED_BACK, some_rows, spread
from dovetail.platform.rows.evolution import conformed
from dovetail.platform.rows.positions import without_messages

__all__ = ["Found", "find_rows"]

#: Files are small, and opening one takes longer than looking through its column: some are open at a time.
_THREADS, _AT_ONCE = 4, 64


class Found(NamedTuple):
    """Rows that were found, in the order of the archive; ``complete`` is False where there are more of them."""

    rows: pa.Table
    complete: bool


def find_rows(
    files: DayFiles,
    column: str,
    values: Sequence[Any],
    *,
    low_us: int | None = None,
    high_us: int = NEVER_US,
    most: int = 100_000,
) -> Found:
    """At most ``most`` rows whose ``column`` is one of ``values``, of the files that touch ``[low, high]``.

    Of an archive, a file is opened where what is known of it does not say that it has none (``file_index.py``); rows
    of such a file may be of another time.
    Values that candidates of a request share stand in each row. A file without the column, or whose column can be none
    of the values, has no such row. Without any row the table has the declared columns.

    Raises:
        StoreError: a registered file is gone or cannot be read.
        WireError: a file has a column that was declared otherwise.
    """
    parts: list[pa.Table] = []
    left, complete = most, True
    touched = files.touching(low_us, high_us)
    if files.index is not None and touched:
        excluded = files.index.excluded(column, values, low_us, high_us)
        touched = [file for file in touched if file.path not in excluded]

    def of_file(file: DayFile) -> list[pa.Table]:
        with files.store.open(file.path) as parquet:
            return [_as_declared(files, file, part) for part in _matching(parquet, column, values)]

    with ThreadPoolExecutor(_THREADS, "dovetail-finding") as threads:
        for start in range(0, len(touched), _AT_ONCE):
            for rows in (part for found in threads.map(of_file, touched[start : start + _AT_ONCE]) for part in found):
                complete = complete and rows.num_rows <= left
                parts.append(rows.slice(0, left))
                left -= parts[-1].num_rows
            if not complete:
                break
    if not parts:
        return Found((files.declared or pa.schema([])).empty_table(), complete)
    return Found(pa.concat_tables(parts, promote_options="permissive").combine_chunks(), complete)


def _as_declared(files: DayFiles, file: DayFile, part: pa.Table) -> pa.Table:
    rows = without_messages(part, files.refused)
    if files.declared is None:
        return rows
    return conformed(rows, files.declared, called=files.store.path(file.path), strict=False)


def _matching(parquet: pq.ParquetFile, column: str, values: Sequence[Any]) -> Iterator[pa.Table]:
    """The matching rows of one file, row group by row group."""
    schema = parquet.schema_arrow
    if column not in schema.names:
        return
    try:
        wanted = pa.array(list(values)).cast(schema.field(column).type)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        return
    at = next(i for i in range(len(parquet.schema)) if parquet.schema.column(i).path == column)
    for group in range(parquet.num_row_groups):
        if _excluded(parquet, group, at, wanted):
            continue
        keys = parquet.read_row_group(group, columns=[column], use_threads=False).column(0)
        rows = np.flatnonzero(np.asarray(pc.is_in(keys, wanted).to_numpy(), dtype=np.bool_))
        if len(rows):
            yield _whole(parquet, group, rows)


def _whole(parquet: pq.ParquetFile, group: int, rows: npt.NDArray[np.int64]) -> pa.Table:
    """All columns of some rows of a group; the row that shares its values with them may be in the group before."""
    if SHARED_BACK not in parquet.schema_arrow.names:
        return parquet.read_row_group(group).take(pa.array(rows))
    groups = [number for number in (group - 1, group) if number >= 0]
    before = sum(parquet.metadata.row_group(number).num_rows for number in groups[:-1])
    return spread(some_rows(parquet.read_row_groups(groups), rows + before))


def _excluded(parquet: pq.ParquetFile, group: int, column: int, wanted: pa.Array) -> bool:
    """Whether the group's own statistics say that none of the values is there."""
    known = parquet.metadata.row_group(group).column(column).statistics
    if known is None or not known.has_min_max:
        return False
    try:
        return not any(known.min <= value <= known.max for value in wanted.to_pylist() if value is not None)
    except TypeError:  # kept in another form than the values
        return False
