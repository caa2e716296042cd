"""The stages of a model on shards between topics in memory, in an order that a test draws, with deaths in between."""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import numpy as np
import pyarrow as pa

from dovetail.platform.rows import wire
from dovetail.platform.rows.positions import SourceFilter
from dovetail.platform.runtime.computing import Computing, install
from dovetail.platform.stage import Outgoing, Poll, Stage, Work
from dovetail.platform.stores.registry.store import Registry
from dovetail.platform.testing import ManualClock
from dovetail.trainer.learner import Learner
from dovetail.trainer.metrics.groups import Groups
from dovetail.trainer.metrics.progressive import Evaluation
from dovetail.trainer.models.gate import Gate
from dovetail.trainer.models.publish import Model, ModelDirectory
from dovetail.trainer.optimizers import Optimizer
from dovetail.trainer.samples.encoding import Encoder, InputSpec
from dovetail.trainer.settings import Checkpointing, Publication, Recipe, SampleTopic
from dovetail.trainer.sharded.stages.gather_stage import GatherStage
from dovetail.trainer.sharded.stages.gradient_stage import GradientStage
from dovetail.trainer.sharded.stages.reduce_stage import ReduceStage
from dovetail.trainer.sharded.stages.shard_stage import ShardStage
from dovetail.trainer.sharded.stages.shard_topics import Sharding, ShardTopics
from dovetail.trainer.sharded.stages.sharded_recipe import ShardedRecipe
from dovetail.trainer.sharded.stages.split_stage import SplitStage
from dovetail.trainer.sharded.stages.version_stage import VersionStage
from dovetail.trainer.slots import SlotPolicy

TOPICS = ShardTopics("b", "p", "m", "c", "v", "d")
SAMPLES = SampleTopic("samples", label="label", weight="weight")
ENCODER = Encoder([InputSpec("city"), InputSpec("user"), InputSpec("price", "standardised")], bits=8)
PUBLISH_EVERY = 50
#: The header of a message to the splitter that asks for a version.
ASKED = "dovetail-version-after"


def recipe_for(optimizer: Optimizer, slots: SlotPolicy) -> Recipe:
    return Recipe(
        ENCODER, optimizer, slots=slots, evaluation=Evaluation(window=30, windows=3),
        groups=Groups(slices=("city",)),
    )  # fmt: skip


def sample_messages(random: Random, rows: int, made: defaultdict[int, int]) -> Iterator[tuple[int, bytes]]:
    """Messages of samples by partition, each with the position that it was made from; some come twice.

    ``made``: how many there were before, by partition.
    """
    rng = np.random.default_rng(random.randrange(2**32))
    while rows > 0:
        n, partition = random.randint(1, 9), random.randrange(2)
        table = pa.table({
            "city": pa.array([f"c{c}" for c in rng.integers(0, 6, n)]), "user": pa.array(rng.integers(0, 40, n)),
            "price": rng.exponential(9.0, n), "label": pa.array(rng.integers(0, 2, n).astype(np.int8)),
            "weight": rng.choice([0.0, 1.0, 2.0], n).astype(np.float32), "unread": pa.array(["x"] * n),
            "request_id": pa.array([f"r{partition}.{made[partition]}"] * n),
            "_source_partition": pa.array([partition] * n, pa.int32()),
            "_source_offset": pa.array([made[partition]] * n, pa.int64()),
            "_source_row": pa.array([0] * n, pa.int32()),
        })  # fmt: skip
        made[partition] += 1
        rows -= n
        for _ in range(2 if random.random() < 0.1 else 1):
            yield partition, wire.encode(table)


@dataclass
class Member:
    """A process that runs one stage, of some partitions."""

    make: Callable[[], Stage]
    partitions: dict[str, list[int]]
    stage: Stage = field(init=False)
    positions: dict[tuple[str, int], int] = field(init=False)
    open: dict[tuple[str, int], tuple[AsyncIterator[Work], int]] = field(init=False)
    blocked: dict[tuple[str, int], asyncio.Task[Work | None]] = field(init=False)

    def __post_init__(self) -> None:
        self.start()

    def start(self) -> None:
        self.stage = self.make()
        self.open, self.blocked = {}, {}
        self.positions = {
            (topic, number): self.stage.resume(topic).get(number, 0)
            for topic, numbers in self.partitions.items()
            for number in numbers
        }


async def _next(works: AsyncIterator[Work]) -> Work | None:
    return await anext(works, None)


