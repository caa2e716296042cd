"""Streaming views at past moments, in DuckDB: what their values mean, by the definition's own text.

*Value at (key, T)*: put a probe row for key at T among the events, run the definition's window expressions, let the
probe contribute nothing, keep the probe. That is how keys with many events and probes are computed; for the others the
same events are found by a join (``paired.py``). DuckDB finds the exact integers (counts, sums, extremes); what turns
them into feature values is ``finish.py``, which the stream engine uses, too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal, NamedTuple

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from dovetail.features.batch.paired import create_inputs, create_window_keys, paired_sql
from dovetail.features.batch.partials import (
    finished,
    frame_sql,
    input_sql,
    needs_positions,
    parts_sql,
    row_windows,
)
from dovetail.features.batch.relation import RELATION, by_stream, create_relation, given_table
from dovetail.features.batch.visibility import recompute_as_served
from dovetail.features.duck.connection import connect
from dovetail.features.duck.lane import DuckLane, LaneError
from dovetail.features.language.source import quoted
from dovetail.features.plan.aggregates import MAX_LISTED
from dovetail.features.plan.definitions import StreamView
from dovetail.features.plan.sources import order_columns
from dovetail.platform.errors import WireError
from dovetail.platform.rows.positions import OWN_COLUMNS

__all__ = ["EvaluatedView", "Visibility", "evaluate_rows", "evaluate_view", "positions_read"]

#: ``event_time``: every event up to T, whenever it arrived. ``as_served``: those that had been applied by then.
Visibility = Literal["event_time", "as_served"]
#: Probes times rows of their frames that are joined at once, where frames are long.
_PAIRS = 20_000_000


class EvaluatedView(NamedTuple):
    """Values in probe order, with the view's ``output_schema``.

    ``late`` marks the probes whose windows hold an event they had not seen: where ``as_served`` and ``event_time`` may
    differ. All False for ``event_time``. ``happened`` has the values of ``event_time`` at those probes, in order; those
    of the others are the same.
    """

    values: pa.Table
    late: npt.NDArray[np.bool_]
    happened: pa.Table


def positions_read(view: StreamView, visibility: Visibility) -> tuple[str, ...]:
    """The position columns that evaluation needs of the events."""
    if needs_positions(view):
        return OWN_COLUMNS
    return OWN_COLUMNS[:2] if visibility == "as_served" else ()


def evaluate_view(
    view: StreamView,
    events: pa.Table | Mapping[str, pa.Table],
    probes: pa.Table,
    *,
    time_column: str = "request_time",
    seen_column: str = "seen",
    visibility: Visibility = "event_time",
) -> EvaluatedView:
    """``view`` at each probe.

    Args:
        events: by stream, as they arrived, or those of the one stream: its columns; for ``as_served`` also
            ``_partition`` and ``_offset``, and where an aggregate depends on the order of events (``first``,
            ``arg_max``, ROWS windows …) also ``_row``.
        probes: the entity columns and ``time_column`` (timestamp[us]); for ``as_served`` also ``seen_column``,
            list<int64> by source: the first offset the probe did *not* see (missing or NULL: it saw nothing).

    A NULL in the key matches nothing: counts are 0, other aggregates NULL.

    Raises:
        WireError: a missing column or stream, or an expression without value on some event.
        StateError: a sum has more than 38 digits.
    """
    given = by_stream(view, events)
    positions = positions_read(view, visibility)
    for branch in view.reads:
        name = branch.stream.name
        what = "events" if len(view.stream_names) == 1 else f"events of {name}"
        _require(given[name], [*branch.stream.schema.arrow.names, *positions], what)

    def relation(connection: duckdb.DuckDBPyConnection) -> str:
        return create_relation(connection, view, given, positions)

    return _evaluated(view, relation, probes, time_column, seen_column, visibility)


def evaluate_rows(
    view: StreamView,
    rows: pa.Table,
    probes: pa.Table,
    *,
    time_column: str = "request_time",
    seen_column: str = "seen",
    visibility: Visibility = "event_time",
) -> EvaluatedView:
    """As :func:`evaluate_view`, of ``rows`` that :func:`~.relation.cleaned_rows` gave: the view's own columns, and
    :func:`positions_read` with sources for partitions."""
    _require(rows, [*view.stream.schema.arrow.names, *positions_read(view, visibility)], "events")

    def relation(connection: duckdb.DuckDBPyConnection) -> str:
        name = RELATION if view.branches else given_table(view, 0)
        connection.register(name, rows)
        return name

    return _evaluated(view, relation, probes, time_column, seen_column, visibility)


def _evaluated(
    view: StreamView,
    relation: Callable[[duckdb.DuckDBPyConnection], str],
    probes: pa.Table,
    time_column: str,
    seen_column: str,
    visibility: Visibility,
) -> EvaluatedView:
    as_served = visibility == "as_served"
    _require(probes, [*view.entity, time_column, *([seen_column] if as_served else [])], "probes")
    connection = connect()
    try:
        owner = _distinct_probes(connection, view, probes, time_column, seen_column if as_served else None)
        _keyed_events(connection, view, relation(connection))
        create_inputs(connection, view, numbered=as_served)
        exact = _with_row_windows(connection, view, _time_windows(connection, view))
        if exact.num_rows != int(owner.max(initial=-1)) + 1:
            raise WireError(f"{view.file}:{view.line}: {view.name} has {exact.num_rows} rows of values: not row by row")
        late, served = np.zeros(exact.num_rows, dtype=np.bool_), exact
        if as_served:
            late, served = recompute_as_served(connection, view, exact)
    except duckdb.Error as error:
        reason = str(error).split("\n", 1)[0]
        raise WireError(f"{view.file}:{view.line}: {view.name} has no value: {reason}") from error
    finally:
        connection.close()
    values = _outputs(view, served).take(pa.array(owner)).combine_chunks()
    happened = view.output_schema.empty_table()
    if late.any():
        place = np.cumsum(late) - 1
        happened = _outputs(view, exact.filter(pa.array(late)).combine_chunks())
        happened = happened.take(pa.array(place[owner[late[owner]]])).combine_chunks()
    return EvaluatedView(values, late[owner], happened)


def _outputs(view: StreamView, exact: pa.Table) -> pa.Table:
    """The view's outputs of the exact parts of its aggregates."""
    columns = [finished(view, index, exact) for index in range(len(view.aggregates))]
    aggregates = pa.Table.from_arrays(columns, schema=view.aggregate_schema)
    values = dict(zip(aggregates.column_names, aggregates.columns, strict=True))
    if view.derived:
        lane = DuckLane([(derived.sql, derived.type) for derived in view.derived], threads=None)
        try:
            arrays = lane.evaluate(aggregates)
        except LaneError as error:
            raise WireError(f"{view.file}:{view.line}: {view.name} has no value: {error}") from error
        values |= {derived.output: array for derived, array in zip(view.derived, arrays, strict=True)}
    return pa.table([values[name] for name in view.output_schema.names], schema=view.output_schema)


