"""The rows of a log that set its partitions' clocks, so that a part of the log can be told apart from the rest.

A label's clock is the newest time before it in its partition (``join.clocked``), so some rows of a log, taken alone, do
not say when they took effect. With each row that came after its clock had passed it, here goes the row that had set the
clock. The clock matters for no other row, since what counts is the later one of a row's time and its clock.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from dovetail.platform.rows.positions import OWN_COLUMNS

__all__ = ["SETTER_COLUMNS", "Setter", "newest_of", "setter_fields", "with_setter_rows", "with_setters"]

#: The time, the offset and the row of the row of the same partition that had set a row's clock; NULL where that came
#: in time. The time is int64 µs.
SETTER_COLUMNS = ("_set_time", "_set_offset", "_set_row")
_TYPES = (pa.int64(), pa.int64(), pa.int32())
_NEVER = np.iinfo(np.int64).min


class Setter(NamedTuple):
    """A row that sets the clock of its partition: its time in µs, and its position there."""

    time_us: int
    offset: int
    row: int


def setter_fields() -> list[pa.Field]:
    """The fields of :data:`SETTER_COLUMNS`."""
    return [pa.field(name, type_) for name, type_ in zip(SETTER_COLUMNS, _TYPES, strict=True)]


def newest_of(rows: pa.Table, time: str) -> Setter | None:
    """The first of the newest rows of one partition, which have own positions; None where no row has a time."""
    rows = _in_order(rows)
    times = _times(rows, time)
    at = int(np.argmax(times)) if len(times) else 0
    if not len(times) or times[at] == _NEVER:
        return None
    _, offsets, numbers = (rows.column(name) for name in OWN_COLUMNS)
    return Setter(int(times[at]), offsets[at].as_py(), numbers[at].as_py())


def with_setters(rows: pa.Table, time: str, allowed_lateness_us: int, before: Setter | None) -> pa.Table:
    """Rows of one partition in their order there, with :data:`SETTER_COLUMNS`.

    ``rows`` are all those between two offsets, with own positions; ``before`` is the newest of those before them.
    """
    rows = _in_order(rows)
    times = _times(rows, time)
    known = np.concatenate([[_NEVER if before is None else before.time_us], times])
    newest = np.maximum.accumulate(known)
    raised = np.concatenate([[True], known[1:] > newest[:-1]])
    by = np.maximum.accumulate(np.where(raised, np.arange(len(known)), 0))[:-1]
    clock = newest[:-1]
    late = (clock != _NEVER) & (clock - allowed_lateness_us > times)
    first = before or Setter(_NEVER, 0, 0)
    of_setter = (
        known,
        np.concatenate([[first.offset], rows.column(OWN_COLUMNS[1]).to_numpy()]),
        np.concatenate([[first.row], rows.column(OWN_COLUMNS[2]).to_numpy()]),
    )
    for field, values in zip(setter_fields(), of_setter, strict=True):
        rows = rows.append_column(field, pa.array(values[by], mask=~late).cast(field.type))
    return rows


def with_setter_rows(rows: pa.Table, time: str) -> pa.Table:
    """Rows with :data:`SETTER_COLUMNS`, and the rows that those name, as the announcements of a watermark that say it.

    A row that is there itself is not announced.
    """
    partition, offset, number = OWN_COLUMNS
    late = rows.filter(rows.column(SETTER_COLUMNS[0]).is_valid()).select([partition, *SETTER_COLUMNS])
    named = late.group_by(late.column_names, use_threads=False).aggregate([])
    named = named.rename_columns([partition, time, offset, number])
    own = rows.select(list(OWN_COLUMNS)).combine_chunks()
    named = named.join(own, keys=list(OWN_COLUMNS), join_type="left anti", use_threads=False)
    named = named.set_column(
        named.column_names.index(time),
        time,
        named.column(time).cast(pa.timestamp("us")).cast(rows.schema.field(time).type),
    )
    return pa.concat_tables([rows, named], promote_options="permissive").select(rows.column_names)


def _in_order(rows: pa.Table) -> pa.Table:
    offsets, numbers = (rows.column(name).to_numpy() for name in OWN_COLUMNS[1:])
    order = np.lexsort((numbers, offsets))
    return rows if (order[1:] > order[:-1]).all() else rows.take(pa.array(order))


def _times(rows: pa.Table, time: str) -> npt.NDArray[np.int64]:
    """µs; long before all times where there is none."""
    found: npt.NDArray[np.int64] = (
        rows.column(time).cast(pa.timestamp("us")).cast(pa.int64()).fill_null(_NEVER).to_numpy()
    )
    return found
