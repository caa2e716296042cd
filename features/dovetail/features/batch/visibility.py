"""The events that a past request could see: those with ``event_time <= T`` that had been applied by then.

Applied means: at an offset below the one the request recorded as seen, in the event's source. Nearly all events a
request may see it has seen, so the window pass runs over all of them first; then the few unseen ones are found, and
only the probes whose window holds one are computed again, directly.
"""

from __future__ import annotations

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from dovetail.features.batch.paired import bounds_sql, input_parts_sql, same_key_sql, with_bounds_sql
from dovetail.features.plan.definitions import StreamView
from dovetail.features.plan.sources import order_columns

__all__ = ["recompute_as_served"]

_NOT_SEEN = "e._offset >= coalesce(p.seen[e._partition + 1], 0)"


def recompute_as_served(
    connection: duckdb.DuckDBPyConnection, view: StreamView, exact: pa.Table
) -> tuple[npt.NDArray[np.bool_], pa.Table]:
    """A mask of the probes that missed an event in one of their windows, and ``exact`` with those computed again.

    Reads ``inputs`` (numbered) and ``probes(id, k0 …, t, seen)``; ``exact`` is in order of ``id``.
    """
    same_key = same_key_sql(view)
    unseen = _possibly_unseen(connection)
    late = np.zeros(exact.num_rows, dtype=np.bool_)
    if not len(unseen):
        return late, exact
    connection.register("unseen", pa.table({"event": unseen}))
    connection.execute(
        f"""
        CREATE TEMP TABLE late AS
        SELECT * FROM (SELECT *, {with_bounds_sql(view)} FROM probes) AS p
        WHERE EXISTS (
            FROM inputs AS e SEMI JOIN unseen USING (event)
            WHERE {same_key} AND e.t BETWEEN p.low AND p.high AND {_NOT_SEEN}
        )
        """
    )
    calls = ", ".join(input_parts_sql(view, index) for index in range(len(view.aggregates)))
    recency = ""
    latest = ", ".join(f"{part} DESC" for part in ["e.t", *order_columns(view, "e.")])
    for index, window in enumerate(view.windows):
        if window.rows is not None:
            same = f"PARTITION BY p.id, e.t <= p.high{index} ORDER BY {latest}"
            recency += f", row_number() OVER ({same}) AS recency{index}"
    again = connection.sql(
        f"""
        SELECT id AS _id, {calls} FROM (
            SELECT p.id, {bounds_sql(view)}, e.*{recency} FROM late AS p
            LEFT JOIN inputs AS e ON {same_key} AND e.t BETWEEN p.low AND p.high AND NOT ({_NOT_SEEN})
        ) AS e GROUP BY id ORDER BY id
        """
    ).to_arrow_table()
    if not again.num_rows:
        return late, exact
    ids = np.asarray(again.column("_id").to_numpy(), dtype=np.int64)
    late[ids] = True
    source = np.arange(exact.num_rows)
    source[ids] = exact.num_rows + np.arange(len(ids))
    both = pa.concat_tables([exact, again.select(exact.column_names).cast(exact.schema)])
    return late, both.take(pa.array(source)).combine_chunks()


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
