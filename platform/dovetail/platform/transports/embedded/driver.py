"""Faust transport driver ``embedded://``: the broker is one SQLite file, the cluster one process.

The URL names an absolute path: ``embedded:///var/lib/dovetail/log.db``. (``create_app`` takes relative paths too. A
URL cannot: what follows two slashes is a host name, and loses its upper case.) All partitions of the topics subscribed
to are assigned at once, and an append wakes the consumer directly, so that a message passes in about a millisecond.
See :mod:`dovetail.platform.transports.embedded.log` for what survives a crash.
"""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Awaitable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from faust.transport import base
from faust.transport.producer import Producer as BaseProducer
from faust.types import TP, AppT, HeadersArg, RecordMetadata
from faust.types.transports import ConsumerT, ProducerT
from mode import Seconds, want_seconds
from yarl import URL

from dovetail.platform.errors import TransportError
from dovetail.platform.stage import Outgoing, Poll
from dovetail.platform.transports.coalescing import CoalescingConsumer
from dovetail.platform.transports.embedded.log import EmbeddedLog, LogRetention
from dovetail.platform.transports.embedded.view import EmbeddedView
from dovetail.platform.transports.partitioning import partition_of_key

__all__ = ["Consumer", "Producer", "Transport"]

# Appending this many messages takes about a millisecond: fewer are written in the event loop, because handing them to
# a thread costs as much; more go to a thread, and the loop stays free.
_INLINE_MESSAGES = 256
_INLINE_BYTES = 1 << 18


class Consumer(CoalescingConsumer):
    """Reads the embedded log. Everything subscribed to is assigned to this process."""

    transport: Transport
    messages: EmbeddedLog

    def __post_init__(self) -> None:
        super().__post_init__()
        self._assigned: set[TP] = set()
        self._positions: dict[TP, int] = {}

    async def on_start(self) -> None:
        """Open the log and start listening to it, from whichever thread appends."""
        await super().on_start()
        self.messages = self.exit_stack.enter_context(EmbeddedLog.open(self.transport.path))
        loop, home = asyncio.get_running_loop(), threading.get_ident()

        def grown(_: frozenset[tuple[str, int]]) -> None:
            if threading.get_ident() == home:
                self.wake()
            else:
                loop.call_soon_threadsafe(self.wake)

        self.exit_stack.callback(self.messages.listen(grown))

    async def subscribe(self, topics: Iterable[str]) -> None:
        """Take all partitions of ``topics``. The assignment callbacks run after this returns, as Faust expects."""
        known = self.messages.topics()
        missing = sorted(set(topics) - set(known))
        if missing:
            raise TransportError(
                f"{self.messages.path} has no topic {', '.join(missing)}; declare it with its partitions, "
                "in dovetail.toml or in create_app(topics=...)"
            )
        assigned = {TP(topic, number) for topic in topics for number in range(known[topic])}
        if not self.app.client_only:
            self.add_future(self._assign(assigned))

    async def _assign(self, assigned: set[TP]) -> None:
        self.app.on_rebalance_start()
        self.app.consumer_generation_id += 1
        await self.on_partitions_revoked(self._assigned - assigned)
        self._assigned = assigned
        await self.on_partitions_assigned(assigned, self.app.consumer_generation_id)

    async def _fetch_polls(self, tps: set[TP]) -> Sequence[Poll]:
        polls = []
        for tp in sorted(tps):
            poll = self.messages.read(tp.topic, tp.partition, self._positions[tp])
            if poll is not None:
                # Offsets of this log are consecutive: a jump means that retention was faster than the reader.
                self._checked(tp, self._positions[tp], poll.first, poll.last + 1)
                self._positions[tp] = poll.last + 1
                polls.append(poll)
        if not polls:
            await self._awake.wait()
        return polls

    async def _bounds(self, tps: set[TP]) -> Mapping[TP, tuple[int, int]]:
        starts, ends = await self.earliest_offsets(*tps), await self.highwaters(*tps)
        return {tp: (starts[tp], ends[tp]) for tp in tps}

    async def _seek_all(self, positions: Mapping[TP, int]) -> None:
        self._positions = dict(positions)

    async def _committed(self, tps: set[TP]) -> Mapping[TP, int]:
        stored = self.messages.committed(self.app.conf.id)
        return {tp: stored[tp] for tp in tps if tp in stored}

    async def _commit(self, offsets: Mapping[TP, int]) -> bool:
        self.messages.commit(self.app.conf.id, {(tp.topic, tp.partition): offset for tp, offset in offsets.items()})
        return True

    # --- Faust's consumer interface -------------------------------------------------------------------------------

    def assignment(self) -> set[TP]:
        """All partitions subscribed to."""
        return set(self._assigned)

    def highwater(self, tp: TP) -> int:
        """The offset the next message will get."""
        return self.messages.end_offsets(tp.topic)[tp.partition]

    def ends(self, tps: Collection[TP]) -> Mapping[TP, int]:
        """The log's ends, as they are now."""
        known = {topic: self.messages.end_offsets(topic) for topic in {tp.topic for tp in tps}}
        return {tp: known[tp.topic][tp.partition] for tp in tps}

    def bounds_of(self, tp: TP) -> tuple[int, int]:
        """The log's bounds, as they are now."""
        return self.messages.start_offsets(tp.topic)[tp.partition], self.messages.end_offsets(tp.topic)[tp.partition]

    def look_back(self, tp: TP, offset: int) -> Poll | None:
        """As the log has it."""
        return self.messages.read(tp.topic, tp.partition, offset)

    async def highwaters(self, *partitions: TP) -> Mapping[TP, int]:
        """:meth:`highwater` of several."""
        return {tp: self.highwater(tp) for tp in partitions}

    async def earliest_offsets(self, *partitions: TP) -> Mapping[TP, int]:
        """The offset of the oldest message kept."""
        return {tp: self.messages.start_offsets(tp.topic)[tp.partition] for tp in partitions}

    async def position(self, tp: TP) -> int | None:
        """The offset the next fetch starts at."""
        return self._positions.get(tp)

    async def seek_wait(self, partitions: Mapping[TP, int]) -> None:
        """Seek several partitions."""
        for tp, offset in partitions.items():
            await self._seek(tp, offset)

    async def _seek(self, partition: TP, offset: int) -> None:
        self._positions[partition] = offset
        self.wake()

    async def create_topic(self, topic: str, partitions: int, replication: int, **options: Any) -> None:
        """Create a topic; replication means nothing here."""
        await self.app.producer.create_topic(topic, partitions, replication, **options)

    def topic_partitions(self, topic: str) -> int | None:
        """Number of partitions, None for an unknown topic."""
        return self.messages.topics().get(topic)

    def key_partition(self, topic: str, key: bytes | None, partition: int | None = None) -> int | None:
        """Where a key goes."""
        total = self.topic_partitions(topic)
        if partition is not None or total is None or key is None:
            return partition
        return partition_of_key(key, total)

    def _new_topicpartition(self, topic: str, partition: int) -> TP:
        return TP(topic, partition)


