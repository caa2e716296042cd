"""The join done in batch: samples' keys and labels from the logs, in one DuckDB query.

It states the meaning of the ``delayed`` policy in SQL and shares no code with the stream's join, which must agree.
"""

from __future__ import annotations

from collections.abc import Mapping

import duckdb
import pyarrow as pa

__all__ = ["join_delayed"]


def join_delayed(
    candidates: pa.Table,
    labels: Mapping[str, pa.Table],
    *,
    exposure: str,
    positive: str,
    window_us: int,
    allowed_lateness_us: int,
) -> pa.Table:
    """Samples of the ``delayed`` policy: request_id, item_id, request_time, label int8, ``<kind>_time`` per kind.

    ``candidates`` needs request_id, item_id, request_time. ``labels`` are the logs by kind, with own position columns;
    a row without request_id is an announced watermark. Sorted by the candidates' order.

    A label's effective time is its event time or, when its partition's clock (newest time before it, minus the allowed
    lateness) is already past that, the clock. It counts when that is within the window.
    """
    connection = duckdb.connect(config={"threads": 2})
    connection.execute("SET TimeZone = 'UTC'")
    connection.register("candidates", candidates.append_column("_at", pa.array(range(candidates.num_rows), pa.int64())))
    for kind, log in labels.items():
        connection.register(f"log_{kind}", log)
    first = ",\n".join(_first_label(kind, allowed_lateness_us) for kind in labels)
    columns = "".join(f", {_if_in_window(kind, window_us)} AS {kind}_time" for kind in labels)
    joins = "\n".join(f"LEFT JOIN {kind}_first USING (request_id, item_id)" for kind in labels)
    query = f"""
        WITH {first}
        SELECT request_id, item_id, request_time,
               ({positive}_time IS NOT NULL)::TINYINT AS label, * EXCLUDE (request_id, item_id, request_time, _at)
        FROM (SELECT request_id, item_id, request_time, _at{columns} FROM candidates {joins})
        WHERE {exposure}_time IS NOT NULL
        ORDER BY _at
    """
    try:
        return connection.sql(query).to_arrow_table()
    finally:
        connection.close()


def _first_label(kind: str, allowed_lateness_us: int) -> str:
    return f"""
        {kind}_clocked AS (
            SELECT *, max(event_time) OVER (
                PARTITION BY _partition ORDER BY _offset, _row ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
            ) - to_microseconds({allowed_lateness_us}) AS clock
            FROM log_{kind}
        ),
        {kind}_first AS (
            SELECT request_id, item_id, event_time AS {kind}_event_time, greatest(event_time, clock) AS {kind}_effective
            FROM {kind}_clocked
            WHERE request_id IS NOT NULL
            QUALIFY row_number() OVER (
                PARTITION BY request_id, item_id
                ORDER BY greatest(event_time, clock), event_time, _partition, _offset, _row
            ) = 1
        )"""


def _if_in_window(kind: str, window_us: int) -> str:
    return f"CASE WHEN {kind}_effective <= request_time + to_microseconds({window_us}) THEN {kind}_event_time END"
