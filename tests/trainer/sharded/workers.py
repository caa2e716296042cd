"""Splitter, shards and reducer as workers that exchange messages, in an order that a test draws."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from dovetail.trainer.arithmetic import Float32
from dovetail.trainer.learner import Weights
from dovetail.trainer.optimizers.optimizer import Optimizer
from dovetail.trainer.samples.encoding import Encoded
from dovetail.trainer.sharded.assembly import Assembly, gather_records, records_of
from dovetail.trainer.sharded.batch_messages import (
    BatchErrors,
    BatchHeader,
    BatchMessage,
    BatchPart,
    ModelPiece,
    PartWeights,
    decode,
    encode,
)
from dovetail.trainer.sharded.reducer import Reducer
from dovetail.trainer.sharded.ring import Ring
from dovetail.trainer.sharded.shard import Shard
from dovetail.trainer.sharded.splitter import Split, Splitter

BITS = 9

#: A batch as a trainer is given it.
Batch = tuple[Encoded, Float32, Float32]


def some_batches(n: int, seed: int, rows: int = 24, inputs: int = 6) -> list[Batch]:
    """Batches of examples with repeated slots, absent inputs, numbers and rows of weight 0."""
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(n):
        slots = (rng.zipf(1.3, (rows, inputs)) % (1 << BITS)).astype(np.uint32)
        values = rng.choice([0.0, 1.0, 1.0, 1.0], (rows, inputs)).astype(np.float32)
        values[:, 2] = rng.normal(size=rows)
        labels = (rng.random(rows) < 0.2 + 0.6 * (slots[:, 0] % 2)).astype(np.float32)
        made.append((Encoded(slots, values), labels, rng.choice([0.0, 1.0, 2.0], rows).astype(np.float32)))
    return made


@dataclass
class Workers:
    """Workers whose messages lie in boxes until they are delivered, in any order, and maybe again."""

    optimizer: Optimizer
    shards: int
    staleness: int | None
    bits: int = BITS
    #: By batch and shard, how many batches before it the weights that were answered lacked.
    lacked: dict[tuple[int, int], int] = field(default_factory=dict)
    predictions: dict[int, Float32] = field(default_factory=dict)
    versions: dict[int, Weights] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.ring = Ring(self.shards, self.bits)
        self.splitter = Splitter(self.ring)
        records = self.optimizer.new_records(self.bits)
        self.members = [
            Shard(self.ring, shard, self.optimizer, self.staleness, records_of(self.ring, shard, records))
            for shard in range(self.shards)
        ]
        self.reducer = Reducer()
        self.assembly = Assembly(self.shards)
        self.boxes: list[tuple[int, bytes]] = []
        #: Everything that was ever sent to a shard, in order: its topics.
        self.log: list[list[bytes]] = [[] for _ in range(self.shards)]

    def send(self, split: Split) -> None:
        """Put the messages of a batch into their boxes."""
        self._post(-1, split.header)
        for part in split.parts:
            self._post(part.shard, part)

    def _post(self, to: int, message: BatchMessage) -> None:
        data = encode(message)
        self.boxes.append((to, data))
        if to >= 0:
            self.log[to].append(data)

    def deliver(self, at: int, *, keep: bool = False) -> None:
        """Deliver the message at ``at`` among those in boxes; with ``keep`` it will be delivered again."""
        to, data = self.boxes[at] if keep else self.boxes.pop(at)
        self.hand_over(to, data)

    def hand_over(self, to: int, data: bytes) -> None:
        """Have a shard, or the reducer (-1), take a message, and send what comes of it."""
        message = decode(data)
        if to < 0:
            assert isinstance(message, BatchHeader | PartWeights)
            for reduced in self.reducer.take(message):
                self.predictions[reduced.errors.number] = reduced.predictions
                for shard in range(self.shards):
                    self._post(shard, reduced.errors)
            return
        assert isinstance(message, BatchPart | BatchErrors)
        for sent in self.members[to].take(message):
            if isinstance(sent, ModelPiece):
                if (whole := self.assembly.take(sent)) is not None:
                    self.versions[whole[0]] = whole[1]
                continue
            self.lacked.setdefault((sent.number, sent.shard), sent.number - 1 - sent.applied)
            self._post(-1, sent)

    def run(self, choose: Callable[[int], int], repeat: Callable[[], bool] = lambda: False) -> None:
        """Deliver all that is under way; ``choose(n)`` says which of n messages is next."""
        while self.boxes:
            self.deliver(choose(len(self.boxes)), keep=repeat())

    def records(self) -> Float32:
        """The records of the whole model."""
        whole = self.optimizer.new_records(self.bits)
        for shard in self.members:
            gather_records(self.ring, shard.number, shard.records, whole)
        return whole
