"""The ids of events seen within their window, for all readers of a topic together.

Readers of a topic (agents, re-keying, archive) keep state of their own, in stores of their own, and have come to
different places. They must agree on which rows are events, for good. So it is decided once: who first reads a part of a
partition stores which of its rows repeat another, and the ids it has, in one transaction that moves the topic's own
position by compare-and-set; everybody behind looks up what was decided. A reader decides before it commits anything,
hence the position is never behind a reader. What is decided depends on the log alone, not on who decides or how polls
are cut.

Ids leave when the newest event time of their partition has passed their window. Places of repetitions stay.
"""

from __future__ import annotations

import hashlib
import threading
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from dovetail.platform.errors import StaleCommit
from dovetail.platform.rows.identity.repetitions import Place, find_repetitions
from dovetail.platform.rows.positions import Progress
from dovetail.platform.rows.refusals import Refusals
from dovetail.platform.stage import Poll

__all__ = ["EVENT_ID_HEADER", "EventIds", "EventLog", "EventMemory", "NewEvents", "RememberedEvent"]

#: The id of a message's events, for rows without one in a column. Row ``n`` of the message is known by it and ``n``.
EVENT_ID_HEADER = "dovetail-event-id"
_KEY_BYTES = 16


@dataclass(frozen=True, slots=True)
class EventIds:
    """How events of a topic are known: by ``column``, if there is one, and else by header; within ``within_us``."""

    column: str | None
    within_us: int


class RememberedEvent(NamedTuple):
    """An event read at ``(offset, row)`` of its partition, which the stream knew of at ``known_us`` (µs)."""

    known_us: int
    offset: int
    row: int


class NewEvents(NamedTuple):
    """The part of a partition that is decided: its events by key, places of repetitions, and what may be forgotten.

    ``events`` take the place of older ones of their keys; those known of before ``before_us`` are forgotten.
    """

    events: Mapping[bytes, RememberedEvent]
    repeated: Sequence[Place]
    before_us: int | None


class EventLog(Protocol):
    """The store of ids and decisions; each call is a transaction."""

    def progress(self, topic: str) -> Mapping[int, Progress]:
        """How far the rows of ``topic`` are decided, by partition."""

    def remembered(self, topic: str, partition: int, keys: Sequence[bytes]) -> Mapping[bytes, RememberedEvent]:
        """The events of a partition that are remembered by these keys."""

    def repeated(self, topic: str, partition: int, first: int, last: int) -> Sequence[Place]:
        """The places of repetitions from offset ``first`` to ``last``."""

    def decide(self, topic: str, partition: int, *, expected: int, progress: Progress, new: NewEvents) -> None:
        """Store what was decided and move from offset ``expected`` to ``progress``, all or nothing.

        Raises:
            StaleCommit: the stored offset is another one.
        """