class Producer(BaseProducer):
    """Appends to the embedded log. What it has acknowledged is in the file."""

    transport: Transport
    messages: EmbeddedLog

    async def on_start(self) -> None:
        """Open the log."""
        await super().on_start()
        self.messages = self.exit_stack.enter_context(EmbeddedLog.open(self.transport.path))

    async def publish(self, outgoing: Sequence[Outgoing]) -> list[tuple[int, int]]:
        """Append all messages in one transaction; ``(partition, offset)`` of each, when it is committed."""
        if (
            len(outgoing) <= _INLINE_MESSAGES
            and sum(len(message.value or b"") for message in outgoing) <= _INLINE_BYTES
        ):
            return self.messages.append(outgoing)
        return await asyncio.to_thread(self.messages.append, outgoing)

    async def send(
        self,
        topic: str,
        key: bytes | None,
        value: bytes | None,
        partition: int | None,
        timestamp: float | None,
        headers: HeadersArg | None,
        *,
        transactional_id: str | None = None,
    ) -> Awaitable[RecordMetadata]:
        """Append one message; ``timestamp`` in seconds. It is durable on return, and so is the future returned."""
        done: asyncio.Future[RecordMetadata] = asyncio.get_running_loop().create_future()
        done.set_result(
            await self.send_and_wait(
                topic, key, value, partition, timestamp, headers, transactional_id=transactional_id
            )
        )
        return done

    async def send_and_wait(
        self,
        topic: str,
        key: bytes | None,
        value: bytes | None,
        partition: int | None,
        timestamp: float | None,
        headers: HeadersArg | None,
        *,
        transactional_id: str | None = None,
    ) -> RecordMetadata:
        """Append one message; ``timestamp`` in seconds."""
        items = headers.items() if isinstance(headers, Mapping) else headers or ()
        # A float of seconds does not hold every millisecond exactly: truncating would lose one in two.
        timestamp_ms = None if timestamp is None else round(timestamp * 1000)
        message = Outgoing(topic, value, key, partition, timestamp_ms, tuple(items))  # type: ignore[arg-type]
        number, offset = self.messages.append([message])[0]
        return RecordMetadata(topic, number, TP(topic, number), offset, timestamp, 0)

    async def flush(self) -> None:
        """Wait for messages sent by ``send_soon``."""
        await self.buffer.flush()

    async def create_topic(
        self,
        topic: str,
        partitions: int,
        replication: int,
        *,
        retention: Seconds | None = None,
        **_: Any,
    ) -> None:
        """Create a topic; ``retention`` in seconds."""
        kept = None if not retention else LogRetention(max_age_ms=round(want_seconds(retention) * 1000))
        self.messages.create_topic(topic, partitions, retention=kept)

    def key_partition(self, topic: str, key: bytes) -> TP:
        """Where a key goes."""
        return TP(topic, partition_of_key(key, len(self.messages.end_offsets(topic))))

    def supports_headers(self) -> bool:
        """Yes."""
        return True


class Transport(base.Transport):
    """Faust transport over the log at the URL's path."""

    Consumer: ClassVar[type[ConsumerT]] = Consumer
    Producer: ClassVar[type[ProducerT]] = Producer
    driver_version = f"sqlite={sqlite3.sqlite_version}"

    def __init__(self, url: list[URL], app: AppT, loop: asyncio.AbstractEventLoop | None = None) -> None:
        super().__init__(url, app, loop=loop)
        if len(url) != 1 or url[0].host or not url[0].path.strip("/"):
            raise TransportError(
                f"broker {';'.join(str(each) for each in url)}: an embedded log is one absolute path after three "
                "slashes, as in embedded:///var/lib/dovetail/log.db"
            )
        self.path = Path(url[0].path)

    def view(self) -> EmbeddedView:
        """The log, to look at."""
        return EmbeddedView(self.path)

    async def declare(self, topics: Mapping[str, int]) -> None:
        """Create the topics that are missing. Raises TransportError when one exists with other partitions."""
        with EmbeddedLog.open(self.path) as log:
            for topic, partitions in topics.items():
                log.create_topic(topic, partitions)
