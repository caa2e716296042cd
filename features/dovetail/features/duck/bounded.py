"""Texts whose values may grow, computed in a child process that has a limit of memory and one of time.

DuckDB bounds its tables, not the values of expressions, and nothing but the end of its process stops a function that is
at work. So the child is ended when it takes too long, and refuses itself memory beyond the limit. The next question
starts another. It needs a quarter of a second of processor time to start, and ends with its parent.
"""

from __future__ import annotations

import atexit
import json
import os
import pickle
import signal
import struct
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import IO, Any

import pyarrow as pa
import pyarrow.ipc

from dovetail.features.duck.parsing import BindError
from dovetail.platform.errors import EngineFailed

__all__ = [
    "BOUNDS",
    "SIZES",
    "VIEW_BOUNDS",
    "Answer",
    "Bounds",
    "OutOfBounds",
    "Question",
    "bounded_bind",
    "bounded_query",
    "read_exactly",
    "read_within",
    "stream_of",
]

#: Sizes of the two parts of a message: what is said of it, and its rows.
SIZES = struct.Struct("<QQ")


@dataclass(frozen=True, slots=True)
class Bounds:
    """Limits of one question: memory beyond what the child has when it is idle, seconds, and bytes of the result."""

    memory_bytes: int = 1 << 30
    seconds: float = 5.0
    result_bytes: int = 256 << 20


#: Of an expression over the rows of a poll, halved until it is one row that passes them.
BOUNDS = Bounds()
#: Of a batch view, which reads whole tables.
VIEW_BOUNDS = Bounds(memory_bytes=4 << 30, seconds=600.0, result_bytes=2 << 30)


class OutOfBounds(Exception):
    """A question takes more than it may; ``str()`` says of what, like ``longer than 5 s``."""


@dataclass(frozen=True, slots=True)
class Question:
    """``sql`` over ``tables``, Arrow streams by name. ``kind`` ``bind`` asks for the schema alone.

    To bind, it is run over one row of NULLs per table, too, so that all that no row decides is computed once.
    """

    kind: str
    sql: str
    tables: Mapping[str, bytes]
    bounds: Bounds


@dataclass(frozen=True, slots=True)
class Answer:
    """The child's answer: ``error`` is DuckDB's, ``limit`` says what was passed; else there is ``table``.

    ``types`` are those of its columns as DuckDB writes them, of a question to bind. ``last``: it answers no more.
    """

    error: str | None
    limit: str | None
    table: pa.Table | None
    types: Sequence[str] = ()
    last: bool = False


def bounded_bind(sql: str, tables: Mapping[str, pa.Schema]) -> tuple[pa.Schema, Sequence[str]]:
    """The schema of a query, and its types as DuckDB writes them, if what it computes of no row keeps within
    :data:`BOUNDS`.

    Raises:
        BindError: DuckDB refuses it, or it does not keep within them.
        EngineFailed: no child process starts.
    """
    empty = {name: stream_of(schema.empty_table()) for name, schema in tables.items()}
    try:
        answer = _child().ask(Question("bind", sql, empty, BOUNDS))
    except OutOfBounds as error:
        raise BindError(
            f"computing it once takes {error}\nmake the numbers smaller that say how much is made of a row: "
            "those of range, repeat, lpad, list_resize and their like"
        ) from error
    if answer.error is not None:
        raise BindError(answer.error)
    assert answer.table is not None  # noqa: S101 - neither error nor limit
    return answer.table.schema, answer.types


def bounded_query(
    sql: str, tables: Mapping[str, pa.Table], bounds: Bounds | None = None, *, apart: bool = False
) -> pa.Table:
    """The result of a query over ``tables`` within ``bounds`` (:data:`BOUNDS`).

    It runs ``apart``, in a child of its own, where it may take long and others would wait.

    Raises:
        OutOfBounds: it takes more memory, time or result than ``bounds`` say.
        ValueError: DuckDB's error.
        EngineFailed: no child process starts.
    """
    child, streams = _Child() if apart else _child(), {name: stream_of(table) for name, table in tables.items()}
    try:
        answer = child.ask(Question("query", sql, streams, bounds or BOUNDS))
    finally:
        if apart:
            child.stop()
    if answer.error is not None:
        raise ValueError(answer.error)
    assert answer.table is not None  # noqa: S101 - neither error nor limit
    return answer.table


