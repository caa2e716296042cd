"""Where a row came from, and how far a reader has come.

A *position* is ``(partition, offset, row)``: the message's partition and offset in its topic, and the row's index in
that message. Within a stream the total order is ``(event_time, partition, offset, row)``.

Rows carry their position as three columns. A table decoded from a topic has ``_partition, _offset, _row`` (its *own*
position); a row derived from another also has ``_source_partition, _source_offset, _source_row``: the row it was made
from. Whoever reads derived rows uses the source position to drop what it has seen before, because the producer of
derived rows may publish a row again after a crash, but always in the order of the source.

A row whose values include a stream says so by :func:`seen_column`, with the offsets that were read up to.

One source row may give several derived rows at different times (a sample, and later its correction). Each time is a
*lane*, numbered from 0; ``_source_partition`` holds ``lane * LANE + partition``, so each lane is in order by itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from dovetail.platform.errors import WireError

__all__ = [
    "LANE",
    "OWN_COLUMNS",
    "POSITIONS_PER_OFFSET",
    "SOURCE_COLUMNS",
    "Progress",
    "SourceFilter",
    "in_lane",
    "lacking",
    "own_position_columns",
    "pack",
    "seen_column",
    "seen_columns",
    "with_own_positions",
    "with_source_positions",
    "without_messages",
]

OWN_COLUMNS = ("_partition", "_offset", "_row")
SOURCE_COLUMNS = ("_source_partition", "_source_offset", "_source_row")

#: Source partitions of lane k start at ``k * LANE``; a topic has fewer partitions than this.
LANE = 1 << 16

_SEEN = "_seen_"
#: Packed positions of a message: its rows are below this. See :func:`pack`.
POSITIONS_PER_OFFSET = 1 << 20
_TYPES = (pa.int32(), pa.int64(), pa.int32())
_OWN_FIELDS = tuple(pa.field(name, type_, nullable=False) for name, type_ in zip(OWN_COLUMNS, _TYPES, strict=True))


def lacking(where: str, name: str, names: Sequence[str]) -> WireError:
    """The refusal of a file or table that has ``names`` and no column ``name``, with what to do about it."""
    remedy = ""
    if name in OWN_COLUMNS:
        remedy = (
            f". {', '.join(OWN_COLUMNS)} say where a row stood in its topic, which decides between rows of one time "
            "(for `last`, lists, ROWS and the like): give each row numbers of its own, as 0, its number in order of "
            "arrival, and 0, or take the files as the stream's past by `dovetail bootstrap VIEW --events`, which does"
        )
    return WireError(f"{where}: no column {name!r}; it has {', '.join(names)}{remedy}")


def own_position_columns() -> list[pa.Field]:
    """The three fields every decoded table ends with: int32, int64, int32, never null."""
    return list(_OWN_FIELDS)


def with_own_positions(
    table: pa.Table, partition: int, offsets: npt.NDArray[np.int64], rows: npt.NDArray[np.int32]
) -> pa.Table:
    """``table`` with its own position columns, replacing any it had (they were a producer's, hence another topic's)."""
    given = [name for name in OWN_COLUMNS if name in table.column_names]
    kept = table.drop_columns(given) if given else table
    positions = (np.full(len(offsets), partition, dtype=np.int32), offsets, rows)
    own = [pa.array(values, type=type_) for values, type_ in zip(positions, _TYPES, strict=True)]
    return pa.Table.from_arrays([*kept.columns, *own], schema=pa.schema([*kept.schema, *_OWN_FIELDS]))


def with_source_positions(table: pa.Table) -> pa.Table:
    """``table`` with its own position columns renamed to source columns: what a derived row must carry."""
    kept = table.drop_columns([name for name in SOURCE_COLUMNS if name in table.column_names])
    renamed = dict(zip(OWN_COLUMNS, SOURCE_COLUMNS, strict=True))
    return kept.rename_columns([renamed.get(name, name) for name in kept.column_names])


def in_lane(table: pa.Table, lane: int) -> pa.Table:
    """``table`` with its source positions, which are of lane 0, moved to ``lane``."""
    at = table.column_names.index(SOURCE_COLUMNS[0])
    partitions = table.column(at).to_numpy() + np.int32(lane * LANE)
    return table.set_column(at, table.schema.field(at), pa.array(partitions, pa.int32()))


def seen_column(view: str) -> str:
    """The column of snapshots and of requests that says what the values of streaming view ``view`` include.

    It is list<int64> by source of the view (of a plain view: by partition): the first offset that was *not* seen.
    """
    return f"{_SEEN}{view}"


def seen_columns(names: Sequence[str]) -> list[str]:
    """Those of ``names`` that :func:`seen_column` gave, for whichever view."""
    return [name for name in names if name.startswith(_SEEN)]


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a state includes one partition.

    ``next_offset``: the first offset not included. ``watermark_us``: the newest event time included. ``timestamp_ms``:
    the newest message timestamp included. ``sources``: for readers of derived rows, the last source position included
    by source partition (see :class:`SourceFilter`).
    """

    next_offset: int = 0
    watermark_us: int | None = None
    timestamp_ms: int | None = None
    sources: dict[int, int] = field(default_factory=dict)


