"""Checks messages from outside: rows that fit and are believable pass, the rest become dead letters.

Two stages that read the same topic (an agent and its archive) use the same intake, so they agree on every row.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from dovetail.platform.clock import Clock
from dovetail.platform.errors import reason_of
from dovetail.platform.rows import wire
from dovetail.platform.rows.conversion import MAX_TIME_US, MIN_TIME_US
from dovetail.platform.rows.halving import halved
from dovetail.platform.rows.identity import EventIds, EventMemory
from dovetail.platform.rows.positions import pack, with_own_positions
from dovetail.platform.rows.refusals import Refusals
from dovetail.platform.rows.schema import TableSchema
from dovetail.platform.rows.wire import DeadLetter
from dovetail.platform.stage import Outgoing, Poll

__all__ = [
    "IDLE_HEADER",
    "LONGEST_ITEM",
    "WATERMARK_HEADER",
    "Intake",
    "Received",
    "Vet",
    "Vetted",
    "announcement",
    "believable",
    "repeated_candidates",
    "spoken_ms",
    "time_us",
    "unfit_items",
    "watermark_headers",
]


@dataclass(frozen=True, slots=True)
class Vetted:
    """The rows of a table (by index) that must not pass, with the reason, and what was made of all rows to find them.

    Where all rows of a poll pass, readers find what is ``made`` in :attr:`Received.shared`.
    """

    refused: Mapping[int, str]
    made: Mapping[object, Any] = field(default_factory=dict)


#: Says which rows of a table must not pass; their indices and reasons alone, where it makes nothing that others need.
Vet = Callable[[pa.Table], Mapping[int, str] | Vetted]

#: A message with this header and no value says: nothing older than this (decimal microseconds since 1970-01-01 UTC)
#: will follow in this partition. Sources of sparse streams send it so that time goes on where nothing happens.
WATERMARK_HEADER = "dovetail-watermark"
#: Beside it: the announcement was made for a silent partition, and does not end its silence.
IDLE_HEADER = "dovetail-idle"
_MICROSECONDS = pa.timestamp("us")
_TIME_DIGITS = len(str(MAX_TIME_US))
#: Bytes of an ``item_id`` as UTF-8. A request's or user's id may be of any length.
LONGEST_ITEM = 1_024


def time_us(table: pa.Table, column: str) -> npt.NDArray[np.int64]:
    """A timestamp column (no NULLs) as int64 microseconds."""
    times = table.column(column)
    if times.type != _MICROSECONDS:
        times = times.cast(_MICROSECONDS)
    values: npt.NDArray[np.int64] = times.to_numpy().view(np.int64)
    return values


def watermark_headers(poll: Poll) -> tuple[dict[int, int], dict[int, str]]:
    """By index in the poll: the watermark of each message that announces one, and why others cannot be announced."""
    announced: dict[int, int] = {}
    refused: dict[int, str] = {}
    if not any(poll.headers):
        return announced, refused
    for index, headers in enumerate(poll.headers):
        for name, value in headers:
            if name == WATERMARK_HEADER and not poll.values[index]:
                time = _announced_us(value)
                if time is None:
                    refused[index] = f"{WATERMARK_HEADER} is {(value or b'')[:40]!r}: not microseconds up to year 9999"
                else:
                    announced[index] = time
    return {index: time for index, time in announced.items() if index not in refused}, refused


def _announced_us(value: bytes | None) -> int | None:
    """The time in a header, which may have no value; None for anything but decimal microseconds up to year 9999."""
    if value is None or not value.isdigit() or len(value) > _TIME_DIGITS or int(value) > MAX_TIME_US:
        return None
    return int(value)


def announcement(topic: str, partition: int, time_us: int) -> Outgoing:
    """The message that announces a watermark for a silent partition."""
    headers = ((WATERMARK_HEADER, str(time_us).encode()), (IDLE_HEADER, b"1"))
    return Outgoing(topic, b"", partition=partition, headers=headers)


def spoken_ms(poll: Poll, refused: Collection[int] = ()) -> int | None:
    """The newest believable timestamp (ms) of messages that somebody else than Dovetail sent; None without any.

    Those of ``refused`` messages, by offset, do not count.
    """
    counts = believable(poll)
    if any(poll.headers):
        counts &= ~np.array(
            [any(name == IDLE_HEADER for name, _ in headers) for headers in poll.headers], dtype=np.bool_
        )
    if refused:
        counts &= ~np.isin(poll.offsets, list(refused))
    stamps = poll.timestamps_ms[counts]
    return int(stamps.max()) if len(stamps) else None


def believable(poll: Poll) -> npt.NDArray[np.bool_]:
    """A mask over the messages: those with a timestamp of the years 0001 to 9999. Others are dead letters."""
    stamps = poll.timestamps_ms
    found: npt.NDArray[np.bool_] = (stamps >= MIN_TIME_US // 1_000) & (stamps <= MAX_TIME_US // 1_000)
    return found


def unfit_items(table: pa.Table) -> Mapping[int, str]:
    """Rows whose ``item_id``, or a candidate's, is longer than stores can keep, or with an absent candidate: why not.

    A candidate that is NULL as a whole is refused; one whose ``item_id`` is NULL is ranked like any other, and has no
    label. An ``item_id`` has at most :data:`LONGEST_ITEM` bytes.
    """
    if "candidates" in table.column_names:
        nested = table.column("candidates").combine_chunks()
        candidates = nested.flatten()
        items = pc.struct_field(candidates, "item_id")
        rows = np.asarray(pc.list_parent_indices(nested).to_numpy(), dtype=np.int64)
        absent = _absent(candidates, rows)
    elif "item_id" in table.column_names:
        items = table.column("item_id").combine_chunks()
        rows = np.arange(table.num_rows, dtype=np.int64)
        absent = {}
    else:
        return {}
    if not pa.types.is_string(items.type):
        return absent
    lengths = pc.fill_null(pc.binary_length(items), 0).to_numpy(zero_copy_only=False)
    long = np.flatnonzero(np.asarray(lengths) > LONGEST_ITEM)
    return {
        int(rows[at]): f"item_id has {int(lengths[at])} bytes, more than the {LONGEST_ITEM} that every store holds"
        for at in long
    } | absent


def repeated_candidates(table: pa.Table) -> Mapping[int, str]:
    """Rows whose ``candidates`` have an ``item_id`` twice, NULL aside: the first that comes again, and where."""
    nested = table.column("candidates").combine_chunks()
    rows = np.asarray(pc.list_parent_indices(nested).to_numpy(), dtype=np.int64)
    items = pc.dictionary_encode(pc.struct_field(nested.flatten(), "item_id"))
    codes = pc.fill_null(items.indices, -1).to_numpy(zero_copy_only=False)
    at = np.lexsort((codes, rows))  # candidates of one request and item side by side, in their order
    follows = (rows[at][1:] == rows[at][:-1]) & (codes[at][1:] == codes[at][:-1]) & (codes[at][1:] >= 0)
    return {
        row: f"candidate {number} (from 0) has item_id {items[place].as_py()!r}, as another before it; leave one of "
        "them out"
        for row, number, place in _firsts(rows, np.sort(at[1:][follows]))
    }


def _absent(candidates: pa.Array, rows: npt.NDArray[np.int64]) -> dict[int, str]:
    """By row, the first candidate that is NULL."""
    if not candidates.null_count:
        return {}
    lost = np.flatnonzero(np.asarray(candidates.is_null()))
    return {row: f"candidate {number} (from 0) is NULL; leave it out" for row, number, _ in _firsts(rows, lost)}


def _firsts(rows: npt.NDArray[np.int64], chosen: npt.NDArray[np.int64]) -> Iterator[tuple[int, int, int]]:
    """The first of the ``chosen`` candidates (indices, ascending) of each row: row, number in the row, index.

    ``rows`` are those of all candidates.
    """
    first_of, at = np.unique(rows[chosen], return_index=True)
    index = chosen[at]
    numbers = index - np.searchsorted(rows, first_of)
    return zip(first_of.tolist(), numbers.tolist(), index.tolist(), strict=True)


@dataclass(frozen=True, slots=True)
class Received:
    """Rows of a poll in log order with their own positions; dead letters; watermarks announced, as (offset, µs).

    ``refused`` are the offsets of messages that were turned away whole, also for what they say of time. ``repeated``
    has the offset of each row that repeats another event: it is counted, and in ``table`` no more.
    """

    table: pa.Table
    dead: Sequence[DeadLetter]
    watermarks: Sequence[tuple[int, int]]
    refused: Collection[int] = ()
    repeated: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, dtype=np.int64), compare=False)
    #: Results that readers of the same rows have in common (as :attr:`Poll.shared`).
    shared: dict[object, Any] = field(default_factory=dict, compare=False, repr=False)

    @property
    def dead_rows(self) -> int:
        """The number of rows that the dead letters count as in the accounts."""
        return sum(letter.rows for letter in self.dead)

    @property
    def repeated_rows(self) -> int:
        """The number of rows that repeat others."""
        return len(self.repeated)

    def without(self, places: Sequence[tuple[int, int]]) -> Received:
        """This without the rows at these places (offset, row), which it has as ``repeated``."""
        if not places:
            return self
        own: npt.NDArray[np.int64] = self.table.column("_offset").to_numpy()
        offsets, rows = np.array(places, dtype=np.int64).T
        gone = np.isin(pack(own, self.table.column("_row").to_numpy()), pack(offsets, rows.astype(np.int32)))
        return replace(self, table=self.table.filter(pa.array(~gone)), repeated=own[gone], shared={})


class Intake:
    """Decodes polls of one outside topic.

    A row whose ``time_column`` is more than ``max_ahead_us`` ahead of its message's timestamp is a dead letter: one
    date from the future would move the watermark past everybody's state and labels, and a request from there would
    keep all behind it waiting for its labels. None turns the check off.
    ``vet`` may turn further rows away; vets that are equal turn the same away.

    ``refusals``: what some reader of the topic could not use is turned away whole. With a ``clock``, this reader is one
    of those who judge: a message whose own timestamp is more than ``max_ahead_us`` ahead of it is refused, for all.

    ``ids`` says how events are known; ``memory`` which have been seen. Readers that have a memory :meth:`admit` polls.
    """

    def __init__(
        self,
        schema: TableSchema,
        time_column: str,
        max_ahead_us: int | None,
        vet: Vet | None = None,
        *,
        refusals: Refusals | None = None,
        clock: Clock | None = None,
        ids: EventIds | None = None,
        memory: EventMemory | None = None,
    ) -> None:
        self.schema = schema
        self._ids, self._memory = ids, memory
        self.refusals = refusals
        self._clock = clock
        self._vet = vet
        self._time_column = time_column
        self._max_ahead_us = max_ahead_us
        none = np.zeros(0, dtype=np.int64)
        self._no_rows = with_own_positions(schema.arrow.empty_table(), 0, none, none.astype(np.int32))

    def read(self, poll: Poll) -> Received:
        """The poll's rows, dead letters and watermarks; made once for all intakes that refuse the same."""
        refusals = self._refused(poll)
        key = (Intake, id(self.schema), self._time_column, self._max_ahead_us, self._vet, tuple(refusals.items()))
        known = poll.shared.get(key)
        if known is None or known[0] is not self.schema:
            known = poll.shared[key] = self.schema, self._read(poll, refusals)
        received: Received = known[1]
        return received

    def admit(self, poll: Poll) -> Received:
        """Of :meth:`read`, the rows that are events: without those that repeat others by their id.

        Which do is decided durably when it returns, before anything of the poll is committed. For the reader of a
        partition, poll by poll; a part of a poll that is only tried is :meth:`read`.
        """
        received = self.read(poll)
        if self._memory is None:
            return received
        if Intake.admit not in received.shared:
            times_us = time_us(received.table, self._time_column)
            received.shared[Intake.admit] = received.without(
                self._memory.repetitions(poll, received.table, times_us, self._ids)
            )
        admitted: Received = received.shared[Intake.admit]
        return admitted

    def _read(self, poll: Poll, refusals: Mapping[int, str]) -> Received:
        announced, unfit = watermark_headers(poll)
        unfit |= _without_time(poll)
        unfit |= {int(np.searchsorted(poll.offsets, offset)): reason for offset, reason in refusals.items()}
        outside = [DeadLetter(int(poll.offsets[at]), why, 1, poll.values[at]) for at, why in sorted(unfit.items())]
        watermarks = [(int(poll.offsets[at]), time) for at, time in announced.items() if at not in unfit]
        if announced or unfit:
            poll = _select(poll, [at for at in range(len(poll)) if at not in announced and at not in unfit])
        if len(poll) == 0:  # as most polls of a topic in which nothing happens
            return Received(self._no_rows, outside, watermarks, refusals.keys())
        decoded = wire.decode(poll, self.schema)
        table, dead = decoded.table, [*outside, *decoded.dead]
        table = self._believed(poll, table, decoded.message_index, dead)
        vetted = _vetted(self._vet, table) if self._vet is not None and table.num_rows else Vetted({})
        table = _kept(poll, table, vetted.refused, dead)
        dead.sort(key=lambda letter: letter.offset)
        return Received(table, dead, watermarks, refusals.keys(), shared=dict(vetted.made))

    def _refused(self, poll: Poll) -> dict[int, str]:
        """The refusals of ``poll``, by offset."""
        if self.refusals is None or len(poll) == 0:
            return {}
        refused = self.refusals.within(poll.topic, poll.partition, poll.first, poll.last)
        if self._clock is not None and self._max_ahead_us is not None:
            ahead = poll.timestamps_ms > (self._clock.now_us() + self._max_ahead_us) // 1_000
            found = set(poll.offsets[ahead].tolist()) - refused.keys()
            if found:
                reason = (
                    f"its timestamp is more than max_ahead ({self._max_ahead_us / 1e6:g} s) after the worker's clock"
                )
                self.refusals.add(poll.topic, poll.partition, dict.fromkeys(sorted(found), reason))
                refused |= dict.fromkeys(found, reason)
        here = set(poll.offsets.tolist()) if refused else set()
        return {offset: reason for offset, reason in sorted(refused.items()) if offset in here}

    def _believed(
        self, poll: Poll, table: pa.Table, message_index: npt.NDArray[np.int64], dead: list[DeadLetter]
    ) -> pa.Table:
        """The rows that are not too far ahead of their messages; letters for the others are added to ``dead``."""
        if self._max_ahead_us is None or table.num_rows == 0:
            return table
        sent_us = poll.timestamps_ms[message_index] * 1_000
        ahead = np.flatnonzero(time_us(table, self._time_column) > sent_us + self._max_ahead_us)
        reason = (
            f"{self._time_column} is more than max_ahead ({self._max_ahead_us / 1e6:g} s) after the message's timestamp"
        )
        return _kept(poll, table, dict.fromkeys(ahead.tolist(), reason), dead)


