"""Rows of files as declared: JSON lines, CSV, Parquet and Arrow IPC, or the result of a DuckDB query over files.

What fits is decided by the rules of the wire (``docs/types.md``), whatever the file is. A CSV holds texts: integers,
floats and booleans are read from them, decimals, dates and times are taken as JSON texts are, lists and structs are
written as JSON, and an empty field without quotes is NULL.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from dovetail.platform.duck.over_files import query_batches
from dovetail.platform.errors import ConfigError, WireError
from dovetail.platform.rows import json_lines, wire
from dovetail.platform.rows.conversion import conform, kind_of
from dovetail.platform.rows.halving import halved
from dovetail.platform.rows.positions import OWN_COLUMNS
from dovetail.platform.rows.schema import TableSchema
from dovetail.platform.stage import Poll

__all__ = ["FileFormat", "FileRows", "format_of", "is_query", "read_file"]

_ROWS_AT_ONCE = 16_384
_QUERY = re.compile(r"\s*(SELECT|FROM|WITH)\b", re.IGNORECASE)


class FileFormat(StrEnum):
    """The formats of files with rows. ``query`` is DuckDB SQL in place of a path."""

    jsonl = "jsonl"
    csv = "csv"
    parquet = "parquet"
    arrow = "arrow"
    query = "query"


_SUFFIXES = {
    ".jsonl": FileFormat.jsonl, ".ndjson": FileFormat.jsonl, ".json": FileFormat.jsonl, ".csv": FileFormat.csv,
    ".parquet": FileFormat.parquet, ".pq": FileFormat.parquet, ".arrow": FileFormat.arrow, ".arrows": FileFormat.arrow,
    ".ipc": FileFormat.arrow, ".feather": FileFormat.arrow,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class FileRows:
    """Some rows of a file, in its order: those that are as declared, and why others are not.

    ``numbers`` int64 [rows] counts from 1 (JSON lines: the line). ``bad`` are pairs of number and reason, ascending.
    ``raw`` are the rows' bytes as they stand in a file of JSON lines; None for other formats.
    """

    table: pa.Table
    numbers: npt.NDArray[np.int64]
    bad: Sequence[tuple[int, str]]
    raw: Sequence[bytes] | None = None


def is_query(source: str) -> bool:
    """Whether ``source`` is SQL and no path: it begins with SELECT, FROM or WITH."""
    return _QUERY.match(source) is not None


def format_of(source: str, argument: str) -> FileFormat:
    """The format of a file by its name's end, or ``query``.

    Raises:
        ConfigError: the name says nothing; ``argument`` is how the command line calls it.
    """
    if is_query(source):
        return FileFormat.query
    found = _SUFFIXES.get(Path(source).suffix.lower())
    if found is None:
        known = ", ".join(sorted(_SUFFIXES))
        raise ConfigError(f"{argument} {source}: its name does not say the format; known are {known}")
    return found


def read_file(source: str, form: FileFormat, schema: TableSchema, argument: str) -> Iterator[FileRows]:
    """The rows of ``source`` by ``schema``, a bounded number at a time; columns not declared are left out.

    Raises:
        ConfigError: it is not there, is not of its format, or has none of the declared columns.
    """
    readers: dict[FileFormat, Callable[[str, TableSchema], Iterator[FileRows]]] = {
        FileFormat.jsonl: _json_lines,
        FileFormat.csv: _csv,
        FileFormat.parquet: _parquet,
        FileFormat.arrow: _arrow,
        FileFormat.query: _query,
    }
    try:
        yield from readers[form](source, schema)
    except FileNotFoundError as error:
        raise ConfigError(f"{argument}: {source} does not exist") from error
    except (OSError, pa.ArrowException, csv.Error, UnicodeDecodeError) as error:
        raise ConfigError(f"{argument}: {source} cannot be read as {form.value}: {error}") from error


def _json_lines(source: str, schema: TableSchema) -> Iterator[FileRows]:
    with Path(source).open("rb") as file:
        lines = ((number, line.strip(b"\r\n")) for number, line in enumerate(file, 1) if not line.isspace())
        while some := list(islice(lines, _ROWS_AT_ONCE)):
            numbers, values = zip(*some, strict=True)
            yield _lines(np.array(numbers, dtype=np.int64), values, schema)


def _lines(numbers: npt.NDArray[np.int64], values: Sequence[bytes], schema: TableSchema) -> FileRows:
    # An Arrow stream has a line of its own only by accident; then it is not one row, and no JSON.
    none: list[None] = [None] * len(values)
    poll = Poll(schema.name, 0, numbers, np.zeros(len(values), np.int64), none, values, [()] * len(values))
    decoded = wire.decode(poll, schema)
    good = numbers[decoded.message_index]
    bad = [(letter.offset, letter.reason) for letter in decoded.dead]
    raw = [values[index] for index in decoded.message_index.tolist()]
    return FileRows(decoded.table.drop_columns(list(OWN_COLUMNS)), good, bad, raw)


def _csv(source: str, schema: TableSchema) -> Iterator[FileRows]:
    with Path(source).open(encoding="utf-8-sig", newline="") as file:
        header = next(csv.reader(file), [])
    names = _declared(header, schema)
    convert = pacsv.ConvertOptions(
        include_columns=names,
        column_types=dict.fromkeys(names, pa.string()),
        null_values=[""],
        strings_can_be_null=True,
        quoted_strings_can_be_null=False,
    )
    parse = pacsv.ParseOptions(newlines_in_values=True)
    with pacsv.open_csv(source, parse_options=parse, convert_options=convert) as batches:
        yield from _batches(batches, schema, lambda rows: conform(_read_texts(rows, schema), schema))


def _read_texts(texts: pa.Table, schema: TableSchema) -> pa.Table:
    """The columns of a CSV, which are texts, as the wire takes them."""
    columns = []
    for name in texts.column_names:
        column, declared = texts.column(name), schema.arrow.field(name)
        kind = kind_of(declared.type)
        if kind in ("integer", "float", "boolean"):
            try:
                column = column.cast(declared.type)
            except pa.ArrowInvalid as error:
                raise WireError(f"column {name}: {error}") from error
        elif kind in ("list", "struct"):
            column = _read_json_texts(column, declared, schema)
        columns.append(column)
    return pa.table(columns, names=texts.column_names)


def _read_json_texts(column: pa.ChunkedArray, declared: pa.Field, schema: TableSchema) -> pa.ChunkedArray:
    only = TableSchema(schema.name, schema.file, schema.line, pa.schema([declared.with_nullable(True)]))
    name = pa.scalar(f'{{"{declared.name}":')
    values = pc.binary_join_element_wise(name, pc.fill_null(column, "null"), pa.scalar("}"), "").to_pylist()
    try:
        return json_lines.parse([value.encode() for value in values], only).column(0)
    except WireError as error:
        raise WireError(f"column {declared.name}, a {declared.type} as JSON: {error}") from error


def _parquet(source: str, schema: TableSchema) -> Iterator[FileRows]:
    with pq.ParquetFile(source) as file:
        names = _declared(file.schema_arrow.names, schema)
        batches = file.iter_batches(_ROWS_AT_ONCE, columns=names)
        yield from _batches(batches, schema, lambda rows: conform(rows, schema))


def _arrow(source: str, schema: TableSchema) -> Iterator[FileRows]:
    with pa.memory_map(source) as file:
        try:
            reader = pa.ipc.open_file(file)
            batches: Iterator[pa.RecordBatch] = (reader.get_batch(index) for index in range(reader.num_record_batches))
            names = reader.schema.names
        except pa.ArrowInvalid:
            file.seek(0)
            stream = pa.ipc.open_stream(file)
            batches, names = iter(stream), stream.schema.names
        _declared(names, schema)
        yield from _batches(batches, schema, lambda rows: conform(rows, schema))


def _query(source: str, schema: TableSchema) -> Iterator[FileRows]:
    with query_batches(source, _ROWS_AT_ONCE) as batches:
        _declared(batches.schema.names, schema)
        yield from _batches(batches, schema, lambda rows: conform(rows, schema))


def _batches(
    batches: Iterator[pa.RecordBatch], schema: TableSchema, make: Callable[[pa.Table], pa.Table]
) -> Iterator[FileRows]:
    """The batches as declared: at once where all their rows are, found by halving where some are not."""
    first = 1
    for batch in batches:
        rows = pa.table(batch)
        good, failed = halved(range(rows.num_rows), partial(_made, make, rows))
        bad = [(first + row, _words(error)) for row, error in failed]
        at = np.concatenate([np.arange(some[0], some[-1] + 1) for some, _ in good]) if good else np.zeros(0, np.int64)
        yield FileRows(wire.concat([table for _, table in good], schema.arrow), first + at, bad)
        first += rows.num_rows


def _made(make: Callable[[pa.Table], pa.Table], rows: pa.Table, some: Sequence[int]) -> pa.Table:
    return make(rows.slice(some[0], len(some)))


def _declared(names: Sequence[str], schema: TableSchema) -> list[str]:
    found = [name for name in names if name in schema.arrow.names]
    if not found:
        raise ConfigError(
            f"none of its columns ({', '.join(names) or 'it has none'}) is one of {schema.name}, "
            f"declared in {schema.file}: {', '.join(schema.arrow.names)}"
        )
    return found


def _words(error: Exception) -> str:
    return str(error) if isinstance(error, WireError) else f"{type(error).__name__}: {error}"
