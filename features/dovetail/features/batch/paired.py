"""Values at probes by pairing each with its key's events: a join and one GROUP BY instead of windows over all rows.

Windows are computed at every row, though only probes are asked for, so for most keys pairing is the cheaper way to the
same values: events times probes of a key, against events plus probes. For a key that has many of both it is the dearer,
so each key goes the way that costs it less.
"""

from __future__ import annotations

import duckdb

from dovetail.features.batch.partials import lower_bound_sql, needs_positions, parts_sql, upper_bound_sql
from dovetail.features.language.source import quoted
from dovetail.features.plan.definitions import StreamView
from dovetail.features.plan.sources import order_columns

__all__ = [
    "bounds_sql",
    "create_inputs",
    "create_window_keys",
    "input_parts_sql",
    "paired_sql",
    "same_key_sql",
    "with_bounds_sql",
]

#: A window over one row costs about as much as this many pairs (ten aggregates over three: 2.2 us and 40 ns).
_PAIRS_PER_ROW = 64


def create_inputs(connection: duckdb.DuckDBPyConnection, view: StreamView, *, numbered: bool) -> None:
    """Table ``inputs``: per event its key, time, every argument and filter; its position where that decides ties.

    ``numbered`` adds the position in any case, and the number ``event`` of each."""
    columns = [f"{quoted(column)} AS k{index}" for index, column in enumerate(view.entity)]
    columns.append(f"{quoted(view.stream.event_time)} AS t")
    ordered = needs_positions(view)
    columns += ["_partition", "_offset"] if ordered or numbered else []
    columns += ["_row"] if ordered else []
    columns += ["row_number() OVER () AS event"] if numbered else []
    for index, wanted in enumerate(view.inputs):
        columns.append(f"({wanted.argument or 'true'}\n) AS a{index}")
        columns.append(f"({wanted.filter or 'true'}\n) AS f{index}")
    connection.execute(f"CREATE TEMP TABLE inputs AS SELECT {', '.join(columns)} FROM events AS _events")


def create_window_keys(connection: duckdb.DuckDBPyConnection, view: StreamView) -> None:
    """Table ``window_keys(k0 …)``: the keys for which windows over all rows are cheaper than pairs."""
    keys = ", ".join(f"k{index}" for index in range(len(view.entity)))
    connection.execute(
        f"""
        CREATE TEMP TABLE window_keys AS
        SELECT {keys} FROM (SELECT {keys}, count(*) AS events FROM inputs GROUP BY {keys})
        JOIN (SELECT {keys}, count(*) AS probes FROM probes GROUP BY {keys}) USING ({keys})
        WHERE events * probes > {_PAIRS_PER_ROW} * (events + probes)
        """
    )


def same_key_sql(view: StreamView) -> str:
    """That probe ``p`` and event ``e`` have one key; a NULL matches nothing."""
    return " AND ".join(f"e.k{index} = p.k{index}" for index in range(len(view.entity)))


def with_bounds_sql(view: StreamView) -> str:
    """The columns ``low<window>`` and ``high<window>``, the first and last event time in each window at ``t``, and
    ``low`` and ``high``, the least and greatest of them."""
    lows = [lower_bound_sql(window, "t") for window in view.windows]
    highs = [upper_bound_sql(window, "t") for window in view.windows]
    named = [f"{low} AS low{index}" for index, low in enumerate(lows)]
    named += [f"{high} AS high{index}" for index, high in enumerate(highs)]
    return ", ".join([*named, f"least({', '.join(lows)}) AS low", f"greatest({', '.join(highs)}) AS high"])


def bounds_sql(view: StreamView) -> str:
    """The columns of probe ``p`` that :func:`input_parts_sql` reads."""
    return ", ".join(f"p.low{index}, p.high{index}" for index in range(len(view.windows)))


def input_parts_sql(view: StreamView, index: int) -> str:
    """The exact parts of one aggregate over rows of ``inputs`` joined to a probe's ``low<window>`` and
    ``high<window>`` (and numbered by ``recency<window>``, for ROWS windows), all of which are named ``e``."""
    aggregate = view.aggregates[index]
    window = view.windows[aggregate.window]
    within = f"e.t >= e.low{aggregate.window}"
    if window.rows is not None:
        within = f"e.recency{aggregate.window} BETWEEN {window.skip + 1} AND {window.rows}"
    if window.end_us:
        within += f" AND e.t <= e.high{aggregate.window}"
    over = f"FILTER (WHERE e.f{aggregate.input} AND {within})"
    by = "NULL" if aggregate.by is None else f"e.a{aggregate.by}"
    position = ", ".join(["e.t", *order_columns(view, "e.")])
    return parts_sql(view, index, f"e.a{aggregate.input}", by, over, position)


def paired_sql(view: StreamView) -> str:
    """The parts of the aggregates over windows of time, of the probes whose key is none of ``window_keys``."""
    timed = [i for i, a in enumerate(view.aggregates) if view.windows[a.window].rows is None]
    keys = ", ".join(f"k{index}" for index in range(len(view.entity)))
    calls = "".join(f", {input_parts_sql(view, index)}" for index in timed)
    return f"""
        SELECT id AS _id{calls} FROM (
            SELECT p.id, {bounds_sql(view)}, e.*
            FROM (SELECT *, {with_bounds_sql(view)} FROM probes ANTI JOIN window_keys USING ({keys})) AS p
            LEFT JOIN inputs AS e ON {same_key_sql(view)} AND e.t BETWEEN p.low AND p.high
        ) AS e GROUP BY id
    """