def without_messages(table: pa.Table, messages: Sequence[tuple[int, int]]) -> pa.Table:
    """``table``, which has own positions, without the rows of ``messages``, given by partition and offset."""
    if not messages or table.num_rows == 0:
        return table
    partitions, offsets = (table.column(name).to_numpy() for name in OWN_COLUMNS[:2])
    gone = np.zeros(table.num_rows, dtype=np.bool_)
    for partition in {partition for partition, _ in messages}:
        refused = [offset for of, offset in messages if of == partition]
        gone |= (partitions == partition) & np.isin(offsets, refused)
    return table.filter(pa.array(~gone)) if gone.any() else table


class SourceFilter:
    """Drops derived rows that were seen before, by source position.

    Guarantee: over the life of a filter (and of any filter restored from its ``state``), each source position passes
    at most once, provided each source partition's rows first arrive in order of ``(offset, row)``.
    """

    def __init__(self, state: Mapping[int, int] | None = None) -> None:
        self._last: dict[int, int] = dict(state or {})

    @property
    def state(self) -> dict[int, int]:
        """The last position passed, as :func:`pack` gives it, by source partition."""
        return dict(self._last)

    def admit(self, table: pa.Table) -> npt.NDArray[np.bool_]:
        """A mask over ``table``'s rows: True where the source position is new. Remembers what it admits.

        ``table`` has own and source position columns and is in log order. Several rows may share one source position
        (a request's candidates); they stand together in one message, and are admitted or dropped together.
        """
        partitions, offsets, rows = (table.column(name).to_numpy() for name in SOURCE_COLUMNS)
        messages = table.column("_offset").to_numpy()
        admitted = np.zeros(table.num_rows, dtype=np.bool_)
        one = len(partitions) > 0 and bool((partitions == partitions[0]).all())  # as in most polls
        for partition in [int(partitions[0])] if one else np.unique(partitions).tolist():
            mine = slice(None) if one else np.flatnonzero(partitions == partition)
            order = pack(offsets[mine], rows[mine])
            message = messages[mine]
            changes = (order[1:] != order[:-1]) | (message[1:] != message[:-1])
            starts = np.flatnonzero(np.concatenate(([True], changes)))
            runs = order[starts]
            last = self._last.get(partition, -1)
            # A run that was published again stands behind a run at least as high: only a new highest run is new.
            highest_before = np.maximum.accumulate(np.concatenate(([np.int64(last)], runs[:-1])))
            lengths = np.diff(np.concatenate((starts, [len(order)])))
            admitted[mine] = np.repeat(runs > highest_before, lengths)
            self._last[partition] = max(last, int(runs.max()))
        return admitted


def pack(offsets: npt.NDArray[np.int64], rows: npt.NDArray[np.int32]) -> npt.NDArray[np.int64]:
    """``(offset, row)`` as one int64 with the same order.

    Rows per message are below :data:`POSITIONS_PER_OFFSET`, 2**20, offsets below 2**43.
    """
    packed: npt.NDArray[np.int64] = offsets.astype(np.int64) * POSITIONS_PER_OFFSET + rows
    return packed
