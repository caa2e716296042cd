"""Rows as the agents of their topic would take them, before they are sent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from dovetail.app.doors.door import Door
from dovetail.platform.rows.fitting import wire_size
from dovetail.platform.rows.identity import EVENT_ID_HEADER
from dovetail.platform.rows.intake import Received
from dovetail.platform.stage import Outgoing, Poll

__all__ = ["CheckedRows", "check_messages", "key_of", "row_headers"]


@dataclass(frozen=True, slots=True)
class CheckedRows:
    """Rows as the agents of a topic would take them: by row, the message of each good one, or why it is bad.

    ``table`` are the good ones as declared, with ``_offset`` for the number of the row.
    """

    messages: Mapping[int, Outgoing]
    bad: Mapping[int, str]
    table: pa.Table


def check_messages(
    door: Door, rows: Sequence[bytes], now_ms: int, max_bytes: int, call: str | None = None
) -> CheckedRows:
    """Check ``rows``, messages of one row each, of which none may have more than ``max_bytes``.

    Messages have ``now_ms`` for a timestamp, and it is what their rows may be ahead of. Rows of a ``call`` are known by
    its name and their number when they are sent again.

    Raises:
        ConfigError: ``call`` is given, and nobody would look at it.
    """
    if call is not None:
        door.refuse_names()
    received = _received(door, rows, now_ms)
    bad = {letter.offset: letter.reason for letter in received.dead}
    messages = {}
    numbers = received.table.column("_offset").to_pylist()
    for number, key in zip(numbers, received.table.column(door.key).to_pylist(), strict=True):
        message = Outgoing(
            door.topic, rows[number], key=key_of(key), timestamp_ms=now_ms, headers=row_headers(call, number)
        )
        if wire_size(message) > max_bytes:
            bad[number] = f"it is larger than the broker takes, {max_bytes} bytes ([broker] max_message_bytes)"
        else:
            messages[number] = message
    return CheckedRows(messages, dict(sorted(bad.items())), received.table)


def row_headers(call: str | None, number: int) -> tuple[tuple[str, bytes], ...]:
    """The headers by which row ``number`` of a call is known; none without a call."""
    return () if call is None else ((EVENT_ID_HEADER, f"{call}/{number}".encode()),)


def key_of(value: object) -> bytes | None:
    """A message's key, by which it comes to its partition: the value as text; None, any partition, for NULL."""
    return None if value is None else str(value).encode()


def _received(door: Door, rows: Sequence[bytes], now_ms: int) -> Received:
    count = len(rows)
    stamps = np.full(count, now_ms, dtype=np.int64)
    nothing = [None] * count
    return door.intake.read(Poll(door.topic, 0, np.arange(count), stamps, nothing, rows, [()] * count))
