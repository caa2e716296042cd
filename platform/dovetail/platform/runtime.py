"""Runs stages in a Faust app: one agent per stage, four steps per work, and no way past a failure.

For each poll a stage is given, and for each work it yields, in this order (see :mod:`dovetail.platform.stage`):

====================  =================================================================================
step                  afterwards
====================  =================================================================================
``computed``          nothing outside the stage has changed
``published``         the broker has acknowledged every outgoing message
``committed``         state, positions and accounts are in the store, in one transaction
``acknowledged``      the offset may be committed to the broker, once all stages of the topic are there
====================  =================================================================================

Guarantees:

- Polls of a partition reach a stage in order, each message once per life of the runtime; the part of a poll the
  stage's stored position includes is cut off, and a poll that is cut off entirely is acknowledged at once.
- A stage works on one poll at a time. While its ``handle`` generator is open, up to ``max_unhandled_polls`` further
  polls of that partition wait; other partitions and stages go on. A poll whose generator has ended but which no work
  has completed holds nothing back: what a stage keeps for later is the stage's to bound, and it stays unacknowledged.
- Any exception (of a stage, of publishing, of a commit, of the broker) ends the worker: no further step is taken by
  any stage, nothing more is acknowledged, and the process exits with a code other than 0.
"""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from faust.types import TP, StreamT

from dovetail.platform.errors import ConfigError, TransportError
from dovetail.platform.fitting import fitting
from dovetail.platform.stage import Outgoing, Poll, Stage, Work
from dovetail.platform.transports.app import App, Resume, create_app
from dovetail.platform.transports.coalescing import PollSchema

__all__ = ["App", "Progress", "Resume", "Runtime", "create_app"]

#: Progress by (stage, topic, partition): the offset after the last message.
Progress = dict[tuple[str, str, int], int]


