"""The splitter as a stage: batches in, their parts to the shards and the rest to the reducer, within a window."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from dovetail.platform.clock import Clock
from dovetail.platform.runtime.computing import compute
from dovetail.platform.stage import Poll, Work
from dovetail.trainer.arithmetic import Float32
from dovetail.trainer.models.checkpoint import settings_after, settings_of
from dovetail.trainer.models.container import Container
from dovetail.trainer.samples.encoding import Encoded
from dovetail.trainer.settings import Checkpointing, Publication, SampleTopic
from dovetail.trainer.sharded.batch_messages import BatchMessage
from dovetail.trainer.sharded.evaluated_rows import BatchRows
from dovetail.trainer.sharded.ring import Ring
from dovetail.trainer.sharded.splitter import Splitter
from dovetail.trainer.sharded.stages.batch_state import BatchState, number_in
from dovetail.trainer.sharded.stages.deal_state import DealState
from dovetail.trainer.sharded.stages.kept_stage import KeptStage
from dovetail.trainer.sharded.stages.shard_topics import Sharding
from dovetail.trainer.sharded.stages.sharded_recipe import ShardedRecipe

__all__ = ["SplitStage", "SplitState"]

_NO_NUMBERS = np.empty(0, np.float32)
#: A batch of no examples, whatever their width.
_NOTHING = Encoded(np.empty((0, 1), np.uint32), np.empty((0, 1), np.float32))


class SplitState(BatchState):
    """Batches cut by shard."""

    def __init__(
        self, recipe: ShardedRecipe, sharding: Sharding, samples: SampleTopic, publish_every: int, *, delayed: bool
    ) -> None:
        super().__init__(recipe, sharding, samples, publish_every, delayed=delayed)
        self._splitter = Splitter(Ring(sharding.shards, self.preparation.encoder.bits))
        self._columns = sorted(recipe.evaluator().columns)

    def messages(self, rows: pa.Table) -> list[BatchMessage]:
        """For each day that slots expire by, the parts of a batch to the shards, and the rest to the reducer.

        :raises WireError: rows lack a column, or have one of a wrong type.
        :raises ModelError: an example does not fit the model.
        """
        made: list[BatchMessage] = []
        for prepared in self.preparation.prepare(rows, whole=True):
            self._splitter.forget(prepared.forgotten)
            examples = prepared.encoded, prepared.labels, prepared.learnt
            made += self._cut(*examples, prepared.weights, prepared.table, self.version_due())
        return made

    def marked(self, version: int) -> list[BatchMessage]:
        """As :meth:`messages`, of no examples."""
        return self._cut(_NOTHING, _NO_NUMBERS, _NO_NUMBERS, _NO_NUMBERS, pa.table({}), version)

    def _cut(
        self, encoded: Encoded, labels: Float32, learnt: Float32, weights: Float32, table: pa.Table, version: int
    ) -> list[BatchMessage]:
        self._splitter.number = self.number
        header, parts = self._splitter.split(encoded, labels, learnt, version)
        self.number = header.number
        columns = [name for name in self._columns if name in table.column_names]
        moments = self.preparation.moments.copy()
        return [*parts, BatchRows(header.number, weights, table.select(columns), version, moments), header]


class SplitStage(KeptStage[BatchState]):
    """Encodes and cuts batches, from one partition, and sends each part to the mailbox of its shard.

    Where the model is by samples, it deals batches as they are to workers in turns, see :class:`DealState`.

    What it sends is a function of the messages before, so that it may be sent again. It is at most
    :attr:`Sharding.window` batches, and those of one message, ahead of the last that the reducer has predicted: so much
    is in the memories of shards and reducer. Credit only delays, and is kept in memory.

    With ``publication.delay_us`` a version is also due when the first row that is in none has waited for so long by the
    clock. Then the stage asks itself for one, by a message in the topic that it reads: so the place of a version in the
    log is decided once, whoever reads it again.
    """

    def __init__(
        self,
        recipe: ShardedRecipe,
        sharding: Sharding,
        samples: SampleTopic,
        publication: Publication,
        checkpoints: Checkpointing,
        clock: Clock | None = None,
    ) -> None:
        delayed = publication.delay_us is not None
        configuration = {
            **recipe.preparation().describe(),
            "settings": {
                **settings_of(samples.topic, publication.every, delayed=delayed), **sharding.placement.describe(),
            },
        }  # fmt: skip
        super().__init__("splitter", sharding.topics.batches, checkpoints, configuration, clock)
        self.topics = (sharding.topics.batches, sharding.topics.credits)
        self._sharding = sharding
        made = DealState if sharding.workers else SplitState
        self._fresh: Callable[[], BatchState] = partial(
            made, recipe, sharding, samples, publication.every, delayed=delayed
        )
        self._delay_us = publication.delay_us
        # The rows in the last version, and when the first one came that is not in it.
        self._unpublished: tuple[int, int] | None = None
        self._credits_read = 0
        self._reduced = 0
        self._waiting = False
        self._stop = False
        self._moved = asyncio.Event()

    def partitions(self) -> Collection[int]:
        return (0,)

    def folder(self, partition: int) -> Path:
        return self._checkpoints.folder / "splitter"

    def fresh(self, partition: int) -> BatchState:
        return self._fresh()

    def loaded(self, partition: int, stored: Container) -> BatchState:
        state = self._fresh()
        state.restore(stored)
        return state

    def resume(self, topic: str) -> Mapping[int, int]:
        if topic == self._sharding.topics.credits:
            return {0: self._credits_read} if self._credits_read else {}
        return super().resume(topic)

    def forget(self, topic: str, partitions: Collection[int]) -> None:
        super().forget(topic, partitions)
        if topic == self.topic:
            self._stop = True
            self._moved.set()

    def comparable(self, stored: Mapping[str, Any]) -> Mapping[str, Any]:
        return {
            **self.configuration, "settings": settings_after(stored["settings"], self.configuration["settings"]),
        }  # fmt: skip

    async def settle(self, topic: str, partition: int, *, stopping: bool = False) -> AsyncIterator[Work]:
        """A checkpoint if one is due, and the message that asks for a version whose rows have waited long enough."""
        async for work in super().settle(topic, partition, stopping=stopping):
            yield work
        if topic == self.topic and self._delay_us is not None and not stopping:
            state = await self.here(partition)
            if self._waited(state) and (asking := state.ask()) is not None:
                self._unpublished = None  # asked again after as long, should it not have come
                yield Work(outgoing=[asking])

    def _waited(self, state: BatchState) -> bool:
        if self._delay_us is None or state.preparation.prepared == state.versioned:
            self._unpublished = None
            return False
        if self._unpublished is None or self._unpublished[0] != state.versioned:
            self._unpublished = (state.versioned, self._clock.now_us())
        # A clock that was set back says nothing about how long it is: then it is long enough.
        return not 0 <= self._clock.now_us() - self._unpublished[1] < self._delay_us

    def hurry(self) -> None:
        self._stop = True
        self._moved.set()

    @property
    def waiting(self) -> str | None:
        """The batch that is to be predicted before the next one is cut, in words."""
        return f"a batch after {self._reduced} to be predicted by the shards" if self._waiting else None

    async def handle(self, poll: Poll) -> AsyncIterator[Work]:
        if poll.topic != self.topic:
            self._reduced = max(self._reduced, *(number_in(poll, value) for value in poll.values))
            self._moved.set()

            def read() -> None:
                self._credits_read = poll.last + 1

            yield Work(commit=read, done=poll.last + 1)
            return
        self._stop = False
        async for work in super().handle(poll):
            yield work

    async def taken(self, state: BatchState, poll: Poll) -> AsyncIterator[Work]:
        poll = poll.since(state.next)
        for offset in poll.offsets.tolist():
            while state.number - self._reduced >= self._sharding.window and not self._stop:
                self._moved.clear()
                self._waiting = True
                try:
                    await self._moved.wait()
                finally:
                    self._waiting = False
            if self._stop:
                return
            yield self.work(poll.partition, await compute(state.take, poll.since(offset).before(offset + 1)))
            self._waited(state)
