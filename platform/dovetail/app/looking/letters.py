"""Dead letters as rows, and what of a letter its message was."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator, Sequence
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from dovetail.platform.rows import wire
from dovetail.platform.stage import Poll
from dovetail.platform.transports.viewing import TopicView, follow, read_all

__all__ = ["LETTERS", "Letter", "dead_letters", "letter_rows", "newest_letters", "of_message_keys"]

#: A letter as a row. ``letter`` is its offset in the dead-letter topic, ``sent`` its message's timestamp (NULL when it
#: is none), ``topic``, ``partition`` and ``offset`` where the message is, ``rows`` how many rows of it are dead.
#: ``key`` and ``value`` are its bytes as text, or ``base64:…`` where they are not UTF-8.
LETTERS = pa.schema(
    [
        pa.field("letter", pa.int64()),
        pa.field("sent", pa.timestamp("ms")),
        pa.field("stage", pa.string()),
        pa.field("topic", pa.string()),
        pa.field("partition", pa.int32()),
        pa.field("offset", pa.int64()),
        pa.field("rows", pa.int64()),
        pa.field("reason", pa.string()),
        pa.field("key", pa.string()),
        pa.field("value", pa.string()),
        pa.field("resent", pa.bool_()),
    ]
)
_YEAR_9999_MS = 253_402_300_799_999


class Letter(NamedTuple):
    """A dead letter: its offset in the dead-letter topic, its head, and its message's key, headers and value.

    ``complete`` is False where the value was too large to go along.
    """

    offset: int
    head: wire.LetterHead
    key: bytes | None
    headers: Sequence[tuple[str, bytes]]
    value: bytes
    complete: bool


async def dead_letters(view: TopicView, topic: str, *, following: bool = False) -> AsyncIterator[list[Letter]]:
    """The letters of the dead-letter topic, each once, some at a time; a stage that crashes may have sent one twice.

    ``following``: only letters that come from now on, and it does not end.
    """
    if following:
        ends = {number: end for number, (_, end) in (await view.bounds(topic)).items()}
        polls = follow(view, topic, ends)
    else:
        polls = read_all(view, topic, {})
    seen: set[tuple[object, ...]] = set()
    async for poll in polls:
        fresh = []
        for letter in _letters(poll):
            # By what its bytes are, too: letters of one message may have the same reason for different rows.
            same = (*letter.head, letter.key, hash(letter.value))
            if same not in seen:
                seen.add(same)
                fresh.append(letter)
        if fresh:
            yield fresh


async def newest_letters(view: TopicView, topic: str, most: int) -> list[dict[str, Any]]:
    """The newest letters of the dead-letter topic as rows (LETTERS), ``most`` at the most; only its end is read."""
    found: list[Letter] = []
    for partition, (start, end) in (await view.bounds(topic)).items():
        at = max(start, end - most)
        while at < end:
            poll = await view.read(topic, partition, at)
            if poll is None:
                break
            found += _letters(poll)
            at = poll.last + 1
    found.sort(key=lambda letter: letter.head.sent_ms, reverse=True)
    rows: list[dict[str, Any]] = letter_rows(found[:most], set()).to_pylist()
    return rows


def _letters(poll: Poll) -> list[Letter]:
    found = []
    offsets = poll.offsets.tolist()
    for offset, key, value, headers in zip(offsets, poll.keys, poll.values, poll.headers, strict=True):
        head = wire.letter_of(headers)
        complete = all(name != wire.LEFT_OUT_HEADER for name, _ in headers)
        found.append(Letter(offset, head, key, wire.message_headers(headers), value or b"", complete))
    return found


def letter_rows(letters: Sequence[Letter], resent: set[int]) -> pa.Table:
    """``letters`` as rows (LETTERS); ``resent`` are the offsets of those that were sent again."""
    rows = [
        {
            **letter.head._asdict(),
            "letter": letter.offset,
            "sent": letter.head.sent_ms if 0 <= letter.head.sent_ms <= _YEAR_9999_MS else None,
            "key": None if letter.key is None else _text(letter.key),
            "value": _text(letter.value) if letter.complete else None,
            "resent": letter.offset in resent,
        }
        for letter in letters
    ]
    return pa.Table.from_pylist(rows, schema=LETTERS)


def of_message_keys(table: pa.Table, keys: Sequence[str]) -> pa.Array:
    """The letters whose message had one of ``keys``."""
    return pc.is_in(table.column("key"), pa.array(list(keys), pa.string()))


def _text(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return f"base64:{base64.b64encode(value).decode()}"
