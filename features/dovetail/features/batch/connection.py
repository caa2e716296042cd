"""DuckDB connections, opened one way everywhere: hermetic, UTC, with the macros definitions may use."""

from __future__ import annotations

import duckdb

from dovetail.features.batch.macros import MACROS

__all__ = ["connect"]


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
    for macro in MACROS:
        connection.execute(macro)
    return connection
