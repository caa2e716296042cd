"""The consumer that both drivers share: one Faust message per poll, the app's positions, bounded hand-out, exact acks.

Faust's consumer hands every record to its conductor one by one, seeks to the broker's committed offsets, and works out
what to commit from lists of single offsets and gaps. This class replaces those three parts; rebalancing, flow control
and the conductor stay Faust's.

Guarantees, per topic partition:

- polls are handed out in order, each message of the log in exactly one poll;
- no more than ``max_unhandled_polls`` are handed out and not yet released by :meth:`CoalescingConsumer.release` (or
  acknowledged). Others go on: the fetch leaves the full partitions out, so nothing ever waits in Faust's conductor,
  whose single loop would stop all topics;
- reading starts where ``app.positions`` says. Without such a callback (an ordinary Faust app), it starts at the
  broker's committed offset, and failing that at the beginning;
- the committed offset never passes a message that was handed out and not acknowledged.
"""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, cast

from faust.serializers.schemas import Schema
from faust.transport.consumer import Consumer, RecordMap
from faust.types import TP, AppT, ConsumerMessage, EventT, Message
from faust.types.transports import TPorTopicSet
from mode import ServiceT

from dovetail.platform.errors import TransportError
from dovetail.platform.stage import Poll
from dovetail.platform.transports.acks import AckLists, AckTracker

__all__ = ["MAX_UNHANDLED_POLLS", "CoalescingConsumer", "PollSchema", "Positions"]

MAX_UNHANDLED_POLLS = 2
# How much of the time that Faust gives a seek is taken before the worker ends by itself.
_PATIENCE = 0.9

#: The stored position of each partition asked; the ones left out start at their beginning.
Positions = Callable[[set[TP]], Awaitable[Mapping[TP, int]]]


class PollSchema(Schema[Any, Poll]):
    """A topic's schema under these drivers: the value of an event is the :class:`Poll` itself, nothing is decoded."""

    def compile(self, app: AppT, **_: Any) -> Callable[..., Awaitable[EventT[Any]]]:
        """The decode function Faust calls for each message, that is, once per poll."""

        async def decode(message: Message, *, propagate: bool = False) -> EventT[Any]:  # noqa: ARG001 - Faust's call
            return app.create_event(None, message.value, {}, message)

        return decode


class _PollMessage(ConsumerMessage):
    """A poll as Faust passes it on. ``epoch``: the seek that it was fetched after."""

    epoch: int


class _Partition:
    """Hand-out state of one assigned partition."""

    __slots__ = ("acks", "committed", "handling", "next_offset")

    def __init__(self) -> None:
        self.acks = AckTracker()
        # The same bookkeeping a second time: what is handed out but not yet handled, for flow control.
        self.handling = AckTracker()
        self.committed: int | None = None
        self.next_offset = 0