def _require(table: pa.Table, columns: Sequence[str], what: str) -> None:
    missing = [column for column in columns if column not in table.column_names]
    if missing:
        raise WireError(f"{what} have no column {missing[0]!r}; they have {', '.join(table.column_names)}")


def _distinct_probes(
    connection: duckdb.DuckDBPyConnection, view: StreamView, probes: pa.Table, time_column: str, seen: str | None
) -> npt.NDArray[np.int64]:
    """Table ``probes(id, k0 …, t, seen)`` without repetitions (a request's candidates share its user), and which of
    them each given probe is."""
    keys = [f"k{index}" for index in range(len(view.entity))]
    arrays = [*(probes.column(column) for column in view.entity), probes.column(time_column).cast(pa.timestamp("us"))]
    names = [*keys, "t"]
    if seen is not None:
        arrays, names = [*arrays, probes.column(seen).cast(pa.list_(pa.int64()))], [*names, "seen"]
    numbers = pa.array(np.arange(probes.num_rows, dtype=np.int64))
    connection.register("given_probes", pa.table([numbers, *arrays], names=["number", *names]))
    same = ", ".join(names)
    numbered = f"SELECT number, dense_rank() OVER (ORDER BY {same}) - 1 AS id, {same} FROM given_probes"
    connection.execute(f"CREATE TEMP TABLE numbered_probes AS {numbered}")
    distinct = f"SELECT DISTINCT ON (id) id, {same} FROM numbered_probes ORDER BY id"
    connection.execute(f"CREATE TEMP TABLE probes AS {distinct}")
    owner = connection.sql("SELECT id FROM numbered_probes ORDER BY number").to_arrow_table().column("id")
    return np.asarray(owner.to_numpy(), dtype=np.int64)


def _keyed_events(connection: duckdb.DuckDBPyConnection, view: StreamView, relation: str) -> None:
    """View ``events``: the rows of ``relation`` that pass WHERE and belong to an entity."""
    conditions = [f"{quoted(column)} IS NOT NULL" for column in view.entity]
    if view.where is not None:
        conditions.append(f"({view.where}\n)")
    rows = f"SELECT * FROM {relation} AS _rows WHERE {' AND '.join(conditions)}"
    connection.execute(f"CREATE TEMP VIEW events AS {rows}")


def _time_windows(connection: duckdb.DuckDBPyConnection, view: StreamView) -> pa.Table:
    """The exact parts of the aggregates over windows of time, in order of ``probes.id``, each key the cheaper way."""
    create_window_keys(connection, view)
    query = f"SELECT * FROM ({paired_sql(view)} UNION ALL {_windowed_sql(view)}) ORDER BY _id"
    return connection.sql(query).to_arrow_table()