def _without_time(poll: Poll) -> dict[int, str]:
    """Messages, by index, whose timestamp is none."""
    if (good := believable(poll)).all():
        return {}
    stamps = {int(at): int(poll.timestamps_ms[at]) for at in np.flatnonzero(~good)}
    return {at: f"the message's timestamp, {ms} ms, is outside of the years 0001 to 9999" for at, ms in stamps.items()}


def _vetted(vet: Vet, table: pa.Table) -> Vetted:
    """What ``vet`` says, also of rows on which it fails; what it made, where it is of all rows."""

    def look(rows: Sequence[int]) -> Vetted:
        found = vet(table.slice(rows[0], len(rows)))
        return found if isinstance(found, Vetted) else Vetted(found)

    said, failed = halved(range(table.num_rows), look)
    refused = {rows[0] + row: why for rows, found in said for row, why in found.refused.items()}
    refused |= {row: reason_of(error) for row, error in failed}
    return Vetted(refused, {} if refused else said[0][1].made)


def _kept(poll: Poll, table: pa.Table, refused: Mapping[int, str], dead: list[DeadLetter]) -> pa.Table:
    """``table`` without the rows that are refused; letters for these are added to ``dead``."""
    if not refused:
        return table
    dead += wire.row_letters(poll, table, refused)
    kept = np.ones(table.num_rows, dtype=np.bool_)
    kept[list(refused)] = False
    return table.filter(pa.array(kept))


def _select(poll: Poll, keep: list[int]) -> Poll:
    index = np.array(keep, dtype=np.int64)
    return Poll(
        poll.topic,
        poll.partition,
        poll.offsets[index],
        poll.timestamps_ms[index],
        [poll.keys[i] for i in keep],
        [poll.values[i] for i in keep],
        [poll.headers[i] for i in keep],
    )
