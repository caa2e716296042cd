"""The rows that a streaming view aggregates, in DuckDB: every branch's events, cleaned by the definition's own SELECTs.

A cleaning is a table, not a view: DuckDB would put the conditions of several SELECTs together and evaluate them in an
order of its own, also on rows that an inner WHERE removes and the outer one has no value for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import duckdb
import pyarrow as pa

from dovetail.features.duck.connection import connect
from dovetail.features.language.source import quoted
from dovetail.features.plan.definitions import StreamView
from dovetail.features.plan.sources import with_sources
from dovetail.platform.errors import WireError
from dovetail.platform.rows.positions import OWN_COLUMNS

__all__ = ["RELATION", "by_stream", "cleaned_rows", "create_relation", "given_table"]

#: Where a view's rows are when its branches are cleaned and put together.
RELATION = "cleaned_events"


def given_table(view: StreamView, branch: int) -> str:
    """The table in which the events of a branch are handed over, as they arrived."""
    return "given_events" if len(view.reads) == 1 else f"given_events_{branch + 1}"


def by_stream(view: StreamView, events: pa.Table | Mapping[str, pa.Table]) -> Mapping[str, pa.Table]:
    """``events`` by stream; a table alone is the one stream's that ``view`` reads.

    Raises:
        WireError: a stream is missing, or the view reads several and one table is given.
    """
    if isinstance(events, pa.Table):
        if len(view.stream_names) > 1:
            raise WireError(f"{view.name} reads {', '.join(view.stream_names)}; give events = {{stream: table}}")
        return {view.stream_names[0]: events}
    for name in view.stream_names:
        if name not in events:
            raise WireError(f"{view.name} reads stream {name}, whose events are not given")
    return events


def create_relation(
    connection: duckdb.DuckDBPyConnection, view: StreamView, events: Mapping[str, pa.Table], positions: Sequence[str]
) -> str:
    """Hand over ``events``, by stream, and clean them; the table or view that has the rows.

    It has the columns of ``view.stream`` and ``positions``, ``_partition`` being the source.
    """
    parts = []
    for number, branch in enumerate(view.reads):
        connection.register(given_table(view, number), events[branch.stream.name])
        table = _clean(connection, view, number, positions, events[branch.stream.name].num_rows)
        names = [quoted(name) for name in view.stream.schema.arrow.names]
        parts.append(f"SELECT {', '.join([*names, *_sources(view, number, positions)])}\nFROM {table}")
    if not view.branches:
        return given_table(view, 0)
    connection.execute(f"CREATE TEMP VIEW {RELATION} AS\n" + "\nUNION ALL\n".join(parts))
    return RELATION


def cleaned_rows(view: StreamView, branch: int, events: pa.Table) -> pa.Table:
    """The rows that ``view`` cleans out of some events of a branch: its columns and the events' position columns.

    Raises:
        WireError: an expression has no value on some event.
    """
    if view.reads[branch].cleanings:
        connection = connect(threads=1)
        try:
            connection.register(given_table(view, branch), events)
            positions = [name for name in OWN_COLUMNS if name in events.column_names]
            events = connection.sql(
                f"FROM {_clean(connection, view, branch, positions, events.num_rows)}"
            ).to_arrow_table()
        except duckdb.Error as error:
            reason = str(error).split("\n", 1)[0]
            raise WireError(f"{view.file}:{view.line}: {view.name} has no value: {reason}") from error
        finally:
            connection.close()
    return with_sources(view, branch, events)


def _clean(
    connection: duckdb.DuckDBPyConnection, view: StreamView, branch: int, positions: Sequence[str], rows: int
) -> str:
    """The table with what the cleanings of a branch make of its ``rows`` events, which are handed over.

    What is generated begins with an underscore, as no declared column does: none is mistaken for it.
    """
    table = given_table(view, branch)
    for step, cleaning in enumerate(view.reads[branch].cleanings, start=1):
        columns = [f"{sql}\n AS {quoted(name)}" for name, sql in cleaning.columns]
        where = f" WHERE {cleaning.where}" if cleaning.where is not None else ""
        made = f"cleaned_{branch + 1}_{step}"
        cleaned = f"SELECT {', '.join([*columns, *positions])} FROM {table} AS _events{where}"
        connection.execute(f"CREATE TEMP TABLE {made} AS {cleaned}")
        before, rows = rows, connection.table(made).shape[0]
        if rows > before or (cleaning.where is None and rows < before):
            raise WireError(f"{view.file}:{view.line}: {view.name} makes {rows} rows of {before}: not row by row")
        table = made
    return table


def _sources(view: StreamView, branch: int, positions: Sequence[str]) -> list[str]:
    count = len(view.reads)
    moved = f"CAST(_partition * {count} + {branch} AS INTEGER) AS _partition"
    return [moved if name == "_partition" and count > 1 else name for name in positions]
