"""What a past request could see: events with ``event_time <= T`` that had been applied by then.

Applied means: at an offset below the one the request recorded as seen, in the event's partition. Nearly all events a
request may see it has seen, so the window pass runs over all of them first; then the few unseen ones are found, and
only the probes whose window holds one are computed again, directly.
"""

from __future__ import annotations

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from dovetail.features.plan import StreamView, Window
from dovetail.features.source import quoted

__all__ = ["recompute_as_served"]

_NOT_SEEN = "e._offset >= coalesce(p.seen[e._partition + 1], 0)"


def recompute_as_served(
    connection: duckdb.DuckDBPyConnection, view: StreamView, exact: pa.Table
) -> tuple[npt.NDArray[np.bool_], pa.Table]:
    """Which probes had not seen an event in one of their windows, and ``exact`` with those computed again.

    Reads ``events`` and ``probes(id, k0 …, t, seen)`` of the connection; ``exact`` is in order of ``id``.
    """
    _inputs(connection, view)
    lowest = ", ".join(_lower_bound(window) for window in view.windows)
    same_key = " AND ".join(f"e.k{index} = p.k{index}" for index in range(len(view.entity)))
    unseen = _possibly_unseen(connection)
    late = np.zeros(exact.num_rows, dtype=np.bool_)
    if not len(unseen):
        return late, exact
    connection.register("unseen", pa.table({"event": unseen}))
    connection.sql(
        f"""
        SELECT * FROM (SELECT *, least({lowest}) AS low FROM probes) AS p
        WHERE EXISTS (
            FROM inputs AS e SEMI JOIN unseen USING (event)
            WHERE {same_key} AND e.t BETWEEN p.low AND p.t AND {_NOT_SEEN}
        )
        """
    ).create("late")
    calls = ", ".join(_aggregate(view, index) for index in range(len(view.aggregates)))
    again = connection.sql(
        f"""
        SELECT p.id, {calls} FROM late AS p
        LEFT JOIN inputs AS e ON {same_key} AND e.t BETWEEN p.low AND p.t AND NOT ({_NOT_SEEN})
        GROUP BY p.id ORDER BY p.id
        """
    ).to_arrow_table()
    if not again.num_rows:
        return late, exact
    ids = np.asarray(again.column("id").to_numpy(), dtype=np.int64)
    late[ids] = True
    source = np.arange(exact.num_rows)
    source[ids] = exact.num_rows + np.arange(len(ids))
    both = pa.concat_tables([exact, again.select(exact.column_names).cast(exact.schema)])
    return late, both.take(pa.array(source)).combine_chunks()


def _inputs(connection: duckdb.DuckDBPyConnection, view: StreamView) -> None:
    """Table ``inputs``: per event its key, time, position, and every argument and filter."""
    columns = [f"{quoted(column)} AS k{index}" for index, column in enumerate(view.entity)]
    columns += [f"{quoted(view.stream.event_time)} AS t", "_partition", "_offset", "row_number() OVER () AS event"]
    for index, wanted in enumerate(view.inputs):
        columns.append(f"({wanted.argument or 'true'}\n) AS a{index}")
        columns.append(f"({wanted.filter or 'true'}\n) AS f{index}")
    connection.sql(f"SELECT {', '.join(columns)} FROM events").create("inputs")


def _lower_bound(window: Window) -> str:
    size = f"to_microseconds({window.size_us})"
    if window.step_us is None:
        return f"t - {size}"
    return f"time_bucket(to_microseconds({window.step_us}), t - {size})"


def _aggregate(view: StreamView, index: int) -> str:
    aggregate = view.aggregates[index]
    low = _lower_bound(view.windows[aggregate.window]).replace("t -", "p.t -")
    inside = f"FILTER (WHERE e.f{aggregate.input} AND e.t >= {low})"
    value = f"e.a{aggregate.input}"
    if aggregate.function == "avg":
        return f"sum({value}) {inside} AS v{index}, count({value}) {inside} AS n{index}"
    return f"{aggregate.function}({value}) {inside} AS v{index}"


def _possibly_unseen(connection: duckdb.DuckDBPyConnection) -> npt.NDArray[np.int64]:
    """Events that some probe at or after their time had not seen, whatever the key.

    Per partition: with probes in order of how far they had seen, those that miss offset o are a prefix, and the
    latest time among a prefix is a running maximum. One search per event.
    """
    events = connection.sql("SELECT event, epoch_us(t) AS t, _partition, _offset FROM inputs").to_arrow_table()
    numbers, times, partitions, offsets = (np.asarray(c.to_numpy(), dtype=np.int64) for c in events.columns)
    found = [np.empty(0, dtype=np.int64)]
    for partition in np.unique(partitions).tolist():
        probes = connection.sql(
            f"SELECT coalesce(seen[{partition + 1}], 0) AS seen, epoch_us(t) AS t FROM probes WHERE t IS NOT NULL "
            "ORDER BY seen"
        ).to_arrow_table()
        if not probes.num_rows:
            continue
        seen, moments = (np.asarray(column.to_numpy(), dtype=np.int64) for column in probes.columns)
        latest = np.concatenate(([np.iinfo(np.int64).min], np.maximum.accumulate(moments)))
        mine = np.flatnonzero(partitions == partition)
        missing = np.searchsorted(seen, offsets[mine], side="right")
        found.append(numbers[mine[latest[missing] >= times[mine]]])
    return np.concatenate(found)
