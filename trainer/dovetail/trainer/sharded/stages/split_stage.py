"""The splitter as a stage: batches in, their parts to the shards and the rest to the reducer, within a window."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from dovetail.platform.clock import Clock
from dovetail.platform.errors import WireError
from dovetail.platform.rows.positions import SourceFilter
from dovetail.platform.runtime.computing import compute
from dovetail.platform.stage import Outgoing, Poll, Work
from dovetail.trainer.evaluating import part_of
from dovetail.trainer.models.checkpoint import settings_after, settings_of
from dovetail.trainer.models.container import Container
from dovetail.trainer.preparing import Preparation, Prepared
from dovetail.trainer.samples.encoding import Encoded
from dovetail.trainer.settings import Checkpointing, Publication, SampleTopic
from dovetail.trainer.sharded.batch_messages import BatchMessage
from dovetail.trainer.sharded.evaluated_rows import BatchRows
from dovetail.trainer.sharded.mailbox import posted
from dovetail.trainer.sharded.ring import Ring
from dovetail.trainer.sharded.splitter import Splitter
from dovetail.trainer.sharded.stages.kept_stage import Done, KeptStage
from dovetail.trainer.sharded.stages.shard_topics import Sharding
from dovetail.trainer.sharded.stages.sharded_recipe import ShardedRecipe

__all__ = ["SplitStage", "SplitState"]

#: In the topic of batches, the header of a message that asks for a version although no row came: the rows in the last.
_ASKED = "dovetail-version-after"
_NO_NUMBERS = np.empty(0, np.float32)
#: A batch of no examples, whatever their width.
_NOTHING = Encoded(np.empty((0, 1), np.uint32), np.empty((0, 1), np.float32))


class SplitState:
    """Batches up to the one numbered ``splitter.number``: moments, slots admitted, and the rows that were there.

    A version is due after every ``publish_every`` rows, and numbered by how many times that was; ``delayed``, it is
    numbered by rows, and also due where a message asks for it.
    """

    def __init__(
        self, recipe: ShardedRecipe, sharding: Sharding, samples: SampleTopic, publish_every: int, *, delayed: bool
    ) -> None:
        self.preparation: Preparation = recipe.preparation()
        self.splitter = Splitter(Ring(sharding.shards, self.preparation.encoder.bits))
        self.filter = SourceFilter()
        self.next = 0
        self._columns = sorted(recipe.evaluator().columns)
        self._sharding = sharding
        self._samples = samples
        self._publish_every = publish_every
        self._delayed = delayed
        #: The rows that were there when the last version was due.
        self.versioned = 0

    @property
    def position(self) -> int:
        """The offset to read on from."""
        return self.next

    def version_of(self, rows: int) -> int:
        """The version that is due after so many rows, or, if none is, the last one by count."""
        return rows if self._delayed else rows // self._publish_every

    def ask(self) -> Outgoing | None:
        """The message that asks for a version of the rows that are in none; None where there are no such rows."""
        if not self._delayed or self.preparation.prepared == self.versioned:
            return None
        return Outgoing(self._sharding.topics.batches, b"", partition=0, headers=((_ASKED, b"%d" % self.versioned),))

    def take(self, poll: Poll) -> Done:
        """Cut the rows of ``poll`` that are new: those of a message are a batch, or more where a version is due.

        :raises WireError: rows lack a column, or have one of a wrong type.
        :raises ModelError: an example does not fit the model.
        """
        done = Done()
        poll = poll.since(self.next)
        for offset, headers in zip(poll.offsets.tolist(), poll.headers, strict=True):
            if (asked := dict(headers).get(_ASKED)) is not None:
                # A version that was due since then, or was asked for twice, has the rows that this is about.
                if self._delayed and _number(poll, asked) == self.versioned < self.preparation.prepared:
                    done.outgoing += self._posted(self._marked())
                self.next = offset + 1
                continue
            rows = self._samples.decode(poll.since(offset).before(offset + 1))
            rows = rows.filter(pa.array(self.filter.admit(rows)))
            done.samples += rows.num_rows
            while rows.num_rows:
                room = self._publish_every - self.preparation.prepared % self._publish_every
                for prepared in self.preparation.prepare(rows.slice(0, room), whole=True):
                    done.outgoing += self._posted(self._cut(prepared))
                rows = rows.slice(room)
            self.next = offset + 1
        return done

    def _due(self) -> int:
        """The version that is the one after the rows prepared, which are all in one from now on."""
        self.versioned = self.preparation.prepared
        return self.version_of(self.versioned)

    def _marked(self) -> list[BatchMessage]:
        """A batch of nothing, after which there is a version: it changes no weight, and goes the way of all."""
        header, parts = self.splitter.split(_NOTHING, _NO_NUMBERS, _NO_NUMBERS, self._due())
        moments = self.preparation.moments.copy()
        rows = BatchRows(header.number, _NO_NUMBERS, pa.table({}), parts[0].version, moments)
        return [*parts, rows, header]

    def _cut(self, prepared: Prepared) -> list[BatchMessage]:
        due = 0 if self.preparation.prepared % self._publish_every else self._due()
        self.splitter.forget(prepared.forgotten)
        header, parts = self.splitter.split(prepared.encoded, prepared.labels, prepared.learnt, due)
        columns = [name for name in self._columns if name in prepared.table.column_names]
        moments = self.preparation.moments.copy()
        rows = BatchRows(header.number, prepared.weights, prepared.table.select(columns), due, moments)
        return [*parts, rows, header]

    def _posted(self, messages: list[BatchMessage]) -> list[Outgoing]:
        topics, limit = self._sharding.topics, self._sharding.max_message_bytes
        outgoing: list[Outgoing] = []
        for message in messages:
            shard = getattr(message, "shard", None)
            topic, partition = (topics.margins, 0) if shard is None else (topics.parts, shard)
            outgoing += posted(topic, partition, message, limit)
        return outgoing

    def image(self) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
        """The state as values and arrays."""
        values = {
            "number": self.splitter.number, "prepared": self.preparation.prepared, "versioned": self.versioned,
            "filter": sorted(self.filter.state.items()),
        }  # fmt: skip
        slots = {f"slots_{name}": array for name, array in self.preparation.slots.state().items()}
        return values, {"moments": self.preparation.moments.copy(), **slots}

    def restore(self, stored: Container) -> None:
        """Become the state whose :meth:`image` was stored."""
        values, arrays = stored.header["state"], stored.arrays
        self.splitter.number, self.preparation.prepared = values["number"], values["prepared"]
        # Before there were others, versions were due after multiples only.
        self.versioned = values.get("versioned", values["prepared"] - values["prepared"] % self._publish_every)
        self.preparation.moments[...] = arrays["moments"]
        self.preparation.slots.restore(part_of(arrays, "slots"))
        self.filter = SourceFilter(dict(values["filter"]))
        self.next = stored.header["position"]


class SplitStage(KeptStage[SplitState]):
    """Encodes and cuts batches, from one partition, and sends each part to the mailbox of its shard.

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
                **settings_of(samples.topic, publication.every, delayed=delayed), "shards": sharding.shards,
            },
        }  # fmt: skip
        super().__init__("splitter", sharding.topics.batches, checkpoints, configuration, clock)
        self.topics = (sharding.topics.batches, sharding.topics.credits)
        self._sharding = sharding
        self._fresh = partial(SplitState, recipe, sharding, samples, publication.every, delayed=delayed)
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

    def _waited(self, state: SplitState) -> bool:
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
            self._reduced = max(self._reduced, *(_number(poll, value) for value in poll.values))
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
            self._waited(state)


def _number(poll: Poll, value: bytes | None) -> int:
    try:
        return int(value or b"")
    except ValueError as error:
        raise WireError(
            f"{poll.topic}: {value!r} is no number of batches or rows; only Dovetail may write to this topic"
        ) from error
