"""DuckDB for a query that its user has written over files of their own: it may read files, and nothing else is new."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import duckdb
import pyarrow as pa

from dovetail.platform.errors import ConfigError

__all__ = ["query_batches"]


@contextmanager
def query_batches(sql: str, rows: int) -> Iterator[pa.RecordBatchReader]:
    """The result of ``sql``, ``rows`` rows at a time. Paths in it are taken from the working directory; UTC.

    Raises:
        ConfigError: DuckDB refuses it.
    """
    settings: dict[str, str | bool | int | float | list[str]] = {"autoinstall_known_extensions": False}
    with duckdb.connect(":memory:", config=settings) as connection:
        connection.execute("SET GLOBAL TimeZone = 'UTC'")
        try:
            yield connection.sql(sql).to_arrow_reader(rows)
        except duckdb.Error as error:
            raise ConfigError(f"DuckDB refuses the query {sql!r}: {error}") from error
