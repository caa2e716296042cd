"""The DuckDB connections of features: hermetic ones, with the macros that definitions may use."""

from __future__ import annotations

from contextvars import Context
from functools import cache

import duckdb

from dovetail.features.duck.macros import MACROS
from dovetail.platform.duck.hermetic import hermetic_connection

__all__ = ["connect", "shared_cursor"]


def connect(*, threads: int | None = None) -> duckdb.DuckDBPyConnection:
    """A :func:`~dovetail.platform.duck.hermetic.hermetic_connection` with :data:`MACROS`."""
    connection = hermetic_connection(threads=threads)
    for macro in MACROS:
        connection.execute(macro)
    return connection


def shared_cursor() -> duckdb.DuckDBPyConnection:
    """A connection of its own to one database of this process, with one thread: what is registered in it is its own.

    A database takes some 20 ms to open, a cursor microseconds, and a definition has many expressions.
    """
    return _shared().cursor()


@cache
def _shared() -> duckdb.DuckDBPyConnection:
    # In an empty context: whatever the first caller was granted is not for all.
    return Context().run(connect, threads=1)
