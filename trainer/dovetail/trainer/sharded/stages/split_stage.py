"""The splitter as a stage: batches in, their parts to the shards and the rest to the reducer, within a window."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa

from dovetail.platform.clock import Clock
from dovetail.platform.errors import WireError
from dovetail.platform.rows.positions import SourceFilter
from dovetail.platform.runtime.computing import compute
from dovetail.platform.stage import Outgoing, Poll, Work
from dovetail.trainer.evaluating import part_of
from dovetail.trainer.models.container import Container
from dovetail.trainer.preparing import Preparation, Prepared
from dovetail.trainer.settings import Checkpointing, SampleTopic
from dovetail.trainer.sharded.batch_messages import BatchMessage
from dovetail.trainer.sharded.evaluated_rows import BatchRows
from dovetail.trainer.sharded.mailbox import posted
from dovetail.trainer.sharded.ring import Ring
from dovetail.trainer.sharded.splitter import Splitter
from dovetail.trainer.sharded.stages.kept_stage import Done, KeptStage
from dovetail.trainer.sharded.stages.shard_topics import Sharding
from dovetail.trainer.sharded.stages.sharded_recipe import ShardedRecipe

__all__ = ["SplitStage", "SplitState"]


class SplitState:
    """Batches up to the one numbered ``splitter.number``: moments, slots admitted, and the rows that were there."""

    def __init__(self, recipe: ShardedRecipe, sharding: Sharding, samples: SampleTopic, publish_every: int) -> None:
        self.preparation: Preparation = recipe.preparation()
        self.splitter = Splitter(Ring(sharding.shards, self.preparation.encoder.bits))
        self.filter = SourceFilter()
        self.next = 0
        self._columns = sorted(recipe.evaluator().columns)
        self._sharding = sharding
        self._samples = samples
        self._publish_every = publish_every

    @property
    def position(self) -> int:
        """The offset to read on from."""
        return self.next

    def take(self, poll: Poll) -> Done:
        """Cut the rows of ``poll`` that are new: those of a message are a batch, or more where a version is due.

        :raises WireError: rows lack a column, or have one of a wrong type.
        :raises ModelError: an example does not fit the model.
        """
        done = Done()
        poll = poll.since(self.next)
        for offset in poll.offsets.tolist():
            rows = self._samples.decode(poll.since(offset).before(offset + 1))
            rows = rows.filter(pa.array(self.filter.admit(rows)))
            done.samples += rows.num_rows
            while rows.num_rows:
                room = self._publish_every - self.preparation.prepared % self._publish_every
                for prepared in self.preparation.prepare(rows.slice(0, room), whole=True):
                    for outgoing in map(self._post, self._cut(prepared)):
                        done.outgoing += outgoing
                rows = rows.slice(room)
            self.next = offset + 1
        return done

    def _cut(self, prepared: Prepared) -> list[BatchMessage]:
        version, rest = divmod(self.preparation.prepared, self._publish_every)
        due = version if rest == 0 else 0
        self.splitter.forget(prepared.forgotten)
        header, parts = self.splitter.split(prepared.encoded, prepared.labels, prepared.learnt, due)
        columns = [name for name in self._columns if name in prepared.table.column_names]
        moments = self.preparation.moments.copy()
        rows = BatchRows(header.number, prepared.weights, prepared.table.select(columns), due, moments)
        return [*parts, rows, header]

    def _post(self, message: BatchMessage) -> list[Outgoing]:
        topics, limit = self._sharding.topics, self._sharding.max_message_bytes
        shard = getattr(message, "shard", None)
        topic, partition = (topics.margins, 0) if shard is None else (topics.parts, shard)
        return list(posted(topic, partition, message, limit))

    def image(self) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
        """The state as values and arrays."""
        values = {
            "number": self.splitter.number, "prepared": self.preparation.prepared,
            "filter": sorted(self.filter.state.items()),
        }  # fmt: skip
        slots = {f"slots_{name}": array for name, array in self.preparation.slots.state().items()}
        return values, {"moments": self.preparation.moments.copy(), **slots}

    def restore(self, stored: Container) -> None:
        """Become the state whose :meth:`image` was stored."""
        values, arrays = stored.header["state"], stored.arrays
        self.splitter.number, self.preparation.prepared = values["number"], values["prepared"]
        self.preparation.moments[...] = arrays["moments"]
        self.preparation.slots.restore(part_of(arrays, "slots"))
        self.filter = SourceFilter(dict(values["filter"]))
        self.next = stored.header["position"]


class SplitStage(KeptStage[SplitState]):
    """Encodes and cuts batches, from one partition, and sends each part to the mailbox of its shard.

    What it sends is a function of the messages before, so that it may be sent again. It is at most
    :attr:`Sharding.window` batches, and those of one message, ahead of the last that the reducer has predicted: so much
    is in the memories of shards and reducer. Credit only delays, and is kept in memory.
    """

    def __init__(
        self,
        recipe: ShardedRecipe,
        sharding: Sharding,
        samples: SampleTopic,
        publish_every: int,
        checkpoints: Checkpointing,
        clock: Clock | None = None,
    ) -> None:
        configuration = {
            **recipe.preparation().describe(),
            "settings": {"topic": samples.topic, "publish_every": publish_every, "shards": sharding.shards},
        }
        super().__init__("splitter", sharding.topics.batches, checkpoints, configuration, clock)
        self.topics = (sharding.topics.batches, sharding.topics.credits)
        self._sharding = sharding
        self._fresh = partial(SplitState, recipe, sharding, samples, publish_every)
        self._credits_read = 0
        self._reduced = 0
        self._waiting = False
        self._stop = False
        self._moved = asyncio.Event()

    def partitions(self) -> Collection[int]:
        return (0,)

    def folder(self, partition: int) -> Path:
        return self._checkpoints.folder / "splitter"

    def fresh(self, partition: int) -> SplitState:
        return self._fresh()

    def loaded(self, partition: int, stored: Container) -> SplitState:
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

    def hurry(self) -> None:
        self._stop = True
        self._moved.set()

    @property
    def waiting(self) -> str | None:
        """The batch that is to be predicted before the next one is cut, in words."""
        return f"a batch after {self._reduced} to be predicted by the shards" if self._waiting else None

    async def handle(self, poll: Poll) -> AsyncIterator[Work]:
        if poll.topic != self.topic:
            self._reduced = max(self._reduced, *(_credit(poll, value) for value in poll.values))
            self._moved.set()

            def read() -> None:
                self._credits_read = poll.last + 1

            yield Work(commit=read, done=poll.last + 1)
            return
        self._stop = False
        async for work in super().handle(poll):
            yield work

    async def taken(self, state: SplitState, poll: Poll) -> AsyncIterator[Work]:
        poll = poll.since(state.next)
        for offset in poll.offsets.tolist():
            while state.splitter.number - self._reduced >= self._sharding.window and not self._stop:
                self._moved.clear()
                self._waiting = True
                try:
                    await self._moved.wait()
                finally:
                    self._waiting = False
            if self._stop:
                return
            yield self.work(poll.partition, await compute(state.take, poll.since(offset).before(offset + 1)))


def _credit(poll: Poll, value: bytes | None) -> int:
    try:
        return int(value or b"")
    except ValueError as error:
        raise WireError(
            f"{poll.topic}: {value!r} is no number of a batch; only Dovetail may write to this topic"
        ) from error
