"""Snapshots that are in their topic already: those of requests that are read again, and those asked for again.

Snapshots are published before the position of their requests is committed. After a crash in between, the requests are
read again, and were they answered anew, from a state and by a model that have gone on, some would be told what is not
kept: readers take the first snapshot of a request. So a request is answered from what lies in the topic behind the
committed position. The topic has the snapshots of a partition in the order of their requests, each request's together,
and what was published of a poll is a beginning of it. So of a request that has no snapshot although a later one has, it
is known that it was refused, and it stays so.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dovetail.joiners.snapshots.shape import flat_snapshots
from dovetail.joiners.snapshots.units import Request, only
from dovetail.platform.rows import wire
from dovetail.platform.rows.positions import SOURCE_COLUMNS, SourceFilter
from dovetail.platform.stage import Poll

__all__ = ["NOTHING_KEPT", "Behind", "Kept", "SnapshotLog", "find_snapshots"]

_OFFSET, _ROW = SOURCE_COLUMNS[1:]
# How much further each look back goes than the one before.
_STRIDE = 4


class SnapshotLog(Protocol):
    """Reads the topic of the snapshots, beside whoever else does. Called in threads."""

    def bounds(self, partition: int) -> tuple[int, int]:
        """The first offset kept, and the next one."""
        ...

    def read(self, partition: int, offset: int) -> Poll | None:
        """Some messages from ``offset`` on, at least one; None where there is none."""
        ...


class Kept(NamedTuple):
    """Snapshot rows of a poll's requests that are in the topic, and how far its requests are decided.

    ``rows``: in order, each request once; None when there are none. ``decided``: this request and every one before it
    were answered, as ``rows`` say, or refused, in an earlier life; None when no request was.
    """

    rows: pa.Table | None = None
    decided: Request | None = None


NOTHING_KEPT = Kept()


class Behind:
    """The snapshots of a partition whose requests are at or behind the committed position, as of when this was made.

    They are read as they are asked for, a poll's at a time, and kept until a later poll is asked for.
    """

    def __init__(self, log: SnapshotLog, partition: int, next_offset: int) -> None:
        """``next_offset``: the committed position, the offset of the first request that is not included."""
        self._log, self._partition, self._first = log, partition, next_offset
        low, self._end = log.bounds(partition)
        self._at = _beginning(log, partition, low, self._end, next_offset)
        self._filter = SourceFilter()
        self._read: list[pa.Table] = []

    @property
    def exhausted(self) -> bool:
        """Whether none is left behind those that were asked for last."""
        return self._at >= self._end and not self._read

    def between(self, first: int, last: int) -> Kept:
        """Those of the requests from offset ``first`` to ``last``; no earlier ones are asked for any more."""
        self._first = max(self._first, first)
        self._read = [rest for rows in self._read if (rest := _from(rows, first)).num_rows]
        while self._at < self._end and not (self._read and _last_of(self._read[-1])[0] > last):
            self._fetch()
        if not self._read:
            return NOTHING_KEPT
        decided = min(_last_of(self._read[-1]), (last, 1 << 20))
        rows = pa.concat_tables(self._read, promote_options="permissive").combine_chunks()
        self._read = [rows]
        found = rows.filter(pc.less_equal(rows.column(_OFFSET), last)).combine_chunks()
        return Kept(found if found.num_rows else None, decided)

    def _fetch(self) -> None:
        poll = self._log.read(self._partition, self._at)
        poll = None if poll is None else poll.before(self._end)
        if poll is None or len(poll) == 0:
            self._at = self._end
            return
        self._at = poll.last + 1
        rows = wire.decode_arrow(poll, flat_snapshots)
        fresh = self._filter.admit(rows) & (rows.column(_OFFSET).to_numpy() >= self._first)
        if fresh.any():
            self._read.append(rows.filter(pa.array(fresh)).combine_chunks())


def _from(rows: pa.Table, first: int) -> pa.Table:
    return rows.filter(pc.greater_equal(rows.column(_OFFSET), first)).combine_chunks()


def find_snapshots(log: SnapshotLog, partition: int, requests: Collection[Request]) -> pa.Table | None:
    """The snapshot rows of ``requests``, which were answered; None when none of them is in the topic any more."""
    low, end = log.bounds(partition)
    found: dict[Request, pa.Table] = {}
    for request in sorted(requests):
        if request in found:
            continue
        poll = _last_before(log, partition, low, end, request)
        if poll is None:
            continue
        rows = wire.decode_arrow(poll, flat_snapshots)
        rows = rows.filter(pa.array(SourceFilter().admit(rows)))
        for other in requests:
            if (mine := only(rows, [other], SOURCE_COLUMNS)).num_rows:
                found[other] = mine
    if not found:
        return None
    return pa.concat_tables([found[request] for request in sorted(found)], promote_options="permissive")


def _beginning(log: SnapshotLog, partition: int, low: int, end: int, next_offset: int) -> int:
    """An offset from which on all snapshots of requests from ``next_offset`` on stand, and not many others."""
    at, stride = end, 1
    while at > low:
        at, stride = max(low, end - stride), stride * _STRIDE
        poll = log.read(partition, at)
        if poll is not None and poll.first < end and _first_of(poll)[0] < next_offset:
            break
    return at


def _last_before(log: SnapshotLog, partition: int, low: int, end: int, request: Request) -> Poll | None:
    """Messages from the last one on that begins no later than with ``request``; None where there is none."""
    found = None
    while low < end:
        middle = (low + end) // 2
        poll = log.read(partition, middle)
        if poll is None or poll.first >= end or _first_of(poll) > request:
            end = middle
        else:
            found, low = poll, poll.first + 1
    return found


def _first_of(poll: Poll) -> Request:
    """The first request in the first message of ``poll``."""
    rows = wire.decode_arrow(poll.before(poll.first + 1))
    return rows.column(_OFFSET)[0].as_py(), rows.column(_ROW)[0].as_py()


def _last_of(rows: pa.Table) -> Request:
    offset, row = (np.asarray(rows.column(name)) for name in (_OFFSET, _ROW))
    return int(offset[-1]), int(row[-1])
