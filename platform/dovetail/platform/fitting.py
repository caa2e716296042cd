"""Messages that fit the broker: what is too large is split by rows where that is possible.

Kafka refuses a message above its topic's limit, and a batch of rows may exceed any. So the one place that publishes
passes everything through :func:`fitting`. Rows of one source position (a request's candidates) stay in one message,
because readers drop repetitions by source position and message; order is kept. Where the cuts are does not matter to
them, so publishing again under another limit is safe.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa

from dovetail.platform import wire
from dovetail.platform.errors import WireError
from dovetail.platform.positions import SOURCE_COLUMNS
from dovetail.platform.stage import Outgoing

__all__ = ["fitting", "wire_size"]

# Of a batch of one record, beyond key, value and headers: 61 bytes before the records, up to 35 of lengths.
_FRAMING = 128
_PER_HEADER = 16


def wire_size(message: Outgoing) -> int:
    """At most how many bytes the broker counts for ``message``."""
    headers = sum(len(name.encode()) + len(value) + _PER_HEADER for name, value in message.headers)
    return _FRAMING + len(message.key or b"") + len(message.value or b"") + headers


def fitting(outgoing: Sequence[Outgoing], limit: int) -> Sequence[Outgoing]:
    """``outgoing`` with each message above ``limit`` bytes split; the sequence itself when there is none.

    A dead letter that cannot be split goes without its value, which is at its source position, and says so.

    Raises WireError for any other message that cannot be split: its rows have one source position, or it is not Arrow.
    """
    if all(wire_size(message) <= limit for message in outgoing):
        return outgoing
    return [part for message in outgoing for part in _fit(message, limit)]


def _fit(message: Outgoing, limit: int) -> Iterator[Outgoing]:
    if wire_size(message) <= limit:
        yield message
        return
    table = wire.rows_of(message.value)
    if table is not None and len(starts := _unit_starts(table)) > 1:
        # The cut next to the middle; what is still too large is cut again.
        cut = int(starts[1 + np.abs(starts[1:] - table.num_rows / 2).argmin()])
        for part in (table.slice(0, cut), table.slice(cut)):
            yield from _fit(replace(message, value=wire.encode(part)), limit)
        return
    if any(name == wire.REASON_HEADER for name, _ in message.headers):
        left_out = (wire.LEFT_OUT_HEADER, b"%d" % len(message.value))
        yield replace(message, value=b"", headers=(*message.headers, left_out))
        return
    rows = "not Arrow" if table is None else f"{table.num_rows} rows of one source position"
    raise WireError(
        f"a message for {message.topic!r} is {wire_size(message)} bytes ({rows}) and cannot be split; the limit is "
        f"{limit}: raise broker.max_message_bytes and the topic's max.message.bytes"
    )


def _unit_starts(table: pa.Table) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Row index at which each unit that must stay together begins: a source position, or a row without one."""
    if SOURCE_COLUMNS[0] not in table.column_names:
        return np.arange(table.num_rows, dtype=np.int64)
    at = np.stack([table.column(name).to_numpy() for name in SOURCE_COLUMNS])
    changes = np.concatenate(([True], (at[:, 1:] != at[:, :-1]).any(axis=0)))
    return np.flatnonzero(changes).astype(np.int64)