class World:
    """All stages, each in a process of its own, and every shard in one; ``every``: samples between checkpoints."""

    def __init__(
        self,
        folder: Path,
        optimizer: Optimizer,
        random: Random,
        *,
        shards: int,
        staleness: int | None = 0,
        every: int = 40,
        limit: int = 1 << 20,
        full_every: int = 1,
        gate: Gate | None = None,
        delay_us: int | None = None,
        workers: int = 0,
        plain: bool = False,
    ) -> None:
        """``delay_us``: versions are due by time, too; then time passes between steps. With ``workers``, by samples.

        By samples, and where the model is ``plain``, every slot is admitted at once.
        """
        self.random = random
        self.clock = ManualClock()
        self._delay_us = delay_us
        self._made = defaultdict[int, int](int)
        self.topics: dict[tuple[str, int], list[Outgoing]] = defaultdict(list)
        self.sharding = Sharding(TOPICS, shards, staleness, batch_rows=16, max_message_bytes=limit, workers=workers)
        self.recipe = recipe_for(optimizer, SlotPolicy(admit_after=0 if workers or plain else 2))
        self.registry = Registry(f"sqlite:///{folder}/registry.sqlite")
        self.models = ModelDirectory(folder / "models", keep=100)
        recipe, sharding = ShardedRecipe(self.recipe, SAMPLES), self.sharding
        kept = Checkpointing(folder / "checkpoints", every)
        publication = Publication(self.models, PUBLISH_EVERY, full_every, delay_us=delay_us)
        self.members = {
            "trainer": Member(lambda: GatherStage(SAMPLES, sharding, self.registry), {"samples": [0, 1]}),
            "splitter": Member(
                lambda: SplitStage(recipe, sharding, SAMPLES, publication, kept, self.clock), {"b": [0], "c": [0]}
            ),
            "reducer": Member(lambda: ReduceStage(recipe, sharding, gate or Gate(), kept), {"m": [0]}),
            "versions": Member(lambda: VersionStage(ENCODER, sharding, publication, kept), {"v": [0]}),
            **{
                f"shard {number}": Member(lambda: ShardStage(ENCODER, optimizer, sharding, kept), {"p": [number]})
                for number in range(shards)
            },
            **{
                f"worker {number}": Member(lambda: GradientStage(recipe, sharding, kept), {"d": [number]})
                for number in range(workers)
            },
        }

    def feed(self, rows: int) -> None:
        for partition, value in sample_messages(self.random, rows, self._made):
            self.topics["samples", partition].append(Outgoing("samples", value))

    async def run(self, deaths: float = 0.0) -> None:
        """Take steps until nothing is left to do; after a step, by chance, the process that took it dies."""
        install(Computing(local=True))
        while choices := [(name, tp) for name in self.members for tp in self._ready(self.members[name])]:
            name, tp = self.random.choice(choices)
            await self._step(self.members[name], tp, dies=self.random.random() < deaths)
            if self._delay_us is not None and self.random.random() < 0.05:
                await self.wait(self.random.randrange(self._delay_us))

    async def wait(self, time_us: int) -> None:
        """Let time pass: the splitter may find that it is time for a version."""
        self.clock.advance(time_us)
        if not self.members["splitter"].open:
            async for work in self.members["splitter"].stage.settle("b", 0):
                self.topics["b", 0] += work.outgoing
                if work.commit is not None:
                    work.commit()

    async def settle(self) -> None:
        for member in self.members.values():
            for topic, number in member.positions:
                async for work in member.stage.settle(topic, number, stopping=True):
                    if work.commit is not None:
                        work.commit()

    def _ready(self, member: Member) -> list[tuple[str, int]]:
        waits = {tp for tp, task in member.blocked.items() if not task.done() and member.stage.waiting}
        behind = {tp for tp, position in member.positions.items() if position < len(self.topics[tp])}
        return sorted((behind | member.open.keys()) - waits)

    async def _step(self, member: Member, tp: tuple[str, int], *, dies: bool) -> None:
        if tp not in member.open:
            poll = self._poll(tp, member.positions[tp])
            member.open[tp] = (member.stage.handle(poll), poll.last + 1)
        works, after = member.open[tp]
        task = member.blocked.pop(tp, None) or asyncio.ensure_future(_next(works))
        # One that waits in a partition is told in another one.
        await asyncio.wait({task}, timeout=0.001)
        while not task.done() and not member.stage.waiting:
            await asyncio.wait({task}, timeout=0.001)
        if not task.done():
            member.blocked[tp] = task
            return
        work = task.result()
        if work is None:
            del member.open[tp]
            member.positions[tp] = after
            return
        # Of a process that dies some messages are out, or all, and maybe the commit.
        far = self.random.randint(0, len(work.outgoing) + 1) if dies else len(work.outgoing) + 1
        for message in work.outgoing[:far]:
            self.topics[message.topic, message.partition or 0].append(message)
        if far > len(work.outgoing) and work.commit is not None:
            work.commit()
        if dies:
            for blocked in member.blocked.values():
                blocked.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await blocked
            member.start()

    def _poll(self, tp: tuple[str, int], start: int) -> Poll:
        messages = self.topics[tp][start : start + self.random.randint(1, 20)]
        offsets = np.arange(start, start + len(messages))
        return Poll(
            *tp, offsets, offsets, [m.key for m in messages], [m.value for m in messages],
            [m.headers for m in messages],
        )  # fmt: skip

    def expected(self) -> tuple[Learner, dict[int, Model]]:
        """The trainer of mini-batches in one process, given the batches that are in the log; and its versions."""
        learner, seen, versions = self.recipe.untrained(SAMPLES), SourceFilter(), dict[int, Model]()
        for offset in range(len(self.topics["b", 0])):
            message = self.topics["b", 0][offset]
            if message.headers:  # asks for a version of what is in none, if no other came since
                if message.headers == ((ASKED, b"%d" % max(versions, default=0)),):
                    versions.setdefault(learner.trained, Model.of(learner))
                continue
            poll = Poll("b", 0, np.array([offset]), np.array([0]), [None], [message.value], [()])
            rows = SAMPLES.decode(poll)
            due = learned(learner, rows.filter(pa.array(seen.admit(rows))), PUBLISH_EVERY)
            versions |= due if self._delay_us is None else {model.trained: model for model in due.values()}
        return learner, versions


def learned(learner: Learner, rows: pa.Table, every: int) -> dict[int, Model]:
    """Train on a batch, cut where versions are due, which are each ``every`` rows; returns those that were."""
    versions = {}
    while rows.num_rows:
        room = every - learner.trained % every
        learner.learn_batch(rows.slice(0, room))
        rows = rows.slice(room)
        if learner.trained % every == 0:
            versions[learner.trained // every] = Model.of(learner)
    return versions
