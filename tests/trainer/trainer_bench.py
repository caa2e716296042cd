"""A trainer on a bench: samples in a topic, stages that share its folders, and polls driven with a crash anywhere."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa

from dovetail.platform.clock import Clock
from dovetail.platform.rows.positions import with_own_positions
from dovetail.platform.stage import Poll
from dovetail.trainer.metrics.groups import Groups
from dovetail.trainer.metrics.progressive import Evaluation, Metrics
from dovetail.trainer.models.gate import Gate
from dovetail.trainer.models.handed_over import Bounds, unbounded
from dovetail.trainer.models.publish import ModelDirectory
from dovetail.trainer.optimizers.ftrl import Ftrl
from dovetail.trainer.samples.encoding import Encoder
from dovetail.trainer.settings import Checkpointing, Publication, Recipe, SampleTopic
from dovetail.trainer.slots import SlotPolicy
from dovetail.trainer.training import Trained, TrainerListeners, TrainerStage

MESSAGES = 24
#: Rows per message: two requests of three candidates.
ROWS = 6
#: Message 10 is message 4 published again.
ORDER = [*range(10), 4, *range(10, MESSAGES - 1)]
#: Rows that count once.
UNIQUE = (MESSAGES - 1) * ROWS


class Bench:
    """A topic in memory and the stages that read it."""

    def __init__(self, samples: pa.Table, encoder: Encoder, ftrl: Ftrl, directory: Path) -> None:
        self.samples = samples
        self.encoder = encoder
        self.ftrl = ftrl
        self.directory = directory
        self.versions: list[int] = []
        self.trained: list[Trained] = []

    def decode(self, poll: Poll) -> pa.Table:
        """A message is the number of a run of samples; requests are their source."""
        runs = [int(value) for value in poll.values if value is not None]
        table = pa.concat_tables([self.samples.slice(run * ROWS, ROWS) for run in runs])
        source = np.concatenate([np.arange(run * ROWS, (run + 1) * ROWS) // 3 for run in runs])
        for name, values in (("partition", source * 0), ("offset", source), ("row", source * 0)):
            type_ = pa.int64() if name == "offset" else pa.int32()
            table = table.append_column(f"_source_{name}", pa.array(values, type_))
        rows = np.tile(np.arange(ROWS, dtype=np.int32), len(runs))
        return with_own_positions(table, poll.partition, np.repeat(poll.offsets, ROWS), rows)

    def stage(
        self,
        *,
        label: str = "clicked",
        weight: str = "importance",
        rows: pa.Schema | None = None,
        slots: SlotPolicy | None = None,
        groups: Groups | None = None,
        checkpoint_every: int = 35,
        checkpoint_delay_us: int = 300_000_000,
        publish_every: int = 10,
        full_every: int = 1,
        models_topic: str | None = None,
        gate: Gate | None = None,
        publish_delay_us: int | None = None,
        clock: Clock | None = None,
        on_evaluated: Callable[[int, Sequence[tuple[str, Metrics]]], None] | None = None,
        bounds: Bounds = unbounded,
    ) -> TrainerStage:
        evaluation = Evaluation(window=16, windows=2)
        directory = ModelDirectory(self.directory / "models", keep=100)
        return TrainerStage(
            SampleTopic("samples", self.decode, label, weight, rows),
            Recipe(self.encoder, self.ftrl, slots or SlotPolicy(), evaluation, groups or Groups()),
            Checkpointing(self.directory / "checkpoints", checkpoint_every, checkpoint_delay_us),
            Publication(
                directory, publish_every, full_every, models_topic, gate=gate or Gate(), delay_us=publish_delay_us
            ),
            listeners=TrainerListeners(self.versions.append, self.trained.append, on_evaluated),
            clock=clock,
            bounds=bounds,
        )

    def models(self) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in (self.directory / "models").iterdir()}


def poll(first: int, end: int, partition: int = 0) -> Poll:
    offsets = np.arange(first, end, dtype=np.int64)
    values = [str(ORDER[offset]).encode() for offset in range(first, end)]
    return Poll("samples", partition, offsets, offsets * 0, [None] * len(values), values, [()] * len(values))


def polls(cuts: Sequence[int]) -> list[Poll]:
    return [poll(a, b) for a, b in pairwise([0, *sorted(set(cuts) - {0, MESSAGES}), MESSAGES])]


class Crash(Exception):
    """Thrown in where a worker dies."""


async def drive(stage: TrainerStage, todo: Sequence[Poll], crash_at: int | None = None, *, after: bool = False) -> None:
    """What the runtime does; the worker dies at its ``crash_at``-th work, before or ``after`` the commit."""
    await stage.start()
    start = stage.resume("samples").get(0, 0)
    count = 0
    for each in todo:
        part = each.since(start)
        if len(part) == 0:
            continue
        async for work in stage.handle(part):
            dies = count == crash_at
            count += 1
            if dies and not after:
                raise Crash
            assert work.commit is not None
            await asyncio.to_thread(work.commit)
            if dies:
                raise Crash
    await stage.stop()


def run(stage: TrainerStage, todo: Sequence[Poll], crash_at: int | None = None, *, after: bool = False) -> None:
    asyncio.run(drive(stage, todo, crash_at, after=after))