def _windowed_sql(view: StreamView) -> str:
    """The parts at the probes of ``window_keys``, by the definition's own windows."""
    calls = []
    for index, aggregate in enumerate(view.aggregates):
        window = view.windows[aggregate.window]
        if window.rows is None:
            argument, by, filter_ = input_sql(view, aggregate)
            over = f"FILTER (WHERE NOT _probe AND ({filter_}\n)) OVER {frame_sql(view, window)}"
            calls.append(parts_sql(view, index, argument, by, over, _position(view)))
    keys = ", ".join(f"k{i} AS {quoted(column)}" for i, column in enumerate(view.entity))
    same = " AND ".join(f"_e.{quoted(column)} = _w.k{i}" for i, column in enumerate(view.entity))
    shared = ", ".join(f"k{i}" for i in range(len(view.entity)))
    return f"""
        SELECT * EXCLUDE (_probe) FROM (
            SELECT _probe, _id{"".join(f", {call}" for call in calls)}
            FROM (
                SELECT *, false AS _probe, NULL::BIGINT AS _id FROM events AS _e SEMI JOIN window_keys AS _w ON {same}
                UNION ALL BY NAME
                SELECT {keys}, t AS {quoted(view.stream.event_time)}, true AS _probe, id AS _id
                FROM probes SEMI JOIN window_keys USING ({shared})
            )
        ) WHERE _probe
    """


def _with_row_windows(connection: duckdb.DuckDBPyConnection, view: StreamView, exact: pa.Table) -> pa.Table:
    """``exact`` with the parts of the aggregates over ROWS windows.

    Events of a key are numbered in total order. A probe with c events up to the window's end reads the numbers
    c - n + 1 … c, less those that are left out: a join of equals, whatever the length of the history. Of long frames a
    bounded number of probes is joined at once.
    """
    keys = [quoted(column) for column in view.entity]
    time = quoted(view.stream.event_time)
    named = ", ".join(f"k{i} AS {key}" for i, key in enumerate(keys))
    for number in row_windows(view):
        window = view.windows[number]
        wanted = [(i, a) for i, a in enumerate(view.aggregates) if a.window == number]
        until = f"to_microseconds({window.end_us}) PRECEDING" if window.end_us else "CURRENT ROW"
        numbers = f"range(greatest(_last - {window.rows}, 0) + 1, _last - {window.skip} + 1)"
        calls = []
        for index, aggregate in wanted:
            argument, by, filter_ = input_sql(view, aggregate)
            over = f"FILTER (WHERE _number IS NOT NULL AND ({filter_}\n))"
            calls.append(parts_sql(view, index, argument, by, over, _position(view)))
        numbered = f"""
            SELECT *, row_number() OVER (PARTITION BY {", ".join(keys)} ORDER BY {_position(view)}) AS _number
            FROM events
        """
        counted = f"""
            SELECT *, count(*) FILTER (WHERE NOT _probe) OVER (
                PARTITION BY {", ".join(keys)} ORDER BY {time}
                RANGE BETWEEN UNBOUNDED PRECEDING AND {until}) AS _last
            FROM (SELECT {", ".join(keys)}, {time}, false AS _probe, NULL::BIGINT AS _id FROM events
                  UNION ALL BY NAME
                  SELECT {named}, t AS {time}, true AS _probe, id AS _id FROM probes)
        """
        parts = _probes_at_once(exact.num_rows, window.rows or 1)
        common = f"numbered AS ({numbered}), counted AS (SELECT * FROM ({counted}) WHERE _probe), "
        if len(parts) > 1:
            connection.execute(f"CREATE OR REPLACE TEMP TABLE numbered AS {numbered}")
            connection.execute(f"CREATE OR REPLACE TEMP TABLE counted AS SELECT * FROM ({counted}) WHERE _probe")
            common = ""
        found = []
        for first, end in parts:
            # All at once are not counted off: the SQL is shown, too, and run by hand for other probes.
            mine = f"BETWEEN {first} AND {end - 1}" if len(parts) > 1 else "IS NOT NULL"
            query = f"""
                WITH {common}wanted AS (
                    SELECT _id, {", ".join(keys)}, unnest({numbers}) AS _number FROM counted WHERE _id {mine}
                ), found AS (
                    SELECT _id AS _of, _e.* EXCLUDE (_number), _e._number FROM wanted AS _w
                    JOIN numbered AS _e USING ({", ".join(keys)}, _number)
                )
                SELECT _id, {", ".join(calls)}
                FROM (SELECT id AS _id FROM probes WHERE id {mine}) AS _p LEFT JOIN found AS _f ON _of = _id
                GROUP BY _id ORDER BY _id
            """
            found.append(connection.sql(query).to_arrow_table())
        of_window = pa.concat_tables(found)
        for name in of_window.column_names[1:]:
            exact = exact.append_column(name, of_window.column(name))
    return exact


def _probes_at_once(probes: int, rows: int) -> list[tuple[int, int]]:
    """Runs of probes, from an id to before another, that are joined with their ``rows`` at once."""
    step = max(1, _PAIRS // rows) if rows > MAX_LISTED else max(1, probes)
    return [(first, min(first + step, probes)) for first in range(0, max(1, probes), step)]


def _position(view: StreamView) -> str:
    return ", ".join([quoted(view.stream.event_time), *order_columns(view)])
