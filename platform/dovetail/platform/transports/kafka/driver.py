"""Faust transport driver for Kafka that hands out one poll per partition as one message.

A subclass of Faust's aiokafka driver: connections, groups and rebalancing are its own. Fetching, positions and
commits are those of :class:`~dovetail.platform.transports.coalescing.CoalescingConsumer`; the committed offset is a
hint for tools that show lag.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Coroutine, Mapping, Sequence
from typing import Any, ClassVar, TypeVar, cast

import aiokafka
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import ConsumerStoppedError, KafkaError, OffsetOutOfRangeError
from aiokafka.protocol.group import LeaveGroupRequest
from faust.transport.drivers import aiokafka as stock
from faust.types import TP
from faust.types.transports import ConsumerT, ProducerT

from dovetail.platform.errors import TransportError
from dovetail.platform.stage import Poll
from dovetail.platform.transports.coalescing import CoalescingConsumer
from dovetail.platform.transports.kafka.assignment import Assignor
from dovetail.platform.transports.kafka.fetched import coalesced
from dovetail.platform.transports.kafka.fetching import Fetching, assignment_of, set_wait, touch
from dovetail.platform.transports.kafka.looking_back import LookingBack, answer_of
from dovetail.platform.transports.kafka.producer import Producer
from dovetail.platform.transports.kafka.security import client_settings
from dovetail.platform.transports.kafka.topics import TopicPlan, declare
from dovetail.platform.transports.kafka.view import KafkaView
from dovetail.platform.transports.kafka.visible import VisibleEnds

__all__ = ["Consumer", "Transport"]

_T = TypeVar("_T")
# How long a stop waits for the others of the group to join, when it meets a rebalance.
_JOIN_PATIENCE_S = 1.0
# How long it waits then for the broker to take leave; one that is away lets the session time out instead.
_LEAVE_PATIENCE_S = 5.0


class ConsumerThread(stock.AIOKafkaConsumerThread):
    """aiokafka in its own thread, so that heartbeats go on while a stage computes."""

    def __post_init__(self) -> None:
        super().__post_init__()
        # Set when calls are no longer answered; waited for in the parent's loop only.
        self._deaf = asyncio.Event()
        # These belong to the thread's own loop.
        self._visible: VisibleEnds[TP] = VisibleEnds()
        self._back = LookingBack(self._consumer_aside)
        conf = self.app.conf
        self._fetching = Fetching(conf.consumer_max_fetch_size, conf.broker_max_poll_records, self._visible)

    async def on_start(self) -> None:
        """Start aiokafka."""
        await super().on_start()
        self._fetching.start(self._ensure_consumer())

    async def on_thread_stop(self) -> None:
        """Stop answering, then stop aiokafka.

        That lets a rebalance end before it leaves the group, and the rebalance asks the main thread: where that would
        ask here again, nobody would ever be answered, and neither would end. A rebalance that waits for others is left.
        A broker that answers nothing is left, too: connections are closed, and what waits for an answer is told so.
        """
        await self.method_queue.stop()
        self.parent_loop.call_soon_threadsafe(self._deaf.set)
        await self._back.stop()
        closing = asyncio.ensure_future(super().on_thread_stop())
        await asyncio.wait({closing}, timeout=_JOIN_PATIENCE_S)
        if not closing.done():
            leaving = asyncio.ensure_future(self._leave())
            await asyncio.wait({closing, leaving}, timeout=_LEAVE_PATIENCE_S)
            if not (closing.done() and leaving.done()):
                self.log.warning("the broker does not answer: the group's others wait for the session time-out")
                await self._disconnect()
            await asyncio.wait({closing, leaving})
            leaving.result()
        if closing.cancelled():  # by itself: aiokafka lets out that it has cancelled a fetch that was to be tried again
            await self._disconnect()
        else:
            closing.result()

    async def _disconnect(self) -> None:
        """Close all connections; whoever waits for an answer is told so."""
        await self._ensure_consumer()._client.close()  # noqa: SLF001 - there is no public way

    async def _leave(self) -> None:
        """Leave the group while it is being joined: the broker answers the join too, then, and aiokafka can close.

        A join is answered when the slowest member has come, which may take longer than we have. By another connection
        than aiokafka's own: on one connection, a broker answers one after the other.
        """
        coordinator = self._ensure_consumer()._coordinator  # noqa: SLF001 - there is no public way
        if getattr(coordinator, "coordinator_id", None) is None:
            return  # no group, or nobody who knows it
        request = LeaveGroupRequest(coordinator.group_id, coordinator.member_id)
        try:
            await self._ensure_consumer()._client.send(coordinator.coordinator_id, request)  # noqa: SLF001
        except KafkaError as error:
            self.log.warning("the group was not left, its others wait for the session time-out: %r", error)

    def close(self) -> None:
        """Nothing: :meth:`on_thread_stop` closes aiokafka.

        Faust calls this when a rebalance meets a stop, and would close connections from another thread's event loop,
        before the group is left by them.
        """

    def _create_worker_consumer(self, transport: stock.Transport) -> aiokafka.AIOKafkaConsumer:
        consumer = _set_up(super()._create_worker_consumer(transport))
        consumer._partition_assignment_strategy = (self._assignor_of_ours(),)  # noqa: SLF001
        return consumer

    def _assignor_of_ours(self) -> Assignor:
        # An ordinary Faust app with this driver has neither.
        return Assignor(getattr(self.app, "shared", ()), getattr(self.app, "whole", ()))

    async def call_thread(self, fun: Callable[..., Awaitable[Any]], *args: Any, **kwargs: Any) -> Any:
        """Run ``fun`` in the thread; raises ConsumerStoppedError when the thread stops before it has answered.

        Faust would wait for good: after a crash the thread ends by itself, and the final commit, and with it the
        worker, would never return.
        """
        if self.thread_loop.is_closed():
            raise ConsumerStoppedError
        answer = asyncio.ensure_future(super().call_thread(fun, *args, **kwargs))
        ended, deaf = asyncio.ensure_future(self._shutdown.wait()), asyncio.ensure_future(self._deaf.wait())
        try:
            await asyncio.wait({answer, ended, deaf}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            ended.cancel()
            deaf.cancel()
            if not answer.done():
                answer.cancel()
        if answer.cancelled() or not answer.done():
            raise ConsumerStoppedError
        return answer.result()

    def _stopped_set(self) -> None:
        if not self.thread_loop.is_closed():
            super()._stopped_set()

    def wake(self) -> None:
        """End a :meth:`poll` that is waiting, or the next one. From any thread."""
        if not self.thread_loop.is_closed():
            self.thread_loop.call_soon_threadsafe(self._fetching.wake)

    async def poll(self, tps: set[TP]) -> list[Poll]:
        """One poll of each of ``tps`` that has messages; none when woken or after a second.

        Meanwhile records of the partitions that are not in ``tps`` are set aside.
        """
        polls: list[Poll] = await self.call_thread(self._poll, tps)
        return polls

    async def _poll(self, tps: set[TP]) -> list[Poll]:
        found = await self._fetching.poll(self._ensure_consumer(), stock.ensure_aiokafka_TPset(tps))
        return list(found.values())

    async def touch(self) -> None:
        """Count as having polled: who polls nothing for ``broker_max_poll_interval`` is taken out of the group."""
        await self.call_thread(self._touch)

    async def _touch(self) -> None:
        touch(self._ensure_consumer())

    async def bounds(self, tps: set[TP]) -> dict[TP, tuple[int, int]]:
        """First kept and next offset."""
        return dict(await self.call_thread(self._bounds, tps))

    async def _bounds(self, tps: set[TP]) -> dict[TP, tuple[int, int]]:
        consumer, partitions = self._ensure_consumer(), stock.ensure_aiokafka_TPset(tps)
        starts = await consumer.beginning_offsets(partitions)
        ends = await consumer.end_offsets(partitions)
        return {tp: (starts[tp], ends[tp]) for tp in tps}

    def ends(self, tps: Collection[TP]) -> dict[TP, int]:
        """Next offsets (see ``visible``). From any thread but this one; blocks. Unknown ones are left out."""
        if self._consumer is None or not tps or self.thread_loop.is_closed():
            return {}
        asked = asyncio.run_coroutine_threadsafe(self._ends(tps), self.thread_loop)
        return answer_of(asked, self._shutdown.is_set) or {}

    async def _ends(self, tps: Collection[TP]) -> dict[TP, int]:
        try:
            found = await self._ensure_consumer().end_offsets(stock.ensure_aiokafka_TPset(set(tps)))
        except KafkaError as error:
            self.log.warning("the broker does not say where topics end: %r", error)
            return {}
        assignment = assignment_of(self._ensure_consumer())
        at = assignment.all_consumed_offsets() if assignment is not None else {}
        positions = {TP(*tp): position.offset for tp, position in at.items()}
        return self._visible.ends({TP(*tp): end for tp, end in found.items()}, positions)

    def _consumer_aside(self) -> aiokafka.AIOKafkaConsumer:
        return _set_up(self._create_client_consumer(cast("stock.Transport", self.transport)))

    def look_back(self, ask: Callable[[LookingBack], Coroutine[Any, Any, _T]]) -> _T:
        """The answer to a question about what is in a topic already. From any thread but this one; blocks."""
        if not self.thread_loop.is_closed():
            answer = answer_of(
                asyncio.run_coroutine_threadsafe(ask(self._back), self.thread_loop), self._shutdown.is_set
            )
            if answer is not None:
                return answer
        raise TransportError("the consumer stopped while a topic was read again")

    async def committed(self, tps: set[TP]) -> dict[TP, int]:
        """The group's committed offsets, where there are any."""
        return dict(await self.call_thread(self._committed, tps))

    async def _committed(self, tps: set[TP]) -> dict[TP, int]:
        consumer = self._ensure_consumer()
        found = {tp: await consumer.committed(stock.ensure_aiokafka_TP(tp)) for tp in tps}
        return {tp: offset for tp, offset in found.items() if offset is not None}

    async def seek_all(self, positions: Mapping[TP, int]) -> None:
        """Make the next fetch start at these offsets; what was prefetched elsewhere is dropped."""
        await self.call_thread(self._seek_all, positions)

    async def _seek_all(self, positions: Mapping[TP, int]) -> None:
        self._fetching.seek(
            self._ensure_consumer(), {stock.ensure_aiokafka_TP(tp): offset for tp, offset in positions.items()}
        )


