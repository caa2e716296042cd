"""The DuckDB connections of features: hermetic ones, with the macros that definitions may use."""

from __future__ import annotations

from functools import cache

import duckdb

from dovetail.features.duck.macros import MACROS
from dovetail.platform.duck.hermetic import Resources, hermetic_connection, resources

__all__ = ["connect", "shared_cursor"]


def connect(*, threads: int | None = None) -> duckdb.DuckDBPyConnection:
    """A :func:`~dovetail.platform.duck.hermetic.hermetic_connection` with :data:`MACROS`."""
    return hermetic_connection(threads=threads, prepared=MACROS)


def shared_cursor() -> duckdb.DuckDBPyConnection:
    """A connection of its own to the database of expressions, with one thread: no failure of other work reaches it.

    Failures of the expressions themselves are for their caller: after an internal error this database answers nothing.
    """
    return _of_expressions().cursor()


@cache
def _of_expressions() -> duckdb.DuckDBPyConnection:
    with resources(Resources(threads=1)):
        return connect()
