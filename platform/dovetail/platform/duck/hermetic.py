"""The one way to open DuckDB: hermetic, in UTC, within the memory, threads and folder that are granted."""

from __future__ import annotations

import atexit
import os
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import duckdb

from dovetail.platform.duck.trace import TracedConnection

__all__ = ["Grant", "Resources", "hermetic_connection", "resources"]


@dataclass(frozen=True, slots=True)
class Resources:
    """Limits of the connections opened in a block of a :class:`Grant`; None leaves DuckDB's default.

    ``memory_bytes`` bounds DuckDB's own buffers; beyond it DuckDB writes to files in ``spill``, by default a folder of
    this process in the system's temporary one. Every statement is appended to ``script``, when there is one.
    What is granted is granted to all of these connections together.
    """

    threads: int | None = None
    memory_bytes: int | None = None
    spill: Path | None = None
    script: list[str] | None = None


class _Databases:
    """The databases that were opened within some limits; each is opened once, and given up when DuckDB gave it up."""

    def __init__(self, limits: Resources) -> None:
        self.limits = limits
        self._opened: dict[tuple[int | None, Sequence[str]], duckdb.DuckDBPyConnection] = {}
        self._lock = threading.Lock()

    def cursor(self, threads: int | None, prepared: Sequence[str]) -> duckdb.DuckDBPyConnection:
        key = (threads, tuple(prepared))
        with self._lock:
            if key in self._opened:
                cursor = self._opened[key].cursor()
                try:
                    cursor.execute("SELECT 1").fetchall()
                except duckdb.FatalException:  # after an internal error a database answers nothing any more
                    del self._opened[key]
                else:
                    return cursor
            self._opened[key] = _open(self.limits, threads, prepared)
            return self._opened[key].cursor()

    def close(self) -> None:
        """Let go of them. Each closes with the last of its cursors; closing it now would close those."""
        with self._lock:
            self._opened.clear()


_OF_THE_PROCESS = _Databases(Resources())
atexit.register(_OF_THE_PROCESS.close)
#: What is granted, and the databases within it.
_GRANTED: ContextVar[tuple[Resources, _Databases]] = ContextVar("granted", default=(Resources(), _OF_THE_PROCESS))


class Grant:
    """Resources for several blocks one after the other, whose connections share databases until the grant is closed."""

    def __init__(self, granted: Resources) -> None:
        self._granted = granted
        self._databases = _Databases(replace(granted, script=None))

    @contextmanager
    def given(self) -> Iterator[None]:
        """Connections opened inside, in this thread or task, use what is granted. No value depends on it."""
        _, outer = _GRANTED.get()
        databases = outer if self._databases.limits == outer.limits else self._databases
        token = _GRANTED.set((self._granted, databases))
        try:
            yield
        finally:
            _GRANTED.reset(token)

    def close(self) -> None:
        """Let go of the databases; each closes with the last of its connections."""
        self._databases.close()


@contextmanager
def resources(granted: Resources) -> Iterator[None]:
    """Connections opened inside, in this thread or task, use what is ``granted``. No value depends on it."""
    grant = Grant(granted)
    try:
        with grant.given():
            yield
    finally:
        grant.close()


def hermetic_connection(*, threads: int | None = None, prepared: Sequence[str] = ()) -> duckdb.DuckDBPyConnection:
    """A connection of its own to an in-memory database. ``threads`` 1 makes results that depend on order reproducible.

    SQL run in it reaches no file and no network, installs no extension and changes no setting; its time zone is UTC,
    whatever the machine's is, in every cursor. The database is shared by all that ask for the same, because opening
    one takes 20 ms and a cursor microseconds: **what is made in it is made TEMP**, and so its own, and gone with it.
    ``prepared`` are statements that the database has run once: macros.
    """
    granted, databases = _GRANTED.get()
    connection = databases.cursor(granted.threads if threads is None else threads, prepared)
    if granted.script is not None:
        traced = TracedConnection(connection, granted.script)
        traced.note(prepared)
        return cast("duckdb.DuckDBPyConnection", traced)
    return connection


def _open(granted: Resources, threads: int | None, prepared: Sequence[str]) -> duckdb.DuckDBPyConnection:
    settings: dict[str, str | bool | int | float | list[str]] = {
        "enable_external_access": False,
        "autoinstall_known_extensions": False,
        "autoload_known_extensions": False,
        "python_enable_replacements": False,
    }
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
    for statement in prepared:
        connection.execute(statement)
    connection.execute("SET lock_configuration = true")
    return connection