class CoalescingConsumer(Consumer):
    """Base of the two drivers' consumers. All methods belong to the app's event loop, unless said otherwise."""

    _partitions: dict[TP, _Partition]

    def __post_init__(self) -> None:
        super().__post_init__()
        self._partitions = {}
        self._acked = cast("Any", AckLists(self._ack_poll))
        self._awake = asyncio.Event()
        # Held while fetching and while seeking: a fetch that started before a seek must not end after it, because
        # what it returns would be taken for a continuation of the new position.
        self._fetching = asyncio.Lock()
        # Raised by each seek; polls fetched under an older number are dropped, the seek covers them.
        self._epoch = 0
        # The last seek that was begun.
        self._seeking: asyncio.Future[None] | None = None

    # --- what a driver provides ------------------------------------------------------------------------------------

    @abstractmethod
    async def _fetch_polls(self, tps: set[TP]) -> Sequence[Poll]:
        """Polls of these partitions (never empty); waits for some, unless :meth:`wake` ends the waiting."""

    @abstractmethod
    async def _bounds(self, tps: set[TP]) -> Mapping[TP, tuple[int, int]]:
        """The log's first kept and next offset."""

    @abstractmethod
    async def _seek_all(self, positions: Mapping[TP, int]) -> None:
        """Make the next fetch start at these offsets."""

    @abstractmethod
    async def _committed(self, tps: set[TP]) -> Mapping[TP, int]:
        """The group's committed offsets, where there are any."""

    @abstractmethod
    def ends(self, tps: Collection[TP]) -> Mapping[TP, int]:
        """The offset the next message will get, of any partitions, as the broker has it now; unknown ones left out.

        From any thread.
        """

    @abstractmethod
    def bounds_of(self, tp: TP) -> tuple[int, int]:
        """The first kept and the next offset of any partition. From any thread but the event loop's; blocks.

        Raises TransportError when the broker does not answer, or the consumer stops.
        """

    @abstractmethod
    def look_back(self, tp: TP, offset: int) -> Poll | None:
        """Messages from ``offset`` on of any partition, whatever is being fetched of it; None where there are none.

        From any thread but the event loop's; blocks. Raises TransportError as :meth:`bounds_of` does.
        """

    # --- what the runtime calls ------------------------------------------------------------------------------------

    def release(self, tp: TP, offset: int) -> None:
        """Note that all below ``offset`` has been handled: more of this partition may be handed out."""
        partition = self._partitions.get(tp)
        if partition is not None:
            held_back = self.full(tp)
            partition.handling.complete(offset)
            if held_back:  # only then the fetch loop leaves it out
                self.wake()

    def acknowledge(self, tp: TP, offset: int) -> None:
        """Note that all below ``offset`` is done for good: ``offset`` may be committed."""
        partition = self._partitions.get(tp)
        if partition is not None:
            partition.acks.complete(offset)

    def committable(self, tp: TP) -> int | None:
        """The offset the next commit stores; None while nothing has been acknowledged or the partition is not ours."""
        partition = self._partitions.get(tp)
        return None if partition is None else partition.acks.committable

    def handed_out(self, tp: TP) -> int | None:
        """The offset after the last message handed out or skipped by seeking; None when the partition is not ours."""
        partition = self._partitions.get(tp)
        return None if partition is None else partition.next_offset

    def current(self, message: Message) -> bool:
        """Whether nothing has been sought since ``message`` was handed out. Otherwise it is handed out again."""
        return getattr(message, "epoch", None) == self._epoch

    def full(self, tp: TP) -> bool:
        """Whether nothing more is handed out of a partition until something is released."""
        partition = self._partitions.get(tp)
        return partition is not None and partition.handling.outstanding >= self._limit

    @property
    def _limit(self) -> int:
        limit: int = getattr(self.app, "max_unhandled_polls", MAX_UNHANDLED_POLLS)
        return limit

    def wake(self) -> None:
        """Let the fetch loop look again at what it may fetch."""
        self._awake.set()

    # --- instead of Faust's per-message loop -------------------------------------------------------------------------

    async def _drain_messages(self, fetcher: ServiceT) -> None:
        try:
            while not (self.should_stop or fetcher.should_stop):
                self._awake.clear()
                async with self._fetching:
                    epoch = self._epoch
                    tps = self._fetchable()
                    polls = await self._fetch_polls(tps) if tps else ()
                for poll in polls:
                    if epoch == self._epoch:
                        await self._hand_out(poll)
                if not tps:
                    await self._nothing_to_fetch()
        except self.consumer_stopped_errors:
            if not self.app.should_stop:
                raise
        except asyncio.CancelledError:
            if not (fetcher.should_stop or self.app.should_stop):
                raise

    async def _nothing_to_fetch(self) -> None:
        """Wait for :meth:`wake` while every partition is held back; that may take as long as a label window."""
        await self._awake.wait()

    def _fetchable(self) -> set[TP]:
        if not self.flow_active:
            return set()
        return {tp for tp in self._get_active_partitions() if tp in self._partitions and not self.full(tp)}

    async def _hand_out(self, poll: Poll) -> None:
        tp = TP(poll.topic, poll.partition)
        partition = self._partitions[tp]
        partition.acks.deliver(poll.first, poll.last)
        partition.handling.deliver(poll.first, poll.last)
        partition.next_offset = poll.last + 1
        await self.callback(self._to_message(tp, poll))

    def _to_message(self, tp: TP, record: Poll) -> ConsumerMessage:
        message = _PollMessage(
            record.topic,
            record.partition,
            record.last,
            timestamp=float(record.timestamps_ms[-1]) / 1000,
            timestamp_type=0,
            headers=None,
            key=None,
            value=record,  # type: ignore[arg-type]  # Faust types a value as bytes; PollSchema passes it through
            checksum=None,
            tp=tp,
            generation_id=self.app.consumer_generation_id,
        )
        message.epoch = self._epoch
        return message

    async def _getmany(self, active_partitions: set[TP] | None, timeout: float) -> RecordMap:  # noqa: ASYNC109
        # Faust's own getmany goes through here; its fetch loop, replaced above, was the only caller.
        polls = await self._fetch_polls(active_partitions or set())
        return {TP(poll.topic, poll.partition): [poll] for poll in polls}

    # --- instead of Faust's seeking --------------------------------------------------------------------------------

    async def perform_seek(self) -> None:
        """Seek every assigned partition to the position the app has stored.

        A stored position must lie within the log: past its end the topic is not the one the position belongs to, and
        before its start messages have been removed unread. Both raise TransportError rather than lose rows silently.
        In an app that stops, whose consumer no longer answers, there is nothing to seek.

        Faust cancels this when the next rebalance begins, and goes on without it when it takes too long. Half of it
        would leave partitions that nobody reads: it is always done to its end, one after the other, and what takes too
        long ends the worker.
        """
        earlier = self._seeking
        self._seeking = asyncio.ensure_future(self._seek_after(earlier))
        self._seeking.add_done_callback(lambda seeking: seeking.cancelled() or seeking.exception())
        await asyncio.shield(self._seeking)

    async def seek_again(self) -> None:
        """Read on from the positions that are stored now, without a rebalance; one that goes on lets the flow go on."""
        await self.perform_seek()
        if not (self.app.should_stop or self.app.rebalancing):
            self.resume_flow()

    async def _seek_after(self, earlier: asyncio.Future[None] | None) -> None:
        if earlier is not None:
            await earlier
        patience_s = self.app.conf.broker_request_timeout * _PATIENCE
        try:
            async with asyncio.timeout(patience_s):
                await self._seek_to_stored()
        except TimeoutError as error:
            raise TransportError(
                f"partitions were assigned, and after {patience_s:.0f} s their positions were not found yet; do stores "
                "and broker answer? Nothing is lost: start the worker again"
            ) from error
        except self.consumer_stopped_errors:
            if not self.app.should_stop:
                raise

    async def _seek_to_stored(self) -> None:
        assigned = set(self.assignment())
        ask: Positions | None = getattr(self.app, "positions", None)
        # Faust clears its queues when it lets the flow go on. Two rebalances in a row may find it flowing here, and
        # what is handed out after the seek and before that would be lost.
        self.stop_flow()
        # What is in hand from before must not reach a stage whose position is being looked up.
        self._epoch += 1
        positions = dict(await (ask(assigned) if ask is not None else self._committed(assigned)))
        self.wake()
        async with self._fetching:
            bounds = await self._bounds(assigned) if assigned else {}
            for tp in assigned:
                positions[tp] = self._checked(tp, positions.get(tp, 0), *bounds[tp])
            self._partitions = {tp: self._partitions.get(tp) or _Partition() for tp in assigned}
            for tp, position in positions.items():
                self._partitions[tp].acks.rewind(position)
                self._partitions[tp].handling.rewind(position)
                self._partitions[tp].next_offset = position
            await self._seek_all(positions)

    def _checked(self, tp: TP, position: int, start: int, end: int) -> int:
        if position > end:
            raise TransportError(
                f"{tp.topic}, partition {tp.partition}: the stored position is {position}, the topic ends at {end}; "
                "it has been recreated or truncated: bring the old topic back, or reset the stores that read it"
            )
        if 0 < position < start:
            if not getattr(self.app, "allow_gaps", False):
                raise TransportError(
                    f"{tp.topic}, partition {tp.partition}: offsets {position} to {start - 1} were removed by "
                    "retention before they were read; lengthen the retention, or set allow_gaps to go on without them"
                )
            self.log.warning("%s: going on at %s, offsets from %s were removed unread", tp, start, position)
        return max(position, start)

    async def seek_to_committed(self) -> Mapping[TP, int]:
        """Faust's name for :meth:`perform_seek`; here the stored positions decide."""
        await self.perform_seek()
        return {tp: position for tp in self._partitions if (position := self.committable(tp)) is not None}

    async def on_partitions_revoked(self, revoked: set[TP]) -> None:
        """A rebalance begins: works end first. The committed offsets go with what is revoked."""
        attached = getattr(self.app, "attached", None)
        if attached is not None:
            await attached.on_revoked()
            if revoked and not self.app.should_stop:
                await self.commit()
        await super().on_partitions_revoked(revoked)

    async def on_partitions_assigned(self, assigned: set[TP], generation_id: int = 0) -> None:
        """The rebalance is over. A member that got nothing has nothing to seek, so it is told here.

        In an app that stops, Faust asks for no positions; who waits for the rebalance's end to commit is told here.
        """
        await super().on_partitions_assigned(assigned, generation_id)
        attached = getattr(self.app, "attached", None)
        if self.app.should_stop and attached is not None:
            await attached.on_reassigned(assigned)
            return
        if not assigned and getattr(self.app, "positions", None) is not None:
            await self.perform_seek()

    # --- instead of Faust's ack lists -----------------------------------------------------------------------------

    def ack(self, message: Message) -> bool:
        """Acknowledge one message, that is one poll: what an ordinary Faust agent does at the end of its loop body."""
        if message.acked:
            return False
        message.acked = True
        self._ack_poll(message.tp, message.offset)
        return True

    def _ack_poll(self, tp: TP, last: int) -> None:
        partition = self._partitions.get(tp)
        if partition is not None:
            partition.acks.ack(last)
            partition.handling.ack(last)
            self._acked_index[tp].discard(last)
            self.wake()

    async def commit(self, topics: TPorTopicSet | None = None, start_new_transaction: bool = True) -> bool:
        """Commit what is committable and has moved; True when something was committed."""
        if self.app.client_only:
            return False
        moved = {
            tp: offset
            for tp, partition in self._partitions.items()
            if (topics is None or tp in topics or tp.topic in topics)
            and (offset := partition.acks.committable) is not None
            and offset != partition.committed
        }
        if not moved or not await self._commit(moved):
            return False
        for tp, offset in moved.items():
            if tp in self._partitions:
                self._partitions[tp].committed = offset
        return True

    # --- Faust's switches, which the fetch loop has to notice -------------------------------------------------------

    def stop_flow(self) -> None:
        """Stop handing out."""
        super().stop_flow()
        self.wake()

    def resume_flow(self) -> None:
        """Hand out again."""
        super().resume_flow()
        self.wake()

    def resume_partitions(self, tps: Iterable[TP]) -> None:
        """Fetch these partitions again."""
        super().resume_partitions(tps)
        self.wake()

    def verify_event_path(self, now: float, tp: TP) -> None:
        """Faust's livelock warnings: off, a partition may rightly wait for as long as a label window."""
