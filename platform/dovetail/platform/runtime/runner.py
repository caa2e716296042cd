"""Runs stages in a Faust app: one agent per stage, four steps per work (``steps.py``), and no way past a failure.

Guarantees:

- Polls of a partition reach a stage in order, each message once per life of the runtime; the part of a poll the
  stage's stored position includes is cut off, and a poll that is cut off entirely is acknowledged at once. A stage that
  lets its messages be gathered (``Stage.gather``) is given several polls as one (``waiting/gathering.py``).
- A stage does one thing at a time, in all or in each partition (``Stage.by_partition``): it handles a poll, or
  settles (:meth:`Stage.settle`), which it is asked to every ``tick_s`` seconds for each partition it has here,
  between two polls and by the same four steps. While its ``handle`` generator is open, up to ``max_unhandled_polls``
  further polls of that partition wait, which a stage may look at (``waiting/ahead.py``); others go on. A poll whose
  generator has ended but which no work has completed holds nothing back and stays unacknowledged.
- A rebalance waits for works that are being published or committed, and begins no further one before the new positions
  are known. What has gone to another worker is given up without an effect; what stays goes on.
- A stop in good order has what is gathered handled first. Then it lets each stage go on to the next point it can resume
  from (a work with ``done``, or the end of its poll), and commits what is owed (:meth:`Stage.settle`).
- Any exception (of a stage, of publishing, of a commit, of the broker) ends the worker: no further step is taken by
  any stage, nothing more is acknowledged, and the process exits with a code other than 0. But for what a message from
  outside raises while it is computed: that is this message's fate alone (``refusing.py``).
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import ExitStack, suppress
from typing import cast

from faust.types import TP, EventT, Message, StreamT

from dovetail.platform.errors import EngineFailed
from dovetail.platform.rows.fitting import fitting
from dovetail.platform.runtime.computing import URGENT, Computing
from dovetail.platform.runtime.journal import Journal
from dovetail.platform.runtime.offsets import Offsets, Progress
from dovetail.platform.runtime.refusing import tried
from dovetail.platform.runtime.resuming import Resuming
from dovetail.platform.runtime.started import StartedStages
from dovetail.platform.runtime.steps import Steps
from dovetail.platform.runtime.tenure import Gone, Tenure
from dovetail.platform.runtime.trial import Trial
from dovetail.platform.runtime.turns import Turns
from dovetail.platform.runtime.waiters import Waiters
from dovetail.platform.runtime.waiting.ahead import Ahead
from dovetail.platform.runtime.waiting.gathering import Gathering, taken
from dovetail.platform.stage import Observer, Outgoing, Poll, Stage, Work, check_stages
from dovetail.platform.transports.coalescing import CoalescingConsumer, PollSchema
from dovetail.platform.transports.faust_app import App, Resume, create_app

__all__ = ["App", "Observer", "Progress", "Resume", "Runtime", "create_app"]


class Runtime:
    """Stages attached to an app.

    Made before the app starts. A worker process runs them (``app.main()``, ``faust -A module worker``), or one's own,
    by :meth:`start` and :meth:`stop`.

    ``tick_s``: how often stages are asked to settle; 0: never, but by :meth:`tick`.
    ``grace_s``: how long a stop waits for what is being handled; then it is cancelled, and read again after the stop.
    Before that it waits half as long for what is gathered.
    ``trial``: where polls from outside are written down before they are computed; what ended a process is refused.
    ``local``: no stage waits for a server, so that short work may be done in the event loop (``computing.py``).
    ``on_step(stage, step)`` is called after each step, in the event loop; what it raises fails the stage there.

    Raises ConfigError for two stages of one name, one without topics, or a topic the app does not declare.
    """

    def __init__(
        self,
        app: App,
        stages: Sequence[Stage],
        *,
        on_step: Callable[[str, str], None] | None = None,
        observer: Observer | None = None,
        grace_s: float = 10.0,
        tick_s: float = 1.0,
        trial: Trial | None = None,
        local: bool = False,
    ) -> None:
        self.app = app
        self.stages = tuple(stages)
        #: What ended the worker, None as long as nothing has.
        self.failure: BaseException | None = None
        #: What is assigned, and whether a rebalance is going on.
        self.tenure: Tenure[TP] = Tenure()
        self._on_step = on_step
        self._observer = observer
        self._grace_s = grace_s
        self._tick_s = tick_s
        self._trial = trial
        self._ticking: list[asyncio.Task[None]] = []
        self._turns: Turns[TP] = Turns()
        self._ahead = Ahead(self._turns, trial, local=local)
        self._stopping = False
        self._readers: dict[str, list[Stage]] = {}
        self._offsets: Offsets[TP] = Offsets(self.stages)
        self._started = StartedStages(self.stages, Computing(local=local))
        self._waiters = Waiters()
        self._journal = Journal()
        self._resuming = Resuming(self._readers, self.tenure, self._offsets, self._turns, self._journal)
        effects = (self.publish, self._complete, self._resuming.replaced)
        self._steps = Steps(self.tenure, *effects, on_step=self._step, observer=observer)
        self._gathering = {stage.name: Gathering[TP, Message](stage.gather) for stage in self.stages}
        check_stages(self.stages, app.declared)
        for stage in self.stages:
            for topic in stage.topics:
                self._readers.setdefault(topic, []).append(stage)
            self._attach(stage)
        app.positions = self._positions
        app.attached = self

    async def start(self) -> None:
        """Start the app; returns when polls are flowing. Raises what kept it from starting, after a stop."""
        try:
            await self.app.start()
            self._raise_failure()
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Stop the app and the stages. Does not raise :attr:`failure`; it was raised by whoever waited."""
        await self.app.stop()

    async def publish(self, outgoing: Sequence[Outgoing]) -> list[tuple[int, int]]:
        """Publish messages from outside the stages, in one transaction if embedded.

        Returns (partition, offset) of each when the broker has it; too large ones are split by rows. Raises WireError
        when that cannot be, TransportError when the broker has not taken them, and :attr:`failure`.
        """
        self._raise_failure()
        messages = fitting(outgoing, self.app.max_message_bytes)
        places: list[tuple[int, int]] = await self.app.producer.publish(messages)  # type: ignore[attr-defined]
        self._journal.published(outgoing)
        return places

    async def wait_for(self, predicate: Callable[[], bool], *, hasten: Iterable[str] | None = None) -> None:
        """Wait until ``predicate()``, which is tried now, after every progress and after :meth:`notify`.

        It runs in the event loop and must be quick. Meanwhile the stages called ``hasten``, all if it is left out,
        gather nothing. Raises :attr:`failure` when the runtime has failed.
        """
        self._raise_failure()
        with ExitStack() as stack:
            for name in self._gathering if hasten is None else hasten:
                stack.enter_context(self._gathering[name].hastened())
            await self._waiters.wait_for(predicate)

    def end_offset(self, topic: str, partition: int) -> int | None:
        """The offset the next message will get, as far as is known here; None when nothing is. From any thread."""
        return self.end_offsets({TP(topic, partition)}).get(TP(topic, partition))

    def end_offsets(self, partitions: Collection[TP]) -> Mapping[TP, int]:
        """The offset the next message will get, as the broker tells it now, if it does. From any thread."""
        return self.consumer.ends(partitions)

    def ends(self) -> Callable[[str, int], int | None]:
        """:meth:`end_offset` for one look at several partitions: a topic's are asked for together, when it is first.

        Whatever is read from a store before the first call is no newer than the answers.
        """
        known: dict[str, Mapping[TP, int]] = {}

        def end(topic: str, partition: int) -> int | None:
            if topic not in known:
                known[topic] = self.end_offsets({TP(topic, number) for number in range(self.app.declared[topic])})
            return known[topic].get(TP(topic, partition))

        return end

    async def tick(self) -> None:
        """Ask every stage to settle what it owes of the partitions it has here, as the runtime does by itself."""
        await asyncio.gather(*(self._settle(stage, lambda: not self._stopping) for stage in self.stages))

    def notify(self) -> None:
        """Have predicates tried again: something they look at, outside the runtime, has changed. From any thread."""
        self._waiters.notify(self.failure)

    async def before_start(self) -> None:
        """Start the stages, in their order."""
        self._waiters.listen()
        if self._trial is not None:
            self._trial.open({stage.name for stage in self.stages})
        await self._started.start()
        if self._tick_s:
            # Each by itself: a stage that waits for something from outside does not keep the others from settling.
            self._ticking = [asyncio.create_task(self._tick_on(stage)) for stage in self.stages]

    async def before_stop(self) -> None:
        """Read no further poll; return when what is here has been handled and stages have settled all they owe.

        After one and a half ``grace_s`` in any case. After a failure there is no waiting and nothing is settled.
        """
        # Before any stage is told to hurry: one that leaves a poll undone must not be given what comes behind it.
        await taken(self._gathering.values(), lambda: self.failure is None and self._owed(), self._grace_s / 2)
        self._stopping = True
        if self.failure is None:
            self._started.hurry()
            try:
                with suppress(TimeoutError):  # what is not done by then is done again by the next start
                    async with asyncio.timeout(self._grace_s):
                        await self._turns.wait_for(lambda at_work: self.failure is not None or not at_work)
                        # Now, while the partitions are ours: a commit after the group was left would be a zombie's.
                        for stage in self.stages:
                            await self._settle(stage, lambda: True, stopping=True)
            except Exception as error:  # noqa: BLE001 - the app must go on stopping; whoever runs it raises the failure
                self.on_crash(error)

    async def on_revoked(self) -> None:
        """A rebalance begins: return when no work is being published or committed."""
        if not self._stopping:
            self._journal.rebalancing(self.tenure.partitions)
        await self.tenure.close()

    async def on_reassigned(self, assigned: set[TP]) -> None:
        """A rebalance is over while the app stops: what is still here is settled, the rest is given up."""
        closing = await self.tenure.close()
        self._resuming.forget(await self.tenure.change(self.tenure.partitions & assigned))
        await self.tenure.open(closing)

    @property
    def started(self) -> bool:
        """Whether every stage has been started."""
        return self._started.all

    @property
    def stopping(self) -> bool:
        """Whether a stop has begun."""
        return self._stopping

    @property
    def consumer(self) -> CoalescingConsumer:
        """The app's consumer."""
        return cast("CoalescingConsumer", self.app.consumer)

    def at_work(self, stage: str) -> TP | None:
        """A partition a stage is at work on, None while it is idle."""
        return self._turns.partition(stage)

    @property
    def handled(self) -> Progress:
        """By (stage, topic, partition): the offset after the last poll whose ``handle`` has ended. Not durable."""
        return self._offsets.handled

    @property
    def completed(self) -> Progress:
        """By (stage, topic, partition): the offset below which everything is completed, durably."""
        return self._offsets.completed

    @property
    def steps(self) -> Counter[tuple[str, str, int]]:
        """Steps taken in each (stage, topic, partition): whatever is at work, this moves."""
        return self._steps.taken

    def given(self, stage: str, tp: TP) -> int:
        """The offset after the last poll a stage was given of a partition assigned here."""
        return self._offsets.given(stage, tp)

    def readers(self, topic: str) -> Sequence[Stage]:
        """The stages that read a topic."""
        return self._readers.get(topic, ())

    async def after_stop(self) -> None:
        """Stop the stages, in reverse order, each also when another one's stop raises."""
        if self._trial is not None:
            # What the engine or memory gave out at is looked at by the next start as what ended the process.
            self._trial.close(keep=isinstance(self.failure, (EngineFailed, MemoryError)))
        for ticking in self._ticking:
            ticking.cancel()
        await asyncio.gather(*self._ticking, return_exceptions=True)
        self._resuming.forget(await self.tenure.change(()))
        self._journal.stopped()
        await self._started.stop()

    def _owed(self) -> bool:
        """Whether something is gathered for a stage that waits for nothing from outside."""
        return any(stage.waiting is None and self._gathering[stage.name].waits for stage in self.stages)

    async def _settle(self, stage: Stage, may: Callable[[], bool], *, stopping: bool = False) -> None:
        for tp in sorted(tp for topic in stage.topics for tp in self.tenure.partitions if tp.topic == topic):
            async with self._turns.turn(stage.name, self._key(stage, tp)):
                tenure = self.tenure.number(tp)
                if tenure is not None and self.failure is None and may():
                    await self._carry(stage, tp, stage.settle(tp.topic, tp.partition, stopping=stopping), tenure)

    async def _tick_on(self, stage: Stage) -> None:
        while not self._stopping and self.failure is None:
            await asyncio.sleep(self._tick_s)
            try:
                await self._settle(stage, lambda: not self._stopping)
            except Exception as error:  # noqa: BLE001 - whatever it is, it ends the worker
                await self._fail(error)

    def on_crash(self, reason: BaseException) -> None:
        """Remember why the app came down. From any thread."""
        if self.failure is None:
            self.failure = reason
        self.notify()

    async def _positions(self, tps: set[TP]) -> Mapping[TP, int]:
        for gathering in self._gathering.values():
            gathering.clear()  # it is read again
        positions = await self._resuming.positions(tps)
        self.notify()
        return positions

    def _attach(self, stage: Stage) -> None:
        topic = self.app.topic(*stage.topics, schema=PollSchema(), acks=False)

        async def agent(stream: StreamT[Poll]) -> None:
            # Acks are ours: Faust acks at the end of the loop body, also when it was left by an exception.
            stream.enable_acks = False
            # By partition, or one for all.
            serving: dict[TP | None, asyncio.Task[None]] = {}
            try:
                async for poll in stream:
                    if self.failure is not None:
                        return
                    self._gather(stage, poll, cast("EventT[Poll]", stream.current_event).message)
                    key = self._key(stage, TP(poll.topic, poll.partition))
                    if key not in serving:
                        serving[key] = asyncio.create_task(self._serve(stage, key))
            except Exception as error:  # noqa: BLE001 - whatever it is, it ends the worker
                await self._fail(error)
            finally:
                for task in serving.values():
                    task.cancel()
                await asyncio.gather(*serving.values(), return_exceptions=True)

        self.app.agent(topic, name=stage.name)(agent)

    def _gather(self, stage: Stage, poll: Poll, message: Message) -> None:
        tp = TP(poll.topic, poll.partition)
        if self.tenure.number(tp) is None or self._stopping or not self.consumer.current(message):
            return  # somebody else reads it, the next start does, or it is handed out once more
        if self._gathering[stage.name].add(tp, poll, message):
            self.consumer.release(tp, self._offsets.release(stage.name, tp, poll.last + 1))
        self._ahead.look(stage, tp, poll)

    def _key(self, stage: Stage, tp: TP) -> TP | None:
        return tp if stage.by_partition else None

    async def _serve(self, stage: Stage, only: TP | None) -> None:
        URGENT.set(not stage.gather.max_wait_us)  # in this task
        try:
            while self.failure is None:
                _, poll, message = await self._gathering[stage.name].next(only)
                async with self._turns.turn(stage.name, only):
                    await self._take(stage, poll, message)
        except Exception as error:  # noqa: BLE001 - whatever it is, it ends the worker
            await self._fail(error)

    async def _take(self, stage: Stage, poll: Poll, message: Message) -> None:
        tp = TP(poll.topic, poll.partition)
        tenure = self.tenure.number(tp)
        if tenure is None or self._stopping or not self.consumer.current(message):
            return  # as above; it may have waited since
        after = poll.last + 1
        if after <= self._offsets.stored(stage.name, tp):
            self._complete(stage, tp, after)
        todo = self._offsets.give(stage.name, poll, tp)
        if len(todo):
            if self._observer is not None:
                self._observer.polled(stage.name, poll.topic, len(todo))
            works = tried(stage, todo, self._trial, lambda: self._steps.beat(stage.name, tp))
            await self._carry(stage, tp, works, tenure)
        if self.tenure.number(tp) == tenure and not self._stopping:
            self.consumer.release(tp, self._offsets.handle(stage.name, tp, after))
            self.notify()

    async def _carry(self, stage: Stage, tp: TP, works: AsyncIterator[Work], tenure: int) -> None:
        with suppress(Gone):
            async with self._turns.at_work(stage.name, tp, tenure):
                # When a stop has begun, up to a point to resume from; the rest is for the next start.
                await self._steps.take_all(stage, tp, works, tenure, lambda: self._stopping)
        if self._resuming.owed(stage) and not self._stopping:
            await self.consumer.seek_again()

    def _step(self, stage: Stage, step: str) -> None:
        self._raise_failure()
        if self._on_step is not None:
            self._on_step(stage.name, step)

    def _complete(self, stage: Stage, tp: TP, done: int) -> None:
        completed = self._offsets.complete(stage.name, tp, done)
        if completed is not None:
            self.consumer.acknowledge(tp, completed)
            self.notify()

    async def _fail(self, error: Exception) -> None:
        if self.failure is None:
            self.failure = error
        await self._turns.notify()
        await self.app.crash(error)

    def _raise_failure(self) -> None:
        if self.failure is not None:
            raise self.failure
