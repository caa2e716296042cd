"""Rows as programs hold them: data frames of any library, Arrow, dictionaries."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa

from dovetail.platform.errors import WireError
from dovetail.platform.rows import wire
from dovetail.platform.rows.conversion import conform
from dovetail.platform.rows.halving import halved
from dovetail.platform.rows.schema import TableSchema
from dovetail.platform.stage import Poll

__all__ = ["as_messages", "as_table", "given_rows", "has_column", "refuse"]


def given_rows(rows: Any) -> pa.Table | list[Any]:
    """``rows`` as a table, or as the list they are; a single dictionary is a list of one.

    Raises:
        WireError: they are neither a table nor dictionaries.
    """
    if isinstance(rows, Mapping):
        rows = [rows]
    if isinstance(rows, list):
        return rows
    if hasattr(rows, "collect") and not hasattr(rows, "__arrow_c_stream__"):
        raise WireError(f"rows of a {type(rows).__name__} are not computed yet: give its .collect()")
    try:
        table = pa.table(rows)
        table.validate(full=True)
    except (TypeError, ValueError, pa.ArrowException) as error:
        raise WireError(
            f"rows are a table (PyArrow, pandas, Polars, DuckDB) or a list of dictionaries, not {type(rows).__name__}"
        ) from error
    return table


def has_column(given: pa.Table | list[Any], name: str) -> bool:
    """Whether rows of :func:`given_rows` have a column: a table, or the first of the dictionaries."""
    if isinstance(given, list):
        return bool(given) and isinstance(given[0], Mapping) and name in given[0]
    return name in given.column_names


def as_messages(rows: Any) -> Sequence[bytes]:
    """Each row as a message of its own: JSON of a dictionary, Arrow of anything else; their order is kept.

    Raises:
        WireError: ``rows`` are neither a table nor dictionaries.
    """
    given = given_rows(rows)
    if isinstance(given, list):
        # Each by itself: one row's mistake is that row's.
        return [json.dumps(row, default=str).encode() for row in given]
    return [wire.encode(given.slice(row, 1)) for row in range(given.num_rows)]


def as_table(rows: Any, schema: TableSchema, called: str) -> pa.Table:
    """``rows`` with the columns of ``schema``, as the wire takes them; other columns are left out.

    Raises:
        WireError: ``rows`` are no rows, or one is not as declared: the first of them, and why. ``called`` names them.
    """
    given = given_rows(rows)
    if isinstance(given, list):
        none: list[None] = [None] * len(given)
        values = as_messages(given)
        numbers = np.arange(len(values))
        decoded = wire.decode(Poll(called, 0, numbers, numbers * 0, none, values, [()] * len(values)), schema)
        refuse({letter.offset: letter.reason for letter in decoded.dead}, called)
        return decoded.table.select(schema.arrow.names)
    good, failed = halved(range(given.num_rows), partial(_conformed, given, schema))
    refuse({row: _words(error) for row, error in failed}, called)
    return wire.concat([table for _, table in good], schema.arrow)


def refuse(bad: Mapping[int, str], called: str) -> None:
    """Raise a WireError with the first of the ``bad`` rows of ``called``, if there are any."""
    for row, reason in bad.items():
        more = f" ({len(bad) - 1} more rows are refused)" if len(bad) > 1 else ""
        raise WireError(f"{called}: row {row}: {reason}{more}")


def _conformed(given: pa.Table, schema: TableSchema, some: Sequence[int]) -> pa.Table:
    return conform(given.slice(some[0], len(some)), schema)


def _words(error: BaseException) -> str:
    return str(error) if isinstance(error, WireError) else f"{type(error).__name__}: {error}"
