"""Rows of a file sent to a topic, each a message of its own, after all of them have been checked.

A row is checked as the agents of its topic would (:class:`~dovetail.platform.rows.intake.Intake`), in just the bytes
in which it is then sent. A line of JSON goes as it stands; a row of another file goes as Arrow.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from dovetail.app.broker import broker_app
from dovetail.app.doors.checking import key_of, row_headers
from dovetail.app.doors.door import Door
from dovetail.app.doors.files import FileRows
from dovetail.features import Project
from dovetail.platform.clock import Clock
from dovetail.platform.rows import wire
from dovetail.platform.rows.intake import WATERMARK_HEADER
from dovetail.platform.stage import Outgoing, Poll
from dovetail.platform.transports.publishing import publisher

__all__ = ["Checked", "check_rows", "publish", "watermarks"]

_AT_ONCE = 4_096


@dataclass(frozen=True, slots=True)
class Checked:
    """Messages of the rows that an agent would take, in order, and (number, reason) of the others, ascending."""

    messages: Sequence[Outgoing]
    bad: Sequence[tuple[int, str]]


def check_rows(door: Door, rows: Iterable[FileRows], clock: Clock, call: str | None = None) -> Checked:
    """Make messages of ``rows``, with the clock's time for a timestamp, and check them.

    Rows of a ``call`` are known by its name and their number when they are sent again.

    Raises:
        ConfigError: ``call`` is given, and nobody would look at it.
    """
    if call is not None:
        door.refuse_names()
    messages: list[Outgoing] = []
    bad: list[tuple[int, str]] = []
    for part in rows:
        now_ms = clock.now_us() // 1_000
        table = part.table
        values = part.raw or [wire.encode(table.slice(row, 1)) for row in range(table.num_rows)]
        keys = [key_of(value) for value in table.column(door.key).to_pylist()]
        stamps = np.full(len(values), now_ms, dtype=np.int64)
        poll = Poll(door.topic, 0, part.numbers, stamps, keys, values, [()] * len(values))
        refused = {letter.offset: letter.reason for letter in door.intake.read(poll).dead} if values else {}
        bad += sorted([*part.bad, *refused.items()])
        messages += [
            Outgoing(door.topic, value, key=key, timestamp_ms=now_ms, headers=row_headers(call, number))
            for number, key, value in zip(part.numbers.tolist(), keys, values, strict=True)
            if number not in refused
        ]
    return Checked(messages, bad)


def watermarks(door: Door, time_us: int) -> list[Outgoing]:
    """Messages that say to each partition of the topic: nothing older than ``time_us`` will follow."""
    header = ((WATERMARK_HEADER, str(time_us).encode()),)
    return [Outgoing(door.topic, b"", partition=number, headers=header) for number in range(door.partitions)]


def publish(project: Project, messages: Sequence[Outgoing], *, on_sent: Callable[[int], None] = lambda _: None) -> None:
    """Publish ``messages`` in order, from a process that runs no worker; topics that are missing are made.

    Returns when the broker has them all. ``on_sent`` is told how many it has. Embedded, a process that is killed has
    sent a multiple of 4,096 of them.

    Raises:
        LogLocked: the broker is embedded, and a worker runs.
        TransportError: the broker has not taken them; those of which ``on_sent`` was told are there.
    """

    async def run() -> None:
        async with publisher(broker_app(project.config, f"dovetail-{project.config.name}.client")) as there:
            for start in range(0, len(messages), _AT_ONCE):
                await there.publish(messages[start : start + _AT_ONCE])
                on_sent(min(start + _AT_ONCE, len(messages)))

    if messages:
        asyncio.run(run())
