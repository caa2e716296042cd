"""DuckDB for a query that its user has written over files of their own: it may read files, and nothing else is new."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import duckdb
import pyarrow as pa

from dovetail.platform.duck.quoting import identifier
from dovetail.platform.errors import ConfigError

__all__ = ["query_batches", "sort_parquet"]


@contextmanager
def query_batches(sql: str, rows: int) -> Iterator[pa.RecordBatchReader]:
    """The result of ``sql``, ``rows`` rows at a time. Paths in it are taken from the working directory; UTC.

    Raises:
        ConfigError: DuckDB refuses it.
    """
    settings: dict[str, str | bool | int | float | list[str]] = {"autoinstall_known_extensions": False}
    with duckdb.connect(":memory:", config=settings) as connection:
        connection.execute("SET GLOBAL TimeZone = 'UTC'")
        connection.execute("SET lock_configuration = true")
        try:
            yield connection.sql(sql).to_arrow_reader(rows)
        except duckdb.Error as error:
            raise ConfigError(f"DuckDB refuses the query {sql!r}: {error}") from error


def sort_parquet(source: Path, target: Path, by: Sequence[str], *, scratch: Path) -> None:
    """Write the rows of ``source`` to ``target``, sorted; what does not fit into 1 GiB is sorted in ``scratch``."""
    settings: dict[str, str | bool | int | float | list[str]] = {
        "autoinstall_known_extensions": False,
        "memory_limit": "1GiB",
        "temp_directory": str(scratch),
    }
    order = ", ".join(map(identifier, by))
    with duckdb.connect(":memory:", config=settings) as connection:
        rows = connection.read_parquet(str(source)).order(order)
        rows.write_parquet(str(target), compression="zstd")