class EventMemory:
    """Tells events from repetitions, for all stages of a process. Thread-safe."""

    def __init__(self, log: EventLog, refusals: Refusals | None = None) -> None:
        """``refusals``: a message that some reader could not use is nobody's first."""
        self._log, self._refusals = log, refusals
        self._at: dict[tuple[str, int], Progress] = {}
        self._locks: defaultdict[tuple[str, int], threading.Lock] = defaultdict(threading.Lock)
        self._lock = threading.Lock()

    def begin(self, topic: str, positions: Mapping[int, int]) -> None:
        """Decide nothing before ``positions``, the furthest that any reader of ``topic`` has come by partition.

        For a topic whose readers have read without ids: what they have taken, counts.
        """
        for partition, offset in positions.items():
            while (at := self._log.progress(topic).get(partition, Progress())).next_offset < offset:
                try:
                    moved = replace(at, next_offset=offset)
                    nothing = NewEvents({}, (), None)
                    self._log.decide(topic, partition, expected=at.next_offset, progress=moved, new=nothing)
                except StaleCommit:
                    continue

    def repetitions(
        self, poll: Poll, rows: pa.Table, times_us: npt.NDArray[np.int64], ids: EventIds | None
    ) -> Sequence[Place]:
        """The places of those of ``rows`` that repeat others; decided durably when it returns.

        ``rows`` are all of ``poll`` that an agent would take, in log order, ``times_us`` their event times (int64 µs).
        Without ``ids`` nothing new is decided; what was decided before stays.
        """
        if len(poll) == 0:
            return ()
        with self._lock:
            lock = self._locks[poll.topic, poll.partition]
        with lock:
            return self._repetitions(poll, rows, times_us, ids)

    def _repetitions(
        self, poll: Poll, rows: pa.Table, times_us: npt.NDArray[np.int64], ids: EventIds | None
    ) -> list[Place]:
        key = poll.topic, poll.partition
        while True:
            if key not in self._at:
                self._at[key] = self._log.progress(poll.topic).get(poll.partition, Progress())
            at = self._at[key]
            found: list[Place] = []
            if poll.first < at.next_offset:
                found += self._log.repeated(*key, poll.first, min(at.next_offset - 1, poll.last))
            if ids is None or poll.last < at.next_offset:
                return found
            new, newest_us = self._decided(poll, rows, times_us, ids, at)
            progress = Progress(poll.last + 1, watermark_us=newest_us)
            try:
                self._log.decide(*key, expected=at.next_offset, progress=progress, new=new)
            except StaleCommit:  # another process has: by the same log, the same
                del self._at[key]
                continue
            self._at[key] = progress
            return [*found, *new.repeated]

    def _decided(
        self, poll: Poll, rows: pa.Table, times_us: npt.NDArray[np.int64], ids: EventIds, at: Progress
    ) -> tuple[NewEvents, int | None]:
        """What becomes of the rows of ``poll`` from where all is decided on, and the newest event time after them."""
        offsets = rows.column("_offset").to_numpy()
        begin = int(np.searchsorted(offsets, at.next_offset))
        table = rows.slice(begin)
        if table.num_rows == 0:
            return NewEvents({}, (), None), at.watermark_us
        start = np.iinfo(np.int64).min if at.watermark_us is None else at.watermark_us
        known_us = np.maximum(np.maximum.accumulate(times_us[begin:]), start)
        newest_us = int(known_us[-1])
        keys = _keys(poll, table, ids)
        places = list(zip(offsets[begin:].tolist(), table.column("_row").to_pylist(), strict=True))
        named = [(key, at, us) for key, at, us in zip(keys, places, known_us.tolist(), strict=True) if key is not None]
        distinct = {key for key, _, _ in named}
        before = self._before(poll, list(distinct))
        if len(distinct) == len(named) and not before:  # as in most polls
            firsts: Iterable[tuple[bytes, tuple[Place, int]]] = ((key, (place, us)) for key, place, us in named)
            repeated: list[Place] = []
        else:
            found = find_repetitions(named, ids.within_us, before)
            firsts, repeated = found.firsts.items(), sorted([*found.known, *found.here])
        leaving_us = newest_us - ids.within_us
        events = {key: RememberedEvent(us, *place) for key, (place, us) in firsts if us >= leaving_us}
        return NewEvents(events, repeated, leaving_us), newest_us

    def _before(self, poll: Poll, keys: Sequence[bytes]) -> dict[bytes, RememberedEvent]:
        """The remembered events of ``keys`` whose messages are not refused."""
        if not keys:
            return {}
        found = dict(self._log.remembered(poll.topic, poll.partition, keys))
        if found and self._refusals is not None:
            at = [event.offset for event in found.values()]
            refused = self._refusals.within(poll.topic, poll.partition, min(at), max(at))
            found = {key: event for key, event in found.items() if event.offset not in refused}
        return found


def _keys(poll: Poll, table: pa.Table, ids: EventIds) -> list[bytes | None]:
    """What each row is known by, None for one without an id: an id of any length is as good as 16 bytes of its hash."""
    texts: list[str | None] = [None] * table.num_rows
    if ids.column is not None:
        texts = table.column(ids.column).cast(pa.string()).to_pylist()
    keys = [None if text is None else _key(b"column", text.encode(errors="surrogatepass")) for text in texts]
    if any(poll.headers) and None in keys:
        named = {int(poll.offsets[at]): _header(headers) for at, headers in enumerate(poll.headers) if headers}
        places = zip(table.column("_offset").to_pylist(), table.column("_row").to_pylist(), strict=True)
        for number, (offset, row) in enumerate(places):
            name = named.get(offset)
            if keys[number] is None and name:
                keys[number] = _key(b"header", b"%d/%s" % (row, name))
    return keys


def _header(headers: Sequence[tuple[str, bytes]]) -> bytes | None:
    return next((value for name, value in headers if name == EVENT_ID_HEADER), None)


def _key(kind: bytes, text: bytes) -> bytes:
    return hashlib.blake2b(text, digest_size=_KEY_BYTES, person=kind).digest()
