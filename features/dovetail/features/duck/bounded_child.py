"""The child process of ``bounded.py``: it answers questions until its parent is gone or one of them passes a limit."""

from __future__ import annotations

import json
import os
import pickle
import resource
import signal
import sys
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import IO

import duckdb
import pyarrow as pa
import pyarrow.ipc

from dovetail.features.duck.bounded import (
    BOUNDS,
    SIZES,
    Answer,
    Bounds,
    Question,
    read_exactly,
    read_within,
    stream_of,
)
from dovetail.features.duck.connection import connect
from dovetail.features.duck.stability import why_unstable
from dovetail.platform.duck.hermetic import Resources, resources
from dovetail.platform.duck.quoting import identifier

__all__ = ["answer", "serve"]

#: What DuckDB's tables may take of the memory.
_TABLES = 4
_ROWS_AT_ONCE = 2_048
_FIRST = stream_of(pa.table({"x": pa.array([], pa.string())}))


def serve() -> None:
    """Answer what comes on standard input on standard output."""
    # Whatever prints, libraries included, must not be taken for an answer.
    told = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    for ignored in (signal.SIGINT, signal.SIGTERM):  # the parent is told, and ends this with its pipe
        signal.signal(ignored, signal.SIG_IGN)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    _database(BOUNDS.memory_bytes // _TABLES)
    # Arrow reserves a gigabyte when it first allocates, DuckDB less when it first answers: no question pays for that.
    for kind in ("bind", "query"):
        answer(Question(kind, "SELECT x FROM first", {"first": _FIRST}, BOUNDS))
    told.write(b"\n")
    told.flush()
    held = _held()
    while True:
        try:
            size, _ = SIZES.unpack(read_exactly(sys.stdin.buffer, SIZES.size))
            question: Question = pickle.loads(read_exactly(sys.stdin.buffer, size))  # noqa: S301 - from the parent
        except EOFError:
            return
        if held is not None:
            _limit(held + size + question.bounds.memory_bytes)
        signal.setitimer(signal.ITIMER_REAL, question.bounds.seconds)
        try:
            found = answer(question)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        spent = found.limit is not None and not _is_as_before(held, question.bounds)
        _tell(told, found, last=spent)
        if spent:
            return


def answer(question: Question) -> Answer:
    """The answer to one question. Its tables are its own, and gone afterwards."""
    bounds = question.bounds
    memory = f"more than {bounds.memory_bytes >> 20} MiB of memory"
    types: list[str] = []
    connection = _database(bounds.memory_bytes // _TABLES).cursor()
    try:
        for name, stream in question.tables.items():
            table = pa.ipc.open_stream(stream).read_all()
            if question.kind == "bind":
                table = pa.Table.from_arrays([pa.nulls(1, type_) for type_ in table.schema.types], table.column_names)
                connection.register("_given", table)
                connection.execute(f"CREATE TEMP TABLE {identifier(name)} AS FROM _given")
                connection.unregister("_given")
            else:
                connection.register(name, table)
        if question.kind == "bind":
            relation = connection.sql(f"SELECT * FROM ({question.sql}\n) LIMIT 0")
            found, types = relation.to_arrow_table(), [str(type_) for type_ in relation.types]
            if (why := why_unstable(connection, question.sql)) is not None:
                return Answer(why, None, None)
            with suppress(duckdb.ConversionException, duckdb.InvalidInputException, duckdb.OutOfRangeException):
                connection.sql(question.sql).fetchall()
        else:
            found = read_within(connection.sql(question.sql).to_arrow_reader(_ROWS_AT_ONCE), bounds.result_bytes)
            if found is None:
                return Answer(None, f"more than the {bounds.result_bytes >> 20} MiB that a value may have", None)
    except (MemoryError, duckdb.OutOfMemoryException):
        return Answer(None, memory, None)
    except (duckdb.FatalException, duckdb.InternalException):  # of memory that it did not get, mostly
        _database.cache_clear()
        return Answer(None, memory, None)
    except OSError as error:  # DuckDB's error, from a reader of its result
        return Answer(None, memory, None) if "Out of Memory" in str(error) else Answer(str(error), None, None)
    except (duckdb.Error, pa.ArrowInvalid) as error:
        return Answer(str(error), None, None)
    finally:
        connection.close()
    return Answer(None, None, found, types)


@cache
def _database(memory_bytes: int) -> duckdb.DuckDBPyConnection:
    with resources(Resources(threads=1, memory_bytes=memory_bytes)):
        return connect(threads=1)


def _tell(pipe: IO[bytes], found: Answer, *, last: bool) -> None:
    head = json.dumps({"error": found.error, "limit": found.limit, "types": list(found.types), "last": last})
    sink = pa.BufferOutputStream()
    if found.table is not None:
        with pa.ipc.new_stream(sink, found.table.schema) as writer:
            writer.write_table(found.table)
    rows = sink.getvalue()
    pipe.write(SIZES.pack(len(head.encode()), rows.size) + head.encode())
    pipe.write(rows)
    pipe.flush()


def _held() -> int | None:
    """The bytes of data that this process has; None where the system does not say."""
    with suppress(OSError, StopIteration):
        status = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) << 10 for line in status if line.startswith("VmData:"))
    return None


def _is_as_before(held: int | None, bounds: Bounds) -> bool:
    """Whether the memory that a question has taken is free for the next one."""
    now = _held()
    return held is not None and now is not None and now - held < bounds.memory_bytes // _TABLES


def _limit(data_bytes: int) -> None:
    """Let this process have so many bytes of data, where the system counts that, and leave no core."""
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        resource.setrlimit(resource.RLIMIT_DATA, (data_bytes, hard))


if __name__ == "__main__":
    serve()
