"""The attribution of ``attribution.py`` in batch: one DuckDB query over the logs, sharing no code with the stream's."""

from __future__ import annotations

import pyarrow as pa

from dovetail.joiners.batch.join import clocked
from dovetail.platform.duck.hermetic import hermetic_connection

__all__ = ["UNATTRIBUTED", "attribute_labels"]

#: The column of an attributed log that is true for labels of no request.
UNATTRIBUTED = "_unattributed"


def attribute_labels(
    log: pa.Table,
    asked: pa.Table,
    request_log: pa.Table,
    *,
    within_us: int,
    allowed_lateness_us: int,
    request_lateness_us: int,
) -> pa.Table:
    """``log`` with the request of each label: ``request_id``, NULL for announcements and where there is none.

    ``log``: user_id, item_id, event_time and own positions; a row without user_id is an announced watermark. ``asked``:
    one row per candidate, with request_id, user_id, item_id, request_time and the own positions of its request.
    ``request_log``: request_time and own positions of all requests and of the watermarks announced among them. The
    column :data:`UNATTRIBUTED` tells labels of no request from announcements.
    """
    connection = hermetic_connection()
    try:
        for name, table in {"log": log, "asked": asked, "request_log": request_log}.items():
            connection.register(name, table)
        at = "_partition, _offset, _row"
        query = f"""
            WITH labels AS ({clocked("log", "event_time", allowed_lateness_us)}),
            requests AS ({clocked("request_log", "request_time", request_lateness_us)}),
            known AS (
                SELECT DISTINCT asked.request_id, user_id, item_id, asked.request_time, {_of("asked", at)},
                       greatest(asked.request_time, clock) AS known
                FROM asked JOIN requests USING ({at})
            ),
            latest AS (
                SELECT {_of("labels", at)}, known.request_id
                FROM labels JOIN known USING (user_id, item_id)
                WHERE known.request_time <= event_time
                  AND known.request_time >= event_time - to_microseconds({within_us})
                  AND known.known <= greatest(event_time, labels.clock)
                QUALIFY row_number() OVER (
                    PARTITION BY {_of("labels", at)}
                    ORDER BY known.request_time DESC, known._partition DESC, known._offset DESC, known._row DESC
                ) = 1
            )
            SELECT log.*, latest.request_id,
                   log.user_id IS NOT NULL AND latest.request_id IS NULL AS {UNATTRIBUTED}
            FROM log LEFT JOIN latest USING ({at}) ORDER BY {_of("log", at)}"""
        return connection.sql(query).to_arrow_table()
    finally:
        connection.close()


def _of(table: str, columns: str) -> str:
    return ", ".join(f"{table}.{name}" for name in columns.split(", "))
