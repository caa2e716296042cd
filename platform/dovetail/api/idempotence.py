"""Calls with an ``Idempotency-Key``: the second is answered like the first, and its rows are no events.

That a row is one event is decided by its id in the log (``rows/identity``), whatever becomes of answers. The answer is
kept for as long as ids are remembered; a process that died between sending and keeping it leaves a call whose
repetition sends its rows again, known as such, and gets an answer with their new places.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, NamedTuple
from weakref import WeakValueDictionary

from dovetail.app.doors.door import Door
from dovetail.platform.clock import Clock
from dovetail.platform.errors import ConfigError
from dovetail.platform.runtime.computing import compute
from dovetail.platform.stores.registry.answered_calls import AnsweredCall, AnsweredCalls

__all__ = ["IDEMPOTENCY_KEY", "KEY_PATTERN", "BadKey", "Call", "KeptAnswers", "call_of"]

#: The header that has a call's key.
IDEMPOTENCY_KEY = "Idempotency-Key"
#: A key, as a regular expression.
KEY_PATTERN = "^[!-~]{1,255}$"


class BadKey(Exception):
    """A key that cannot be used, or has been used for another call; ``status`` is that of the answer."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class Call(NamedTuple):
    """A call by its key, and a digest of all that its answer depends on."""

    key: str
    digest: str


def call_of(door: Door, keys: Sequence[str], rows: Sequence[bytes], *, atomic: bool) -> Call | None:
    """The call of these rows, by the ``keys`` that it came with; None without one.

    Raises:
        BadKey: there are several, it is no key, or nobody would look at it.
    """
    if not keys:
        return None
    if len(keys) > 1:
        raise BadKey(400, f"Idempotency-Key: the call has {len(keys)}; give it one")
    key = keys[0]
    if not re.fullmatch(KEY_PATTERN, key):
        raise BadKey(400, "Idempotency-Key: give 1 to 255 visible characters of ASCII, like a UUID")
    try:
        door.refuse_names()
    except ConfigError as error:
        raise BadKey(400, f"Idempotency-Key: {error}") from None
    digest = hashlib.blake2b(b"all" if atomic else b"good", digest_size=16)
    for row in rows:
        digest.update(b"%d:" % len(row))
        digest.update(row)
    return Call(key, digest.hexdigest())


class KeptAnswers:
    """The answers of calls with a key, for all processes of a project."""

    def __init__(self, calls: AnsweredCalls, clock: Clock) -> None:
        self._calls, self._clock = calls, clock
        self._turns: WeakValueDictionary[tuple[str, str], asyncio.Lock] = WeakValueDictionary()

    async def once(
        self, door: Door, call: Call, make: Callable[[], Awaitable[Mapping[str, Any]]]
    ) -> tuple[Mapping[str, Any], bool]:
        """The answer that ``call`` was given, or else that of ``make``; and whether it is of before.

        An answer that says that no row was taken is not kept. Calls of one key take turns.

        Raises:
            BadKey: the key was used for another call.
        """
        assert door.ids is not None  # noqa: S101 - call_of has seen to it
        turn = self._turns.setdefault((door.topic, call.key), asyncio.Lock())
        async with turn:
            now_us = self._clock.now_us()
            known = await compute(self._calls.of, door.topic, call.key, now_us - door.ids.within_us)
            if known is not None:
                if known.digest != call.digest:
                    raise BadKey(
                        422,
                        "Idempotency-Key: it was used for a call of other rows, or another ?atomic; give each its own",
                    )
                return json.loads(known.answer), True
            answer = await make()
            if answer["accepted"]:
                kept = AnsweredCall(call.digest, json.dumps(answer), now_us)
                await compute(self._calls.put, door.topic, call.key, kept, now_us - door.ids.within_us)
            return answer, False
