"""The columns of a snapshot that are Dovetail's own, and the request in them.

Beside the keys a feature may have any name that is not a snapshot's or a sample's, so what a snapshot holds of its own
begins with an underscore. Lists, maps and structs that all candidates of a request share are kept in the row of its
first (``rows/encodings/shared.py``), in messages and in the archive.

The request's columns stood in ``request`` once; archives and topics that were written then are read as if they said
:data:`REQUEST_COLUMN`.
"""

from __future__ import annotations

import pyarrow as pa

from dovetail.platform.rows.encodings.shared import spread

__all__ = [
    "KEYS",
    "MEANING_COLUMN",
    "REQUEST_COLUMN",
    "REQUEST_COLUMNS",
    "SET_COLUMN",
    "flat_snapshots",
    "named_as_now",
    "request_rows",
]

#: The columns of the request that a snapshot has beside its struct.
KEYS = ("request_id", "item_id", "request_time")
#: The struct column of a snapshot that holds the request's own columns.
REQUEST_COLUMN = "_request"
#: The column of a snapshot that names the feature set which made it.
SET_COLUMN = "_feature_set"
#: The column of a snapshot, int64, with the fingerprint of the label meaning by which it is judged.
MEANING_COLUMN = "_label_meaning"
_FORMER = "request"
#: The columns of a snapshot, however old, that :func:`request_rows` reads.
REQUEST_COLUMNS = (*KEYS, REQUEST_COLUMN, _FORMER)


def named_as_now(snapshots: pa.Table) -> pa.Table:
    """``snapshots`` of one writer, with the request's columns in :data:`REQUEST_COLUMN`, however old they are.

    No feature could be called ``request`` while the request was, so no table needs both.
    """
    if REQUEST_COLUMN in snapshots.column_names or _FORMER not in snapshots.column_names:
        return snapshots
    return snapshots.rename_columns([REQUEST_COLUMN if name == _FORMER else name for name in snapshots.column_names])


def flat_snapshots(snapshots: pa.Table) -> pa.Table:
    """:func:`named_as_now`, with the values that candidates of a request share in the row of each."""
    return spread(named_as_now(snapshots))


def request_rows(snapshots: pa.Table) -> pa.Table:
    """The flattened request rows that ``snapshots`` were taken for, in the same order."""
    struct = named_as_now(snapshots).column(REQUEST_COLUMN).combine_chunks()
    rest = pa.Table.from_arrays(struct.flatten(), names=[field.name for field in struct.type])
    columns = {name: snapshots.column(name) for name in KEYS}
    return pa.table({**columns, **dict(zip(rest.column_names, rest.columns, strict=True))})