def read_within(reader: pa.RecordBatchReader, most_bytes: int) -> pa.Table | None:
    """All rows of ``reader``; None where they have more bytes."""
    batches, size = [], 0
    for batch in reader:
        size += batch.nbytes
        if size > most_bytes:
            return None
        batches.append(batch)
    return pa.Table.from_batches(batches, reader.schema)


class _Child:
    """One process and the pipes to it. Threads wait for each other."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None

    def ask(self, question: Question) -> Answer:
        with self._lock:
            for attempt in (1, 2):
                fresh = self._process is None
                process = self._process = self._process or self._start()
                try:
                    answer = _talk(process, question)
                except (BrokenPipeError, EOFError):
                    how = self._ended()
                    # One that ended between two questions says nothing about this one.
                    if how is None or (not fresh and attempt == 1 and how != signal.SIGALRM):
                        continue
                    raise OutOfBounds(_passed(how, question.bounds)) from None
                if answer.last:
                    self._ended()
                if answer.limit is not None:
                    raise OutOfBounds(answer.limit)
                return answer
        raise EngineFailed("a child process to compute expressions in does not start; is there memory for one?")

    def stop(self) -> None:
        """End the process, if there is one."""
        atexit.unregister(self.stop)
        if self._process is not None:
            self._process.kill()
            self._ended()

    def _start(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "dovetail.features.duck.bounded_child"]
        try:
            process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)  # noqa: S603 - our own
        except OSError as error:
            raise EngineFailed(f"a child process to compute expressions in does not start: {error}") from error
        assert process.stdout is not None  # noqa: S101 - PIPE
        try:
            read_exactly(process.stdout, 1)  # it is ready
        except EOFError:
            process.wait()
            raise EngineFailed(
                f"a child process to compute expressions in does not start: exit code {process.returncode}"
            ) from None
        atexit.register(self.stop)
        return process

    def _ended(self) -> int | None:
        """Wait for the process to end, and forget it; the signal that ended it."""
        process, self._process = self._process, None
        if process is None:
            return None
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with suppress(BrokenPipeError):  # what was not read by it
                    pipe.close()
        code = process.wait()
        return -code if code < 0 else 0


#: By process: one that was forked off has no right to another's pipes.
_CHILDREN: dict[int, _Child] = {}
_MAKING = threading.Lock()


def _child() -> _Child:
    with _MAKING:
        return _CHILDREN.setdefault(os.getpid(), _Child())


def _talk(process: subprocess.Popen[bytes], question: Question) -> Answer:
    assert process.stdin is not None  # noqa: S101 - PIPE
    assert process.stdout is not None  # noqa: S101 - PIPE
    said = pickle.dumps(question)
    process.stdin.write(SIZES.pack(len(said), 0) + said)
    process.stdin.flush()
    head, rows = SIZES.unpack(read_exactly(process.stdout, SIZES.size))
    told: dict[str, Any] = json.loads(read_exactly(process.stdout, head))
    table = pa.ipc.open_stream(read_exactly(process.stdout, rows)).read_all() if rows else None
    return Answer(told["error"], told["limit"], table, told["types"], told["last"])


def read_exactly(pipe: IO[bytes], size: int) -> bytes:
    """The next ``size`` bytes.

    Raises:
        EOFError: the other side has ended.
    """
    found = pipe.read(size)
    if len(found) < size:
        raise EOFError
    return found


def stream_of(table: pa.Table) -> bytes:
    """``table`` as a question has it."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


def _passed(how: int, bounds: Bounds) -> str:
    if how == signal.SIGALRM:
        return f"longer than {bounds.seconds:g} s"
    name = signal.Signals(how).name if how else "its end"
    return f"more than {bounds.memory_bytes >> 20} MiB of memory ({name})"
