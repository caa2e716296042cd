"""Rows of a re-keyed stream with the columns of views: of batch views as of each row's event time, of streaming views
as of the row."""

from __future__ import annotations

from collections.abc import Callable

import pyarrow as pa

from dovetail.features.plan.definitions import BatchView, Stream, StreamView

__all__ = ["Lookup", "ValuesOf", "enriched"]

#: The value columns of a batch view for rows that have its entity, in the versions in force at the named time column.
Lookup = Callable[[BatchView, pa.Table, str], pa.Table]
#: The value columns of a streaming view at each row of its stream.
ValuesOf = Callable[[StreamView, pa.Table], pa.Table]


def enriched(stream: Stream, rows: pa.Table, lookup: Lookup, values_of: ValuesOf) -> pa.Table:
    """``rows`` of the stream that ``stream`` is made of, with the columns of the views that it is enriched from.

    Of a batch view a row gets the value that a request at its event time would get: of the newest version at or before
    that time, NULL where the version does not know the key, or the key is NULL. Of a streaming view it gets what
    ``at_events/`` says.
    """
    made = rows
    for view in stream.enriched:
        at_rows = values_of(view, rows) if isinstance(view, StreamView) else lookup(view, rows, stream.event_time)
        for field in view.output_schema:
            made = made.append_column(field.with_nullable(True), at_rows.column(field.name))
    return made
