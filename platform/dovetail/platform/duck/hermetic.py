"""The one way to open DuckDB: hermetic, in UTC, within the memory, threads and folder that are granted."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import duckdb

from dovetail.platform.duck.trace import TracedConnection

__all__ = ["Resources", "hermetic_connection", "resources"]


@dataclass(frozen=True, slots=True)
class Resources:
    """Limits of the connections opened in a :func:`resources` block; None leaves DuckDB's default.

    ``memory_bytes`` bounds DuckDB's own buffers; beyond it DuckDB writes to files in ``spill``, by default a folder of
    this process in the system's temporary one. Every statement is appended to ``script``, when there is one.
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


def hermetic_connection(*, threads: int | None = None) -> duckdb.DuckDBPyConnection:
    """A fresh in-memory database. ``threads`` 1 makes results that depend on evaluation order reproducible.

    SQL run in it reaches no file and no network, installs no extension and changes no setting; its time zone is UTC,
    whatever the machine's is, in every cursor.
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
    # DuckDB's own default is in the working directory. It makes the folder when it first spills, and removes it.
    spill = granted.spill or Path(tempfile.gettempdir()) / f"dovetail-duckdb-{os.getpid()}"
    settings["temp_directory"] = str(spill)
    connection = duckdb.connect(":memory:", config=settings)
    # GLOBAL, because a cursor starts from the database's settings and not from those of the connection it is of.
    connection.execute("SET GLOBAL TimeZone = 'UTC'")
    connection.execute("SET lock_configuration = true")
    if granted.script is not None:
        connection = cast("duckdb.DuckDBPyConnection", TracedConnection(connection, granted.script))
    return connection
