"""DuckDB connections, opened one way everywhere: hermetic, UTC, with the macros definitions may use."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import Context, ContextVar
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import cast

import duckdb

from dovetail.features.duck.macros import MACROS
from dovetail.features.duck.trace import TracedConnection

__all__ = ["Resources", "connect", "resources", "shared_cursor"]


@dataclass(frozen=True, slots=True)
class Resources:
    """What connections opened in a :func:`resources` block may use; None leaves DuckDB's default.

    ``memory_bytes`` bounds DuckDB's own buffers; beyond it DuckDB writes to files in ``spill``. Every statement is
    appended to ``script``, when there is one.
    """

    threads: int | None = None
    memory_bytes: int | None = None
    spill: Path | None = None
    script: list[str] | None = None


_DEFAULTS = Resources()
_RESOURCES: ContextVar[Resources] = ContextVar("resources", default=_DEFAULTS)


@contextmanager
def resources(granted: Resources) -> Iterator[None]:
    """Connections opened inside, in this thread or task, use what is ``granted``. No value depends on it."""
    token = _RESOURCES.set(granted)
    try:
        yield
    finally:
        _RESOURCES.reset(token)


def connect(*, threads: int | None = None) -> duckdb.DuckDBPyConnection:
    """A fresh in-memory database. ``threads`` 1 makes results that depend on evaluation order reproducible.

    SQL run in it reaches no file and no network, and installs no extension.
    """
    granted = _RESOURCES.get()
    settings: dict[str, str | bool | int | float | list[str]] = {
        "enable_external_access": False,
        "autoinstall_known_extensions": False,
        "autoload_known_extensions": False,
        "python_enable_replacements": False,
    }
    threads = granted.threads if threads is None else threads
    if threads is not None:
        settings["threads"] = threads
    if granted.memory_bytes is not None:
        settings["memory_limit"] = f"{granted.memory_bytes}B"
    if granted.spill is not None:
        settings["temp_directory"] = str(granted.spill)
    connection = duckdb.connect(":memory:", config=settings)
    connection.execute("SET GLOBAL TimeZone = 'UTC'")  # for cursors too; otherwise it is the machine's
    if granted.script is not None:
        connection = cast("duckdb.DuckDBPyConnection", TracedConnection(connection, granted.script))
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
