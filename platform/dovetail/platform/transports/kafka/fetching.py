"""Polls of aiokafka: what partitions that may be handed out have, while records of all others are set aside.

All of it belongs to the event loop of the consumer's thread. aiokafka has no public way for most of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from aiokafka import AIOKafkaConsumer
from aiokafka.errors import NoOffsetForPartitionError, OffsetOutOfRangeError

from dovetail.platform.stage import Poll
from dovetail.platform.transports.kafka.aside import Aside
from dovetail.platform.transports.kafka.prefetched import Prefetched
from dovetail.platform.transports.kafka.visible import VisibleEnds

__all__ = ["Fetching", "assignment_of", "set_wait", "touch"]

# How long the broker may hold a fetch that finds nothing. A partition that is sought, or that was held back for so long
# that nothing more of it was set aside, joins the next fetch only; the stock driver's 1.5 s would stall it that long.
_FETCH_WAIT_MS = 100
_POLL_TIMEOUT_S = 1.0


class Fetching:
    """Fetches for a consumer. What one partition has set aside is bounded by ``most_bytes`` and one fetch more.

    A poll has at most ``most_messages`` of a partition. ``visible`` is told what has been fetched.
    """

    def __init__(self, most_bytes: int, most_messages: int, visible: VisibleEnds[Any]) -> None:
        self._visible = visible
        self._aside: Aside[Any] = Aside(most_bytes, most_messages)
        self._prefetched = Prefetched()
        self._wakeup = asyncio.Event()
        # The assignment in which a partition was last sought: each rebalance brings a new one, with no position in it.
        self._sought: dict[Any, object] = {}

    def start(self, consumer: AIOKafkaConsumer) -> None:
        """Take the place of its buffer: nothing is fetched yet."""
        consumer._fetcher._records = self._prefetched  # noqa: SLF001

    def wake(self) -> None:
        """End a :meth:`poll` that is waiting, or the next one."""
        self._wakeup.set()

    def seek(self, consumer: AIOKafkaConsumer, positions: Mapping[Any, int]) -> None:
        """Make the next fetch start at these offsets, of all partitions assigned; what was fetched is dropped."""
        self._aside.clear()
        self._visible.sought(positions)
        self._sought = dict.fromkeys(positions, assignment_of(consumer))
        for partition, offset in positions.items():
            consumer.seek(partition, offset)

    async def poll(self, consumer: AIOKafkaConsumer, wanted: set[Any]) -> dict[Any, Poll]:
        """A poll of each of ``wanted``; none when woken or after a second. Those of others are set aside."""
        clock = asyncio.get_running_loop().time
        polls, until = self._aside.take(wanted), clock() + _POLL_TIMEOUT_S
        while not (polls or self._wakeup.is_set()) and (left_s := until - clock()) > 0:
            fetched = await self._fetch(consumer, wanted, left_s)
            self._aside.put({partition: poll for partition, poll in fetched.items() if partition not in wanted})
            polls = {partition: poll for partition, poll in fetched.items() if partition in wanted}
        self._wakeup.clear()
        return polls

    async def _fetch(self, consumer: AIOKafkaConsumer, wanted: set[Any], wait_s: float) -> dict[Any, Poll]:
        """What there is of ``wanted`` and of all others with room, waited for until woken."""
        others = consumer.assignment() - wanted
        spare = self._aside.with_room(others)
        if self._prefetched.hold(others - spare):
            fetcher = consumer._fetcher  # noqa: SLF001
            fetcher._notify(fetcher._wait_consume_future)  # noqa: SLF001
        fetch = asyncio.ensure_future(self._getmany(consumer, wanted | spare, wait_s))
        woken = asyncio.ensure_future(self._wakeup.wait())
        try:
            await asyncio.wait({fetch, woken}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            woken.cancel()
            if not fetch.done():
                # Loses nothing: getmany takes records out of aiokafka's buffer and returns them in one go.
                fetch.cancel()
        await asyncio.wait({fetch})
        try:
            return {} if fetch.cancelled() else fetch.result()
        except (NoOffsetForPartitionError, OffsetOutOfRangeError) as error:
            if not self._before_seek(consumer, error):
                raise
            await asyncio.sleep(_FETCH_WAIT_MS / 1000)
            self.wake()  # the seek waits for this poll to end
            return {}

    async def _getmany(self, consumer: AIOKafkaConsumer, partitions: set[Any], wait_s: float) -> dict[Any, Poll]:
        if not partitions:  # aiokafka would read all
            touch(consumer)
            await asyncio.sleep(wait_s)
            return {}
        found: dict[Any, Any] = await consumer.getmany(*partitions, timeout_ms=int(wait_s * 1000))
        # At once: who asks next where topics end finds aiokafka's positions moved, and these records before the end.
        self._visible.read({partition: poll.last + 1 for partition, poll in found.items()})
        return found

    def _before_seek(
        self, consumer: AIOKafkaConsumer, error: NoOffsetForPartitionError | OffsetOutOfRangeError
    ) -> bool:
        """Whether an error is about a position that aiokafka looked for itself, before it was told ours.

        After a rebalance it begins with the group's committed offsets, and a poll may be under way. They are a hint:
        that there is none, or that the broker no longer has it, is no error where the stores know the position.
        """
        if isinstance(error, NoOffsetForPartitionError):
            return True  # what has been sought has a position
        return any(self._sought.get(partition) is not assignment_of(consumer) for partition in error.args[0])


def assignment_of(consumer: AIOKafkaConsumer) -> Any:
    """aiokafka's object for what is assigned now; None before the group has been joined."""
    return getattr(consumer._subscription.subscription, "assignment", None)  # noqa: SLF001


def touch(consumer: AIOKafkaConsumer) -> None:
    """Count as having polled: who polls nothing for ``broker_max_poll_interval`` is taken out of the group."""
    with consumer._subscription.fetch_context():  # noqa: SLF001 - the public way reads messages
        pass


def set_wait(consumer: AIOKafkaConsumer) -> None:
    """Let the broker hold a fetch that finds nothing for as long as is right here."""
    consumer._fetch_max_wait_ms = _FETCH_WAIT_MS  # noqa: SLF001
