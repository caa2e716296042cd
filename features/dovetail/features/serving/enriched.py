"""Rows of a re-keyed stream with the columns of batch views, as of each row's event time."""

from __future__ import annotations

from collections.abc import Callable

import pyarrow as pa

from dovetail.features.plan.definitions import BatchView, Stream

__all__ = ["Lookup", "enriched"]

#: The value columns of a batch view for rows that have its entity, in the versions in force at the named time column.
Lookup = Callable[[BatchView, pa.Table, str], pa.Table]


def enriched(stream: Stream, rows: pa.Table, lookup: Lookup) -> pa.Table:
    """``rows`` of the stream that ``stream`` is made of, with the columns of the views that it is enriched from.

    A row gets the value that a request at its event time would get: of the newest version at or before that time, NULL
    where the version does not know the key, or the key is NULL.
    """
    for view in stream.enriched:
        values = lookup(view, rows, stream.event_time)
        for field in view.output_schema:
            rows = rows.append_column(field.with_nullable(True), values.column(field.name))
    return rows