class Consumer(CoalescingConsumer, stock.Consumer):
    """Reads Kafka by polls."""

    _thread: ConsumerThread

    def _new_consumer_thread(self) -> ConsumerThread:
        return ConsumerThread(self, loop=self.loop, beacon=self.beacon)

    def wake(self) -> None:
        """Let the fetch loop look again, also when it is waiting in the consumer thread."""
        super().wake()
        self._thread.wake()

    async def _nothing_to_fetch(self) -> None:
        # A partition that waits for its labels is no sign of death, however long it takes.
        awake = asyncio.ensure_future(self._awake.wait())
        try:
            while not awake.done():
                if self.flow_active:
                    async with self._fetching:
                        await self._thread.poll(set())
                else:
                    await self._thread.touch()
                    await asyncio.wait({awake}, timeout=self.app.conf.broker_max_poll_interval / 3)
        finally:
            awake.cancel()

    async def _fetch_polls(self, tps: set[TP]) -> Sequence[Poll]:
        try:
            return await self._thread.poll(tps)
        except OffsetOutOfRangeError as error:
            raise TransportError(
                f"reading {error} is past: the broker removed messages before they were read, or the topic was "
                "recreated; lengthen the retention and restart, which will say which"
            ) from error

    def ends(self, tps: Collection[TP]) -> Mapping[TP, int]:
        """Next offsets, asked from the broker, without what of a transaction is read and never handed out."""
        return self._thread.ends(tps)

    def bounds_of(self, tp: TP) -> tuple[int, int]:
        """The broker's bounds, asked by a consumer of no group."""
        return self._thread.look_back(lambda back: back.bounds(stock.ensure_aiokafka_TP(tp)))

    def look_back(self, tp: TP, offset: int) -> Poll | None:
        """Messages fetched by a consumer of no group."""
        records = self._thread.look_back(lambda back: back.read(stock.ensure_aiokafka_TP(tp), offset))
        return coalesced(tp.topic, tp.partition, records) if records else None

    async def _bounds(self, tps: set[TP]) -> Mapping[TP, tuple[int, int]]:
        return await self._thread.bounds(tps)

    async def _seek_all(self, positions: Mapping[TP, int]) -> None:
        await self._thread.seek_all(positions)

    async def _commit(self, offsets: Mapping[TP, int]) -> bool:
        try:
            return await super()._commit(offsets)
        except ConsumerStoppedError:
            return False  # the thread is gone after a crash; the committed offset is a hint, the stores know better

    async def _committed(self, tps: set[TP]) -> Mapping[TP, int]:
        return await self._thread.committed(tps)


