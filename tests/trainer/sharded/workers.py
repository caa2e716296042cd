"""Who trains a model on shards, by features or by samples, exchanging messages in an order that a test draws."""

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
from dovetail.trainer.sharded.collector import Collector
from dovetail.trainer.sharded.dealt_rows import BatchPredictions
from dovetail.trainer.sharded.reducer import Reducer
from dovetail.trainer.sharded.ring import Ring
from dovetail.trainer.sharded.sample_worker import SampleWorker, worker_of
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

    def deal(self, batch: Batch, version: int = 0) -> None:
        """Give the next batch to whoever is to have it first; ``version`` is that of the model after it."""
        self.send(self.splitter.split(*batch, version=version))

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
            self._post(self.answered_to(sent), sent)

    def answered_to(self, answer: PartWeights) -> int:
        """The box that the answer of a shard goes to."""
        return -1

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


@dataclass
class WorkersBySamples(Workers):
    """Batches are dealt to workers in turns, whose boxes are -2, -3 and so on; what they predict goes to box -1."""

    workers: int = 2
    #: By number, batches and the version after each.
    batches: dict[int, tuple[Batch, int]] = field(default_factory=dict)
    #: By worker, everything that was ever sent to it.
    sent: list[list[bytes]] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.at_work = [SampleWorker(self.ring, number, self.workers) for number in range(self.workers)]
        self.sent = [[] for _ in range(self.workers)]
        self.collector = Collector()

    def deal(self, batch: Batch, version: int = 0) -> None:
        number = len(self.batches) + 1
        self.batches[number] = (batch, version)
        worker, data = worker_of(number, self.workers), b"%d" % number
        self.sent[worker].append(data)
        self.boxes.append((-2 - worker, data))

    def answered_to(self, answer: PartWeights) -> int:
        worker = worker_of(answer.number, self.workers)
        self.sent[worker].append(encode(answer))
        return -2 - worker

    def hand_over(self, to: int, data: bytes) -> None:
        if to >= 0:
            super().hand_over(to, data)
        elif to == -1:
            message = decode(data)
            assert isinstance(message, BatchPredictions)
            for made in self.collector.take(message):
                self.predictions[made.number] = made.predictions
        elif data.isdigit():
            batch, version = self.batches[int(data)]
            for part in self.at_work[-2 - to].begin(int(data), *batch, version):
                self._post(part.shard, part)
        else:
            message = decode(data)
            assert isinstance(message, PartWeights)
            for computed in self.at_work[-2 - to].take(message):
                labels = self.batches[computed.number][0][1]
                for shard, errors in enumerate(computed.errors):
                    self._post(shard, errors)
                self._post(-1, BatchPredictions(computed.number, computed.predictions, labels))
