"""Tables too large for memory, cut by hash of the key into buckets on disk.

Rows of one key share a bucket and keep their order, so what is computed per key can be computed bucket by bucket. The
files are Arrow IPC in a scratch folder: written once, read once, thrown away.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.ipc

from dovetail.features.duck.connection import shared_cursor

__all__ = ["Buckets", "Cursor", "KeyHash"]

_OPTIONS = pa.ipc.IpcWriteOptions(compression="lz4")


class KeyHash:
    """DuckDB's hash of the key columns, and the bucket that it puts a key in."""

    def __init__(self, types: Sequence[pa.DataType], buckets: int) -> None:
        self.buckets = buckets
        self._types = list(types)
        self._connection = shared_cursor()
        names = ", ".join(f"k{i}" for i in range(len(self._types)))
        self._query = f"SELECT hash({names}) AS h FROM keys"

    def of(self, keys: Sequence[pa.ChunkedArray]) -> npt.NDArray[np.uint64]:
        """uint64 ``[n]``: the key's hash, equal for equal keys whatever they were stored as."""
        arrays = [key.cast(type_) for key, type_ in zip(keys, self._types, strict=True)]
        self._connection.register("keys", pa.table(arrays, names=[f"k{i}" for i in range(len(arrays))]))
        found = self._connection.sql(self._query).to_arrow_table().column("h")
        return np.asarray(found.to_numpy(), dtype=np.uint64)

    def bucket(self, hashes: npt.NDArray[np.uint64]) -> npt.NDArray[np.int64]:
        """int64 ``[n]``, each below ``buckets``."""
        return (hashes % np.uint64(self.buckets)).astype(np.int64)


class Buckets:
    """Writes rows to one file per bucket, then reads buckets back whole."""

    def __init__(self, folder: Path, buckets: int) -> None:
        folder.mkdir(parents=True)
        self._paths = [folder / f"{bucket:05d}.arrow" for bucket in range(buckets)]
        self._writers: dict[int, pa.ipc.RecordBatchFileWriter] = {}
        self.rows = np.zeros(buckets, dtype=np.int64)

    def write(self, table: pa.Table, buckets: npt.NDArray[np.int64]) -> None:
        """Append each row to its bucket. All tables have one schema."""
        counts = np.bincount(buckets, minlength=len(self._paths))
        if (counts > 0).sum() > 1:
            # NumPy sorts 16-bit integers by radix, several times faster; more buckets than that keep int64.
            codes = buckets.astype(np.uint16) if len(self._paths) <= 1 << 16 else buckets
            table = table.take(pa.array(np.argsort(codes, kind="stable")))
        start = 0
        for bucket in np.flatnonzero(counts).tolist():
            self._writer(bucket, table.schema).write_table(table.slice(start, int(counts[bucket])))
            start += int(counts[bucket])
        self.rows += counts

    def close(self) -> None:
        """All rows are in; they can be read now."""
        for writer in self._writers.values():
            writer.close()

    def read(self, bucket: int, schema: pa.Schema) -> pa.Table:
        """The rows of one bucket in the order written; an empty table of ``schema`` when there are none."""
        if bucket not in self._writers:
            return schema.empty_table()
        with pa.OSFile(str(self._paths[bucket])) as source:
            return pa.ipc.open_file(source).read_all()

    def drop(self, bucket: int) -> None:
        """Remove a bucket that is no longer needed."""
        self._paths[bucket].unlink(missing_ok=True)

    def _writer(self, bucket: int, schema: pa.Schema) -> pa.ipc.RecordBatchFileWriter:
        if bucket not in self._writers:
            path = str(self._paths[bucket])
            self._writers[bucket] = pa.ipc.new_file(path, schema, options=_OPTIONS)
        return self._writers[bucket]


class Cursor:
    """Reads a file of rows that ascend by an int64 column, front to back, keeping one record batch in memory."""

    def __init__(self, path: Path, column: str) -> None:
        self._source = pa.OSFile(str(path))
        self._file = pa.ipc.open_file(self._source)
        self._column = column
        self._next = 0
        self._rest: pa.Table = self._file.schema.empty_table()

    def below(self, end: int) -> pa.Table:
        """The rows not given yet whose column is below ``end``."""
        parts = []
        while True:
            if self._rest.num_rows == 0:
                if self._next == self._file.num_record_batches:
                    break
                self._rest = pa.Table.from_batches([self._file.get_batch(self._next)])
                self._next += 1
            cut = int(np.searchsorted(self._rest.column(self._column).to_numpy(), end, side="left"))
            parts.append(self._rest.slice(0, cut))
            if cut < self._rest.num_rows:
                self._rest = self._rest.slice(cut)
                break
            self._rest = self._rest.slice(cut)
        return pa.concat_tables(parts) if parts else self._file.schema.empty_table()

    def close(self) -> None:
        """Close the file."""
        self._source.close()
