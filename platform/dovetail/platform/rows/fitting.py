"""Messages that fit the broker: what is too large is split by rows where that is possible.

Kafka refuses a message above its topic's limit, and a batch of rows may exceed any. So the one place that publishes
passes everything through :func:`fitting`. Rows of one source position (a request's candidates) stay in one message,
because readers drop repetitions by source position and message; order is kept. Where the cuts are does not matter to
them, so publishing again under another limit is safe.

What cannot be split has a decided outcome, by what it is:

======================  ==============================================================================================
a snapshot              of one request: the request is a dead letter (``snapshot_agent.py``, by :func:`units_above`),
                        held to an eighth less than the limit, so that what later stages add still fits
a dead letter           goes without its value, which is at its source position, and says so; if need be also without
                        the key and the headers of its message
a held row              of one candidate: a part of a snapshot, which did fit
a sample, also ordered  of one candidate: its snapshot did fit, so its batch features are too large. That is not the
                        fault of a message, and the worker ends with the error of :func:`fitting`
a model                 is sent in parts as large as the limit allows (``trainer/models/mirror.py``)
======================  ==============================================================================================
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa

from dovetail.platform.errors import WireError
from dovetail.platform.rows import wire
from dovetail.platform.rows.encodings.shared import some_rows
from dovetail.platform.rows.positions import SOURCE_COLUMNS
from dovetail.platform.stage import Outgoing

__all__ = ["fitting", "units_above", "value_limit", "wire_size"]

# Of a batch of one record, beyond key, value and headers: 61 bytes before the records, up to 35 of lengths.
_FRAMING = 128
_PER_HEADER = 16


def wire_size(message: Outgoing) -> int:
    """At most how many bytes the broker counts for ``message``."""
    headers = sum(len(name.encode()) + len(value or b"") + _PER_HEADER for name, value in message.headers)
    return _FRAMING + len(message.key or b"") + len(message.value or b"") + headers


def value_limit(limit: int, message: Outgoing) -> int:
    """How large the value of a message like ``message``, which has none, may be."""
    return limit - wire_size(message)


def fitting(outgoing: Sequence[Outgoing], limit: int) -> Sequence[Outgoing]:
    """``outgoing`` with each message above ``limit`` bytes split; the sequence itself when there is none.

    A dead letter goes without its value, which is at its source position, and says so: what is in it came from outside,
    and is not looked into.

    Raises WireError for any other message that cannot be split: its rows have one source position, or it is not Arrow.
    """
    if all(wire_size(message) <= limit for message in outgoing):
        return outgoing
    return [part for message in outgoing for part in _fit(message, limit)]


def units_above(message: Outgoing, limit: int) -> Iterator[pa.Table]:
    """The rows of each source position of an Arrow ``message`` that are above ``limit`` bytes by themselves."""
    if wire_size(message) <= limit:
        return
    halves = _halves(message)
    if halves is None:
        yield wire.rows_of(message.value)
        return
    for half in halves:
        yield from units_above(half, limit)


def _fit(message: Outgoing, limit: int) -> Iterator[Outgoing]:
    if wire_size(message) <= limit:
        yield message
        return
    if _is_dead_letter(message):
        yield _without_value(message, limit)
        return
    if (halves := _halves(message)) is not None:
        for half in halves:
            yield from _fit(half, limit)
        return
    raise WireError(
        f"a message for {message.topic!r} is {wire_size(message)} bytes ({_contents(message)}) and cannot be split; "
        f"the limit is {limit}: raise broker.max_message_bytes and the topic's max.message.bytes"
    )


def _halves(message: Outgoing) -> tuple[Outgoing, Outgoing] | None:
    """Two messages in place of one, cut next to its middle; None when there is nowhere to cut."""
    table = wire.rows_of(message.value)
    if table is None:
        return None
    starts = _unit_starts(table)
    if len(starts) < 2:
        return None
    cut = int(starts[1 + np.abs(starts[1:] - table.num_rows / 2).argmin()])
    halves = (np.arange(cut), np.arange(cut, table.num_rows))
    left, right = (replace(message, value=wire.encode(some_rows(table, rows))) for rows in halves)
    return left, right


def _is_dead_letter(message: Outgoing) -> bool:
    return any(name == wire.REASON_HEADER for name, _ in message.headers)


def _without_value(letter: Outgoing, limit: int) -> Outgoing:
    left_out = (wire.LEFT_OUT_HEADER, b"%d" % len(letter.value))
    lighter = replace(letter, value=b"", headers=(*letter.headers, left_out))
    if wire_size(lighter) <= limit:
        return lighter
    # Of several headers with that name the last is ours, and what follows it.
    ours = max(at for at, (name, _) in enumerate(letter.headers) if name == wire.REASON_HEADER)
    return replace(lighter, key=None, headers=lighter.headers[ours:])


def _contents(message: Outgoing) -> str:
    table = wire.rows_of(message.value)
    if table is None:
        return "not Arrow"
    where = ""
    if SOURCE_COLUMNS[0] in table.column_names:
        partition, offset, row = (table.column(name)[0].as_py() for name in SOURCE_COLUMNS)
        where = f", partition {partition}, offset {offset}, row {row} of what it was made from"
    return f"{table.num_rows} rows of one source position{where}"


def _unit_starts(table: pa.Table) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Row index at which each unit that must stay together begins: a source position, or a row without one."""
    if SOURCE_COLUMNS[0] not in table.column_names:
        return np.arange(table.num_rows, dtype=np.int64)
    at = np.stack([table.column(name).to_numpy() for name in SOURCE_COLUMNS])
    changes = np.concatenate(([True], (at[:, 1:] != at[:, :-1]).any(axis=0)))
    return np.flatnonzero(changes).astype(np.int64)
