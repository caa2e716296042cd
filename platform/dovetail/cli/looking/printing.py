"""Rows as they are shown: a table for people, JSON lines for programs, Parquet in a file."""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterator
from contextlib import ExitStack
from datetime import date, datetime
from decimal import Decimal
from enum import StrEnum
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from dovetail.cli.listing import Column, Listing
from dovetail.cli.output import terminal
from dovetail.platform.errors import ConfigError

__all__ = ["Shape", "print_rows", "shape_of"]

_WIDEST = 120


class Shape(StrEnum):
    """The forms in which rows are shown."""

    table = "table"
    jsonl = "jsonl"
    parquet = "parquet"


def shape_of(form: str | None, out: Path | None, *, following: bool) -> Shape:
    """The form asked for; a table if none is, but Parquet with a file to write and JSON lines where rows go on coming.

    Raises:
        ConfigError: an unknown form, or Parquet without a file.
    """
    default = Shape.jsonl if following else Shape.table if out is None else Shape.parquet
    if form is not None and form not in list(Shape):
        raise ConfigError(f"--format {form!r}: choose from {', '.join(Shape)}")
    shape = default if form is None else Shape(form)
    if (shape is Shape.parquet) != (out is not None):
        raise ConfigError("--format parquet and --out FILE go together: Parquet is written to a file")
    if following and shape is not Shape.jsonl:
        raise ConfigError("--follow prints JSON lines, as rows come; leave out --format and --out")
    return shape


async def print_rows(title: str, tables: AsyncIterator[pa.Table], shape: Shape, out: Path | None) -> int:
    """Show the rows of ``tables``; returns how many there were."""
    rows, shown = 0, []
    with ExitStack() as stack:
        writer: pq.ParquetWriter | None = None
        draft = None if out is None else out.with_name(f".{out.name}.partial")
        async for table in tables:
            rows += table.num_rows
            if shape is Shape.jsonl:
                for row in table.to_pylist():
                    sys.stdout.write(json.dumps(row, default=_plain) + "\n")
                sys.stdout.flush()
            elif shape is Shape.table:
                shown.append(table)
            elif draft is not None:
                writer = writer or stack.enter_context(pq.ParquetWriter(draft, table.schema, compression="zstd"))
                if further := [name for name in table.column_names if name not in writer.schema.names]:
                    raise ConfigError(
                        f"--out {out}: rows that have come meanwhile have columns that those before have not: "
                        f"{', '.join(further)}; run it again, it is not written"
                    )
                writer.write_table(table.select(writer.schema.names).cast(writer.schema))
    if shape is Shape.table:
        _print_table(title, shown)
    elif out is not None and draft is not None and writer is not None:
        draft.rename(out)
        terminal().print(f"{out}: {rows:,} rows")
    elif out is not None:
        terminal().print(f"no rows, so {out} is not written")
    return rows


def _print_table(title: str, tables: list[pa.Table]) -> None:
    console = terminal()
    if not tables:
        console.print(f"{title}: no rows")
        return
    table = pa.concat_tables(tables, promote_options="permissive")
    names = [name for name in table.column_names if not name.startswith("_")]
    listing = Listing(
        f"{title}: {table.num_rows:,} rows", [Column(name, _kind(table.schema.field(name).type)) for name in names]
    )
    for row in table.select(names).to_pylist():
        listing.add(*(_text(row[name]) for name in names))
    listing.print(console)


def _kind(type_: pa.DataType) -> Any:
    if pa.types.is_integer(type_) or pa.types.is_floating(type_) or pa.types.is_decimal(type_):
        return "number"
    return "prose" if pa.types.is_nested(type_) or pa.types.is_string(type_) else "name"


def _text(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.6g}"
    text = value if isinstance(value, str) else _plain(value) if isinstance(value, date) else None
    text = json.dumps(value, default=_plain) if text is None and isinstance(value, list | dict) else text
    text = str(value) if text is None else text
    return text if len(text) <= _WIDEST else f"{text[:_WIDEST]} [...]"


def _plain(value: object) -> str:
    """A value that JSON has no notation for, as text: times in UTC, decimals by their digits."""
    if isinstance(value, datetime):
        return value.isoformat() + ("Z" if value.tzinfo is None else "")
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, Decimal):
        return str(value)
    raise TypeError(f"{type(value).__name__} cannot be shown")
