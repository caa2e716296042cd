"""The rows that somebody asks for among those of a stream of tables: by key, by condition, up to a number."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass

import pyarrow as pa

from dovetail.platform.duck.condition import Condition
from dovetail.platform.errors import ConfigError

__all__ = ["Asked", "chosen"]


@dataclass(frozen=True, slots=True)
class Asked:
    """The choice: rows of any of ``keys`` (all if empty) for which ``where`` holds, ``limit`` of them at most.

    ``columns`` are those shown, in this order; all if empty.
    """

    keys: Sequence[str] = ()
    where: str | None = None
    columns: Sequence[str] = ()
    limit: int | None = None


async def chosen(
    tables: AsyncIterator[pa.Table], asked: Asked, has_key: Callable[[pa.Table, Sequence[str]], pa.Array]
) -> AsyncIterator[pa.Table]:
    """The rows asked for, in order; no more of ``tables`` is read than that needs.

    ``has_key`` gives a mask over a table's rows: those of one of the keys.

    Raises:
        ConfigError: a condition that DuckDB refuses, or a column that is not there.
    """
    left, condition = asked.limit, None if asked.where is None else Condition(asked.where)
    async for table in tables:
        rows = table.filter(has_key(table, asked.keys)) if asked.keys else table
        if condition is not None and rows.num_rows:
            rows = condition.choose(rows)
        if left is not None:
            rows = rows.slice(0, left)
            left -= rows.num_rows
        if rows.num_rows:
            yield _selected(rows, asked.columns)
        if left == 0:
            return


def _selected(rows: pa.Table, columns: Sequence[str]) -> pa.Table:
    if missing := [name for name in columns if name not in rows.column_names]:
        raise ConfigError(f"--columns: there is no column {missing[0]!r}; there are {', '.join(rows.column_names)}")
    return rows.select(list(columns)) if columns else rows
