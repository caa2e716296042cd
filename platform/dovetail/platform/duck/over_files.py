"""DuckDB for a query that its user has written over files of their own: it may read files, and nothing else is new."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import duckdb
import pyarrow as pa

from dovetail.platform.duck.quoting import identifier
from dovetail.platform.errors import ConfigError

__all__ = ["query_batches", "sort_parquet"]


@contextmanager
def query_batches(sql: str, rows: int) -> Iterator[pa.RecordBatchReader]:
    """The result of ``sql``, ``rows`` rows at a time. Paths in it are taken from the working directory; UTC.

    What does not fit into 1 GiB is kept in a folder that is removed afterwards.

    Raises:
        ConfigError: DuckDB refuses it.
    """
    with TemporaryDirectory() as scratch, _connected(Path(scratch)) as connection:
        connection.execute("SET GLOBAL TimeZone = 'UTC'")
        connection.execute("SET lock_configuration = true")
        try:
            yield connection.sql(sql).to_arrow_reader(rows)
        except duckdb.Error as error:
            raise ConfigError(f"DuckDB refuses the query {sql!r}: {error}") from error


def sort_parquet(source: Path, target: Path, by: Sequence[str], *, scratch: Path) -> None:
    """Write the rows of ``source`` to ``target``, sorted; what does not fit into 1 GiB is sorted in ``scratch``."""
    with _connected(scratch) as connection:
        order = ", ".join(map(identifier, by))
        rows = connection.read_parquet(str(source)).order(order)
        rows.write_parquet(str(target), compression="zstd")


def _connected(scratch: Path) -> duckdb.DuckDBPyConnection:
    """A database in at most 1 GiB of memory and a folder."""
    settings: dict[str, str | bool | int | float | list[str]] = {
        "autoinstall_known_extensions": False,
        "memory_limit": "1GiB",
        "temp_directory": str(scratch),
    }
    return duckdb.connect(":memory:", config=settings)