class Runtime:
    """Stages attached to an app.

    Made before the app starts. In a worker process that is all: ``app.main()`` or ``faust -A module worker`` runs
    them. In a process of one's own, :meth:`start` and :meth:`stop`.

    ``on_step(stage, step)`` is called after each step, in the event loop; what it raises fails the stage there.

    Raises ConfigError for two stages of one name, a stage without topics, or a topic the app does not declare.
    """

    def __init__(self, app: App, stages: Sequence[Stage], *, on_step: Callable[[str, str], None] | None = None) -> None:
        self.app = app
        self.stages = tuple(stages)
        #: By (stage, topic, partition): the offset after the last poll whose ``handle`` has ended. Not durable.
        self.handled: Progress = {}
        #: By (stage, topic, partition): the offset below which everything is completed, durably.
        self.completed: Progress = {}
        #: What ended the worker, None as long as nothing has.
        self.failure: BaseException | None = None
        self._on_step = on_step
        self._readers: dict[str, list[Stage]] = {}
        self._stored: Progress = {}
        # The offset after the last poll a stage was given; while its partition stays here, that is where it goes on.
        self._given: Progress = {}
        self._started: list[Stage] = []
        self._waiters: list[tuple[Callable[[], bool], asyncio.Future[None]]] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = 0
        self._check()
        for stage in self.stages:
            for topic in stage.topics:
                self._readers.setdefault(topic, []).append(stage)
            self._attach(stage)
        app.positions = self._positions
        app.attached = self

    # --- in one's own process -----------------------------------------------------------------------------------

    async def start(self) -> None:
        """Start the app; returns when polls are flowing. Raises what kept it from starting, after stopping it."""
        try:
            await self.app.start()
            self._raise_failure()
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Stop the app and the stages. Does not raise :attr:`failure`; it was raised by whoever waited."""
        await self.app.stop()

    async def publish(self, outgoing: Sequence[Outgoing]) -> None:
        """Publish messages from outside the stages; returns when the broker has them, in one transaction if embedded.

        A message that is too large for the broker is split by rows. Raises WireError when that cannot be,
        TransportError when the broker has not taken them, and :attr:`failure` when the runtime has failed.
        """
        self._raise_failure()
        messages = fitting(outgoing, self.app.max_message_bytes)
        await self.app.producer.publish(messages)  # type: ignore[attr-defined]  # both drivers have it

    async def wait_for(self, predicate: Callable[[], bool]) -> None:
        """Wait until ``predicate()``, which is tried now, after every progress and after :meth:`notify`.

        It runs in the event loop and must be quick. Raises :attr:`failure` when the runtime has failed, and whatever
        the predicate raises.
        """
        self._raise_failure()
        if predicate():
            return
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        entry = (predicate, waiter)
        self._waiters.append(entry)
        try:
            await waiter
        finally:
            self._waiters.remove(entry)

    def end_offset(self, topic: str, partition: int) -> int | None:
        """The offset the next message will get, as far as is known here; None when nothing is. From any thread."""
        end: int | None = self.app.consumer.highwater(TP(topic, partition))
        return end

    def notify(self) -> None:
        """Have predicates tried again: something they look at, outside the runtime, has changed. From any thread."""
        if threading.get_ident() == self._thread:
            self._changed()
        elif self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._changed)

    # --- what the app calls --------------------------------------------------------------------------------------

    async def before_start(self) -> None:
        """Start the stages, in their order."""
        self._loop, self._thread = asyncio.get_running_loop(), threading.get_ident()
        for stage in self.stages:
            self._started.append(stage)
            await stage.start()

    async def after_stop(self) -> None:
        """Let the stages commit what they owe, unless something has failed; then stop them, in reverse order.

        Each is stopped also when another one's stop raises.
        """
        errors: list[Exception] = []
        try:
            if self.failure is None:
                await self._drain()
        except Exception as error:  # noqa: BLE001 - raised below, after the stages have stopped
            errors.append(error)
        while self._started:
            try:
                await self._started.pop().stop()
            except Exception as error:  # noqa: BLE001 - raised below, after the others have stopped
                errors.append(error)
        if errors:
            raise errors[0]

    async def _drain(self) -> None:
        for stage in self._started:
            async for work in stage.drain():
                if work.commit is not None:
                    await asyncio.to_thread(work.commit)

    def on_crash(self, reason: BaseException) -> None:
        """Remember why the app came down. From any thread."""
        if self.failure is None:
            self.failure = reason
        self.notify()

    async def _positions(self, tps: set[TP]) -> Mapping[TP, int]:
        """For each assigned partition, the least of what its stages need."""
        stored = await asyncio.to_thread(self._read_stored, {tp.topic for tp in tps})
        kept = {(stage.name, *tp) for tp in tps for stage in self._readers[tp.topic]}
        for progress in (self._given, self._stored, self.handled, self.completed):
            for key in progress.keys() - kept:
                del progress[key]
        positions: dict[TP, int] = {}
        for tp in tps:
            for stage in self._readers[tp.topic]:
                key = (stage.name, *tp)
                position = stored[stage.name, tp.topic].get(tp.partition, 0)
                self._stored[key] = position
                self.handled.setdefault(key, position)
                self.completed.setdefault(key, position)
                # A partition kept through a rebalance goes on where its stage is, which may be ahead of the store.
                position = self._given.get(key, position)
                positions[tp] = min(positions.get(tp, position), position)
        self._changed()
        return positions

    def _read_stored(self, topics: set[str]) -> dict[tuple[str, str], Mapping[int, int]]:
        return {(stage.name, topic): stage.resume(topic) for topic in topics for stage in self._readers[topic]}

    # --- agents -----------------------------------------------------------------------------------------------------

    def _check(self) -> None:
        names = Counter(stage.name for stage in self.stages)
        twice = sorted(name for name, times in names.items() if times > 1)
        if twice:
            raise ConfigError(
                f"two stages are called {', '.join(twice)}; positions and accounts go by name: rename one"
            )
        for stage in self.stages:
            undeclared = sorted(set(stage.topics) - set(self.app.declared))
            if undeclared or not stage.topics:
                raise ConfigError(
                    f"stage {stage.name} reads {', '.join(undeclared) or 'no topic'}; "
                    "declare the topics it reads, with their partitions, in create_app(topics=...)"
                )

    def _attach(self, stage: Stage) -> None:
        topic = self.app.topic(*stage.topics, schema=PollSchema(), acks=False)

        async def agent(stream: StreamT[Poll]) -> None:
            # Acks are ours: Faust acks at the end of the loop body, also when it was left by an exception.
            stream.enable_acks = False
            async for poll in stream:
                if self.failure is not None:
                    return
                try:
                    await self._take(stage, poll)
                except Exception as error:  # noqa: BLE001 - whatever it is, it ends the worker
                    await self._fail(error)
                    return

        self.app.agent(topic, name=stage.name)(agent)

    async def _take(self, stage: Stage, poll: Poll) -> None:
        key = (stage.name, poll.topic, poll.partition)
        after = poll.last + 1
        stored = self._stored.get(key, 0)
        if after <= stored:
            self._complete(stage, poll, after)
        todo = poll.since(max(stored, self._given.get(key, 0)))
        if len(todo):
            self._given[key] = after
            await self._handle(stage, todo)
        if key in self._stored:  # else the partition has gone to another worker meanwhile
            self.handled[key] = max(after, self.handled[key])
            tp = TP(poll.topic, poll.partition)
            self._consumer().release(tp, self._least(self.handled, tp))
            self._changed()

    async def _handle(self, stage: Stage, poll: Poll) -> None:
        works = stage.handle(poll)
        try:
            async for work in works:
                await self._carry_through(stage, poll, work)
        finally:
            close = getattr(works, "aclose", None)
            if close is not None:
                await close()

    async def _carry_through(self, stage: Stage, poll: Poll, work: Work) -> None:
        self._step(stage, "computed")
        if work.outgoing:
            await self.publish(work.outgoing)
        self._step(stage, "published")
        if work.commit is not None:
            await asyncio.to_thread(work.commit)
        self._step(stage, "committed")
        if work.done is not None:
            self._complete(stage, poll, work.done)
        self._step(stage, "acknowledged")

    def _step(self, stage: Stage, step: str) -> None:
        self._raise_failure()
        if self._on_step is not None:
            self._on_step(stage.name, step)

    def _complete(self, stage: Stage, poll: Poll, done: int) -> None:
        key = (stage.name, poll.topic, poll.partition)
        if done > poll.last + 1:
            raise TransportError(
                f"stage {stage.name} says it is done up to offset {done} of {poll.topic}, partition {poll.partition}, "
                f"but was given offsets up to {poll.last} only: done is the offset after the last message completed"
            )
        if key in self._stored and done > self.completed[key]:
            self.completed[key] = done
            tp = TP(poll.topic, poll.partition)
            self._consumer().acknowledge(tp, self._least(self.completed, tp))
            self._changed()

    def _least(self, progress: Progress, tp: TP) -> int:
        return min(progress.get((stage.name, *tp), 0) for stage in self._readers[tp.topic])

    def _consumer(self) -> Any:
        return self.app.consumer

    # --- failing and waiting ----------------------------------------------------------------------------------------

    async def _fail(self, error: Exception) -> None:
        if self.failure is None:
            self.failure = error
        await self.app.crash(error)

    def _raise_failure(self) -> None:
        if self.failure is not None:
            raise self.failure

    def _changed(self) -> None:
        for predicate, waiter in self._waiters:
            if waiter.done():
                continue
            if self.failure is not None:
                waiter.set_exception(self.failure)
                continue
            try:
                if predicate():
                    waiter.set_result(None)
            except Exception as error:  # noqa: BLE001 - belongs to the one who waits
                waiter.set_exception(error)
