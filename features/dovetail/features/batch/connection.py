"""DuckDB connections, opened one way everywhere: hermetic, UTC, with the macros definitions may use."""

from __future__ import annotations

import duckdb

__all__ = ["HOP_MACRO", "connect"]

#: Lower bound of a hopping window, as a distance: exact at the head, the tail rounded down to ``step``.
HOP_MACRO = "CREATE MACRO hop(ts, size, step) AS ts - time_bucket(step, ts - size)"


def connect(*, threads: int | None = None) -> duckdb.DuckDBPyConnection:
    """A fresh in-memory database. ``threads`` 1 makes results that depend on evaluation order reproducible.

    SQL run in it reaches no file and no network, and installs no extension.
    """
    settings: dict[str, str | bool | int | float | list[str]] = {
        "enable_external_access": False,
        "autoinstall_known_extensions": False,
        "autoload_known_extensions": False,
        "python_enable_replacements": False,
    }
    if threads is not None:
        settings["threads"] = threads
    connection = duckdb.connect(":memory:", config=settings)
    connection.execute(HOP_MACRO)
    return connection
