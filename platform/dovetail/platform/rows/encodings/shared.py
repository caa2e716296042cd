"""Tables in which rows that stand together share values: those are in the first of the rows alone.

A column ``x`` that is shared is called ``_shared.x`` and is NULL but in the first row of each run; ``_shared_back``
(int32) says for every row how many rows before it that first row stands. So tables that are put together, cut between
runs, written to Parquet or sent as Arrow stay what they are, and whoever does not know of this finds no column ``x``
rather than a NULL in it. Rows of tables that share nothing have a NULL in ``_shared_back`` when they are put together
with others, and their ``x`` in ``x``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

__all__ = [
    "SHARED_BACK",
    "Spreader",
    "as_dictionaries",
    "share",
    "shared_name",
    "shared_names",
    "some_rows",
    "spread",
    "spread_schema",
    "stored_as",
    "without_shared",
]

SHARED_BACK = "_shared_back"
_PREFIX = "_shared."
# About so much of values is made of shared ones at a time, in bytes.
_BYTES_AT_ONCE = 64 << 20

_Int64 = npt.NDArray[np.int64]


def share(table: pa.Table) -> pa.Table:
    """``table`` with the values of its dictionaries shared by the rows that stand together and have the same index.

    The dictionaries, at least of columns of one chunk, have the same indices. Without dictionaries it is ``table``.
    """
    names = [field.name for field in table.schema if pa.types.is_dictionary(field.type)]
    if not names or not table.num_rows:
        return table
    columns = {name: table.column(name).combine_chunks() for name in names}
    columns = {n: c.chunk(0) if isinstance(c, pa.ChunkedArray) else c for n, c in columns.items()}
    indices = np.asarray(columns[names[0]].indices.to_numpy(), dtype=np.int64)
    first = _changes(indices)
    firsts = pa.array(indices, mask=~first)
    made = []
    for field, column in zip(table.schema, table.columns, strict=True):
        if field.name in columns:
            made.append((_PREFIX + field.name, columns[field.name].dictionary.take(firsts)))
        else:
            made.append((field.name, column))
    names, values = [name for name, _ in made], [value for _, value in made]
    return pa.Table.from_arrays([*values, _back(first)], names=[*names, SHARED_BACK])


def as_dictionaries(table: pa.Table) -> pa.Table:
    """The inverse of :func:`share`: dictionaries for what rows share, by equal int32 indices; else ``table`` itself.

    A dictionary has a value for each run of rows, and one for each row that shares none. Runs are whole.
    """
    if SHARED_BACK not in table.column_names:
        return table
    back, own = _backs(table)
    holds = back == 0
    at = (np.cumsum(holds) - 1)[np.arange(table.num_rows) - back]
    indices, rows = pa.array(at.astype(np.int32)), np.flatnonzero(holds)
    held = _spread(table.select(_of_shared(table)).take(pa.array(rows)), np.arange(len(rows)), own[rows])
    columns: dict[str, pa.ChunkedArray | pa.Array] = {}
    for name, column in zip(table.column_names, table.columns, strict=True):
        flat = name.removeprefix(_PREFIX)
        if flat in held.column_names:
            values = held.column(flat).combine_chunks()
            columns[flat] = pa.DictionaryArray.from_arrays(indices, values)
        elif name != SHARED_BACK:
            columns[name] = column
    return pa.table(columns)


def _of_shared(table: pa.Table) -> list[str]:
    """The columns that rows share, and those with the values of rows that do not."""
    both = {name for each in shared_names(table.column_names) for name in (each, _PREFIX + each)}
    return [name for name in table.column_names if name in both]


def shared_name(name: str) -> str:
    """The name of the column ``name`` where rows share its values."""
    return _PREFIX + name


def spread_schema(schema: pa.Schema) -> pa.Schema:
    """The schema of tables of ``schema`` when they are spread."""
    fields: dict[str, pa.Field] = {}
    for field in schema:
        if field.name != SHARED_BACK:
            name = field.name.removeprefix(_PREFIX)
            fields.setdefault(name, field.with_name(name))
    return pa.schema(fields.values())


def shared_names(stored: Sequence[str]) -> list[str]:
    """The columns of ``stored`` that rows share, by the names that they have when they are spread."""
    return [name.removeprefix(_PREFIX) for name in stored if name.startswith(_PREFIX)]


def stored_as(names: Sequence[str], stored: Sequence[str]) -> list[str]:
    """Those of the ``stored`` columns that must be read for columns of these ``names``."""
    wanted = {*names, *(_PREFIX + name for name in names)}
    wanted |= {SHARED_BACK} if any(_PREFIX + name in stored for name in names) else set()
    return [name for name in stored if name in wanted]


def spread(table: pa.Table) -> pa.Table:
    """``table`` with every value in every row that has it; ``table`` itself where rows share nothing."""
    if SHARED_BACK not in table.column_names:
        return table
    back, own = _backs(table)
    return _spread(table, np.arange(table.num_rows, dtype=np.int64) - back, own)


def without_shared(table: pa.Table) -> pa.Table:
    """``table`` without the columns that rows share: where nobody reads them, no row needs a value of its own."""
    return table.drop_columns([n for n in table.column_names if n == SHARED_BACK or n.startswith(_PREFIX)])


def some_rows(table: pa.Table, rows: _Int64) -> pa.Table:
    """The ``rows`` of ``table``, by ascending index; those that shared values still do."""
    if SHARED_BACK not in table.column_names:
        return table.take(pa.array(rows))
    back, own = _backs(table)
    from_row = rows - back[rows]
    first = _changes(from_row)
    firsts = pa.array(from_row, mask=~first)
    columns = [
        column.take(firsts if name.startswith(_PREFIX) else pa.array(rows))
        for name, column in zip(table.column_names, table.columns, strict=True)
    ]
    at = table.column_names.index(SHARED_BACK)
    columns[at] = pa.chunked_array([pa.array(_back(first).to_numpy(), pa.int32(), mask=own[rows])])
    return pa.Table.from_arrays(columns, schema=table.schema)


class Spreader:
    """Spreads a table that comes in parts, whose cuts may be anywhere."""

    def __init__(self) -> None:
        self._before: pa.Table | None = None

    def parts(self, table: pa.Table) -> Iterator[pa.Table]:
        """The next part, spread, in parts again: values that many rows share are large when each has its own."""
        if SHARED_BACK not in table.column_names:
            yield table
            return
        carried = 0
        if self._before is not None:
            table, carried = pa.concat_tables([self._before, table]), self._before.num_rows
        back, own = _backs(table)
        from_row = np.arange(table.num_rows, dtype=np.int64) - back
        from_row = np.maximum(from_row, 0)  # those of the part before: its last values are carried along
        held = table.select([name for name in table.column_names if name.startswith(_PREFIX)])
        each = max(1, held.nbytes // max(1, len(np.unique(from_row))))
        step = max(1, _BYTES_AT_ONCE // each)
        for start in range(carried, table.num_rows, step):
            rows = np.arange(start, min(start + step, table.num_rows))
            yield _spread(table.take(pa.array(rows)), from_row[rows], own[rows], table)
        if table.num_rows > carried:
            self._before = table.take(pa.array(from_row[-1:]))


def _spread(table: pa.Table, from_row: _Int64, own: npt.NDArray[np.bool_], held_by: pa.Table | None = None) -> pa.Table:
    """``table`` with the values of ``held_by`` (default: itself) at ``from_row``; ``own``: rows that share none."""
    holder = table if held_by is None else held_by
    at = pa.array(from_row)
    columns: dict[str, pa.ChunkedArray] = {}
    for name, column in zip(table.column_names, table.columns, strict=True):
        if name == SHARED_BACK or _PREFIX + name in table.column_names:
            continue
        if name.startswith(_PREFIX):
            flat = name.removeprefix(_PREFIX)
            value = holder.column(name).take(at)
            if flat in table.column_names:
                # Rows with values of their own may be from before the column was declared wider, or from after it.
                wide = (
                    pa.unify_schemas(
                        [pa.schema([(flat, c.type)]) for c in (value, table.column(flat))], promote_options="permissive"
                    )
                    .field(0)
                    .type
                )
                both = pa.chunked_array([*value.cast(wide).chunks, *table.column(flat).cast(wide).chunks], wide)
                which = np.arange(table.num_rows) + np.where(own, table.num_rows, 0)
                value = both.take(pa.array(which))
            columns[flat] = value
        else:
            columns[name] = column
    return pa.table(columns)


def _backs(table: pa.Table) -> tuple[_Int64, npt.NDArray[np.bool_]]:
    """How many rows before each the one with its values stands, and which rows have their own all the same."""
    back = table.column(SHARED_BACK)
    distance = np.asarray(back.fill_null(0).to_numpy(), dtype=np.int64)
    return distance, np.asarray(back.is_null().to_numpy(), dtype=np.bool_)


def _changes(values: _Int64) -> npt.NDArray[np.bool_]:
    return np.concatenate((np.ones(min(len(values), 1), dtype=np.bool_), values[1:] != values[:-1]))


def _back(first: npt.NDArray[np.bool_]) -> pa.Array:
    rows = np.arange(len(first))
    return pa.array((rows - np.maximum.accumulate(np.where(first, rows, 0))).astype(np.int32))
