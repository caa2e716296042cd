"""Checks messages from outside: rows that fit and are believable pass, the rest become dead letters.

Two stages that read the same topic (an agent and its archive) use the same intake, so they agree on every row.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from dovetail.platform.clock import Clock
from dovetail.platform.rows import wire
from dovetail.platform.rows.positions import OWN_COLUMNS
from dovetail.platform.rows.refusals import Refusals
from dovetail.platform.rows.schema import TableSchema
from dovetail.platform.rows.wire import DeadLetter
from dovetail.platform.stage import Outgoing, Poll

__all__ = [
    "IDLE_HEADER",
    "NEWEST_MS",
    "OLDEST_MS",
    "WATERMARK_HEADER",
    "Intake",
    "Received",
    "Vet",
    "announcement",
    "spoken_ms",
    "time_us",
    "watermark_headers",
]

#: Rows of a table (by index) that must not pass, with the reason.
Vet = Callable[[pa.Table], Mapping[int, str]]

#: A message with this header and no value says: nothing older than this (decimal microseconds since 1970-01-01 UTC)
#: will follow in this partition. Sources of sparse streams send it so that time goes on where nothing happens.
WATERMARK_HEADER = "dovetail-watermark"
#: Beside it: the announcement was made for a silent partition, and does not end its silence.
IDLE_HEADER = "dovetail-idle"
#: The years 1 to 9999, as far as timestamps of messages (ms) are taken for times at all.
OLDEST_MS, NEWEST_MS = -62_135_596_800_000, 253_402_300_799_999


def time_us(table: pa.Table, column: str) -> npt.NDArray[np.int64]:
    """A timestamp column (no NULLs) as int64 microseconds."""
    values: npt.NDArray[np.int64] = table.column(column).cast(pa.timestamp("us")).cast(pa.int64()).to_numpy()
    return values


def watermark_headers(poll: Poll) -> dict[int, int]:
    """The watermark announced by each message of the poll that announces one, by index in the poll."""
    announced = {}
    for index, headers in enumerate(poll.headers):
        for name, value in headers:
            if name == WATERMARK_HEADER and not poll.values[index] and value.isdigit():
                announced[index] = int(value)
    return announced


def announcement(topic: str, partition: int, time_us: int) -> Outgoing:
    """The message that announces a watermark for a silent partition."""
    headers = ((WATERMARK_HEADER, str(time_us).encode()), (IDLE_HEADER, b"1"))
    return Outgoing(topic, b"", partition=partition, headers=headers)


def spoken_ms(poll: Poll, refused: Collection[int] = ()) -> int | None:
    """The newest timestamp (ms) of messages that somebody else than Dovetail sent; None when there is none.

    Those of ``refused`` messages, by offset, do not count, nor what lies beyond the year 9999.
    """
    left_out = [any(name == IDLE_HEADER for name, _ in headers) for headers in poll.headers]
    stamps = poll.timestamps_ms[~(np.array(left_out, dtype=np.bool_) | np.isin(poll.offsets, list(refused)))]
    return min(int(stamps.max()), NEWEST_MS) if len(stamps) else None


@dataclass(frozen=True, slots=True)
class Received:
    """Rows of a poll in log order with their own positions; dead letters; watermarks announced, as (offset, µs).

    ``refused`` are the offsets of messages that were turned away whole, also for what they say of time.
    """

    table: pa.Table
    dead: Sequence[DeadLetter]
    watermarks: Sequence[tuple[int, int]]
    refused: Collection[int] = ()

    @property
    def dead_rows(self) -> int:
        """The number of rows that the dead letters count as in the accounts."""
        return sum(letter.rows for letter in self.dead)


class Intake:
    """Decodes polls of one outside topic.

    A row whose ``time_column`` is more than ``max_ahead_us`` ahead of its message's timestamp is a dead letter: one
    date from the future would move the watermark past everybody's state and labels, and a request from there would
    keep all behind it waiting for its labels. None turns the check off.
    ``vet`` may turn further rows away.

    ``refusals``: what some reader of the topic could not use is turned away whole. With a ``clock``, this reader is one
    of those who judge: a message whose own timestamp is more than ``max_ahead_us`` ahead of it is refused, for all.
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
    ) -> None:
        self.schema = schema
        self.refusals = refusals
        self._clock = clock
        self._vet = vet
        self._time_column = time_column
        self._max_ahead_us = max_ahead_us

    def read(self, poll: Poll) -> Received:
        """The poll's rows, dead letters and watermarks."""
        refused = self._refused(poll)
        turned_away: list[DeadLetter] = []
        if refused:
            at = np.searchsorted(poll.offsets, list(refused)).tolist()
            turned_away = [
                DeadLetter(offset, reason, 1, poll.values[index])
                for index, (offset, reason) in zip(at, refused.items(), strict=True)
            ]
            poll = _select(poll, sorted(set(range(len(poll))) - set(at)))
        announced = watermark_headers(poll)
        if announced:
            keep = [index for index in range(len(poll)) if index not in announced]
            watermarks = [(int(poll.offsets[index]), time) for index, time in announced.items()]
            poll = _select(poll, keep)
        else:
            watermarks = []
        decoded = wire.decode(poll, self.schema)
        table, dead = decoded.table, [*turned_away, *decoded.dead]
        if self._max_ahead_us is not None and table.num_rows:
            sent_us = np.minimum(poll.timestamps_ms[decoded.message_index], NEWEST_MS) * 1_000
            ahead = time_us(table, self._time_column) > sent_us + self._max_ahead_us
            if ahead.any():
                reason = (
                    f"{self._time_column} is more than max_ahead ({self._max_ahead_us / 1e6:g} s) "
                    "after the message's timestamp"
                )
                dead += _row_letters(table.filter(pa.array(ahead)), reason)
                table = table.filter(pa.array(~ahead))
        if self._vet is not None and table.num_rows:
            unfit = self._vet(table)
            for row, reason in unfit.items():
                dead += _row_letters(table.slice(row, 1), reason)
            if unfit:
                kept = np.ones(table.num_rows, dtype=np.bool_)
                kept[list(unfit)] = False
                table = table.filter(pa.array(kept))
        return Received(table, sorted(dead, key=lambda letter: letter.offset), watermarks, refused.keys())

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


def _row_letters(bad: pa.Table, reason: str) -> list[DeadLetter]:
    """Dead letters for single rows of messages that may hold good ones too: one per message, with just these rows."""
    offsets = bad.column("_offset").to_numpy()
    letters = []
    for offset in np.unique(offsets).tolist():
        rows = bad.filter(pa.array(offsets == offset)).drop_columns(list(OWN_COLUMNS))
        letters.append(DeadLetter(offset, reason, rows.num_rows, wire.encode(rows)))
    return letters


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