class Transport(stock.Transport):
    """Faust transport to a Kafka cluster."""

    Consumer: ClassVar[type[ConsumerT]] = Consumer
    Producer: ClassVar[type[ProducerT]] = Producer

    async def declare(self, topics: Mapping[str, int]) -> None:
        """Create the topics that are missing, if the app may (``topic_allow_declare``).

        Raises TransportError when one is missing and may not be created, or exists and does not fit (see ``topics``).
        """
        conf = self.app.conf
        servers = stock.server_list(self.url, self.default_port)
        plan = TopicPlan(
            topics,
            getattr(self.app, "retention", {}),
            conf.producer_max_request_size,
            conf.topic_replication_factor,
            conf.topic_allow_declare,
        )
        admin = self._admin()
        try:
            await admin.start()
            await declare(admin, servers, plan)
        except KafkaError as error:
            raise TransportError(
                f"cannot declare topics at {servers}: {error!r}; is the broker running, and are storage.broker and the "
                "login in [broker] right?"
            ) from error
        finally:
            await admin.close()

    def view(self) -> KafkaView:
        """The cluster's topics, to look at."""
        return KafkaView(client_settings(self), self.app.conf.consumer_max_fetch_size)

    def _admin(self) -> AIOKafkaAdminClient:
        return AIOKafkaAdminClient(**client_settings(self))


def _set_up(consumer: aiokafka.AIOKafkaConsumer) -> aiokafka.AIOKafkaConsumer:
    # The stock driver has no settings for these.
    set_wait(consumer)
    # Rows of a transaction that was aborted never were; those of one still open hold back what lies behind them.
    consumer._isolation_level = "read_committed"  # noqa: SLF001
    return consumer
