"""The events that one value of a streaming view is made of: those of its key, in its window, that it had seen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import duckdb
import pyarrow as pa

from dovetail.features.batch.relation import create_relation
from dovetail.features.duck.connection import connect
from dovetail.features.language.source import quoted
from dovetail.features.plan.definitions import Aggregate, StreamView
from dovetail.features.plan.sources import order_columns
from dovetail.platform.duck.quoting import literal
from dovetail.platform.errors import WireError
from dovetail.platform.rows.positions import OWN_COLUMNS

__all__ = ["COUNTED", "SeenEvents", "seen_events"]

#: The column that names, for each event, the aggregates that count it.
COUNTED = "_counted_by"
_AT = "_asked"


class SeenEvents(NamedTuple):
    """Events, the newest first, with their positions and :data:`COUNTED`; ``total`` of them, if more than are here.

    ``positions`` are by source: of a view over a UNION ALL see ``plan/sources.py``.
    """

    events: pa.Table
    total: int


def seen_events(
    view: StreamView,
    aggregates: Sequence[Aggregate],
    events: Mapping[str, pa.Table],
    key: Mapping[str, Any],
    *,
    time_us: int,
    seen: Sequence[int],
    most: int = 200,
) -> SeenEvents:
    """The events that ``aggregates`` of ``view`` for ``key`` at ``time_us`` are made of, at most ``most`` of them.

    ``events``: by stream, the archived rows with their positions; of a view that cleans nothing those of the key are
    enough. ``seen`` is, by source, the first offset that the value had not seen.

    Raises:
        WireError: an expression of the definition has no value on some event.
    """
    connection = connect(threads=1)
    try:
        relation = create_relation(connection, view, events, OWN_COLUMNS)
        asked = {column: pa.array([key[column]]) for column in view.entity}
        asked = {c: v.cast(t) for (c, v), t in zip(asked.items(), view.entity_types, strict=True)}
        connection.register(_AT, pa.table(asked))
        rows = _counted_sql(view, aggregates, relation, time_us, seen)
        newest = ", ".join(f"{part} DESC" for part in [quoted(view.stream.event_time), *order_columns(view)])
        connection.execute(f"CREATE TEMP TABLE counted AS SELECT * FROM ({rows}) WHERE len({COUNTED}) > 0")
        total = connection.table("counted").shape[0]
        return SeenEvents(
            connection.sql(f"FROM counted ORDER BY {newest} LIMIT {int(most)}").to_arrow_table(), int(total)
        )
    except duckdb.Error as error:
        reason = str(error).split("\n", 1)[0]
        raise WireError(f"{view.file}:{view.line}: {view.name} has no value: {reason}") from error
    finally:
        connection.close()


def _counted_sql(
    view: StreamView, aggregates: Sequence[Aggregate], relation: str, time_us: int, seen: Sequence[int]
) -> str:
    """The key's events that had been seen, each with the names of the aggregates that count it."""
    time = quoted(view.stream.event_time)
    offsets = f"CAST([{', '.join(str(int(offset)) for offset in seen)}] AS BIGINT[])"
    where = [f"{quoted(c)} = (SELECT {quoted(c)} FROM {_AT})" for c in view.entity]
    where += [f"_offset < coalesce(({offsets})[_partition + 1], 0)", f"{time} <= {_moment(time_us)}"]
    if view.where is not None:
        where.append(f"({view.where}\n)")
    ranks, calls = [], []
    newest = ", ".join(f"{part} DESC" for part in [time, *order_columns(view)])
    for number, window in enumerate(view.windows):
        if window.rows is not None:
            inside = f"{time} <= {_moment(time_us - window.end_us)}"
            ranks.append(f", row_number() OVER (PARTITION BY {inside} ORDER BY {newest}) AS _rank_{number}")
    for aggregate in aggregates:
        counted = _counts(view, aggregate, time_us)
        calls.append(f"CASE WHEN {counted} THEN {literal(aggregate.output)} END")
    listed = f"list_filter([{', '.join(calls)}]::VARCHAR[], lambda x: x IS NOT NULL)" if calls else "[]::VARCHAR[]"
    names = ", ".join([*map(quoted, view.stream.schema.arrow.names), *OWN_COLUMNS])
    return f"""
        SELECT {names}, {listed} AS {COUNTED}
        FROM (SELECT *{"".join(ranks)} FROM {relation} AS _rows WHERE {" AND ".join(where)}) AS _rows"""


def _counts(view: StreamView, aggregate: Aggregate, time_us: int) -> str:
    """Whether an event of the key is one of those that the aggregate is made of."""
    window, time = view.windows[aggregate.window], quoted(view.stream.event_time)
    holds = [f"{time} <= {_moment(time_us - window.end_us)}"]
    if window.bounded_us:
        holds.append(f"{time} >= {_moment(window.lower_bound(time_us))}")
    if window.rows is not None:
        holds += [f"_rank_{aggregate.window} > {window.skip}", f"_rank_{aggregate.window} <= {window.rows}"]
    read = view.inputs[aggregate.input]
    if read.filter is not None:
        holds.append(f"({read.filter}\n)")
    if read.argument is not None and not aggregate.nulls:
        holds.append(f"({read.argument}\n) IS NOT NULL")
    if aggregate.by is not None and aggregate.function in ("arg_min", "arg_max"):
        by = view.inputs[aggregate.by].argument
        holds.append("true" if by is None else f"({by}\n) IS NOT NULL")
    return " AND ".join(holds)


def _moment(time_us: int) -> str:
    return f"make_timestamp({int(time_us)})"
