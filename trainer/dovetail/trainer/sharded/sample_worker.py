"""A worker of a model by samples: it asks the shards for the weights of a mini-batch, and sends them its gradients."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from dovetail.platform.errors import ModelError
from dovetail.trainer.arithmetic import Float32, Int64
from dovetail.trainer.losses import LOGISTIC
from dovetail.trainer.modes import gradients_of
from dovetail.trainer.optimizers.sums import distinct_slots
from dovetail.trainer.samples.encoding import Encoded
from dovetail.trainer.sharded.batch_messages import BatchErrors, BatchPart, PartWeights
from dovetail.trainer.sharded.ring import Ring

__all__ = ["Computed", "SampleWorker", "worker_of"]


def worker_of(number: int, workers: int) -> int:
    """The worker, counted from 0, that batch ``number`` is of: batches go round among ``workers``."""
    return (number - 1) % workers


class Computed(NamedTuple):
    """A batch that was predicted."""

    number: int
    #: float32 [n].
    predictions: Float32
    #: By shard, the gradients of the slots of its part.
    errors: list[BatchErrors]


class _Begun(NamedTuple):
    """A batch whose weights are asked for."""

    #: Its inputs by place among the distinct slots of all parts, in the order of shards; what is absent is behind all.
    encoded: Encoded
    labels: Float32
    weights: Float32
    #: How many slots each shard was asked for: int64 [shards].
    asked: Int64


class SampleWorker:
    """Worker ``number`` of ``workers`` over the slots of ``ring``; all its batches up to number ``done`` are done.

    Each distinct slot of a batch is asked for once, and its gradients are summed here, in float64 and in the order of
    examples, and rounded once: the sum that :func:`~dovetail.trainer.modes.train_batch` gives the optimizer. So with
    the same weights what a shard applies is the same, bit for bit.

    Its batches are done in their order. What is begun is not kept: who goes on from ``done`` begins it again.
    """

    def __init__(self, ring: Ring, number: int, workers: int, *, loss: int = LOGISTIC, done: int = 0) -> None:
        self.ring = ring
        self.number = number
        self.workers = workers
        self.loss = loss
        #: All batches of the worker up to this number are done.
        self.done = done
        self._begun: dict[int, _Begun] = {}
        self._answers: dict[int, dict[int, PartWeights]] = {}

    @property
    def next(self) -> int:
        """The number of the batch that is to be done next."""
        return self.done + 1 + (self.number - worker_of(self.done + 1, self.workers)) % self.workers

    def begin(
        self, number: int, encoded: Encoded, labels: Float32, weights: Float32, version: int = 0
    ) -> list[BatchPart]:
        """The parts by which the shards are asked for the weights of batch ``number``; none when it is begun or done.

        :raises ModelError: the batch is another worker's.
        """
        if worker_of(number, self.workers) != self.number:
            raise ModelError(
                f"worker {self.number} of {self.workers} was dealt batch {number}, which is of worker "
                f"{worker_of(number, self.workers)}; partitions differ"
            )
        if number <= self.done or number in self._begun:
            return []
        slots, which = distinct_slots(*encoded)
        owners, local = self.ring.locals_of(slots)
        order = np.argsort(owners, kind="stable")
        places = np.empty(len(slots) + 1, np.uint32)
        places[order] = np.arange(len(slots), dtype=np.uint32)
        places[-1] = len(slots)
        asked = np.bincount(owners, minlength=self.ring.shards)
        mine = Encoded(places[which], encoded.values.copy())
        self._begun[number] = _Begun(mine, labels, weights, asked)
        parts = np.split(local[order], np.cumsum(asked)[:-1])
        return [BatchPart(number, shard, None, part, None, version=version) for shard, part in enumerate(parts)]

    def take(self, answer: PartWeights) -> list[Computed]:
        """Take the answer of a shard in; returns the batches that can be done now, in order.

        :raises ModelError: an example was refused, as by :meth:`Optimizer.train`, or an answer does not fit. Nothing of
            its batch is trained then, anywhere.
        """
        if answer.number > self.done:
            self._answers.setdefault(answer.number, {}).setdefault(answer.shard, answer)
        done: list[Computed] = []
        while True:
            number = self.next
            if number not in self._begun or len(self._answers.get(number, ())) < self.ring.shards:
                return done
            done.append(self._compute(number, self._begun[number], self._answers[number]))
            self.done = number
            del self._begun[number], self._answers[number]

    def _compute(self, number: int, batch: _Begun, answers: dict[int, PartWeights]) -> Computed:
        counts = [len(answers[shard].weights) for shard in sorted(answers)]
        if counts != batch.asked.tolist():
            raise ModelError(
                f"batch {number} asks the shards for {batch.asked.tolist()} weights, and {sorted(answers)} answered "
                f"{counts}; worker and shards have different rings"
            )
        count = int(batch.asked.sum())
        # As if they were all the model: of a power of two, and with one more, of weight 0, for what is absent.
        pulled = np.zeros((1 << count.bit_length(), 1), np.float32)
        pulled[:count, 0] = np.concatenate([answers[shard].weights for shard in sorted(answers)])
        try:
            predictions, gradients = gradients_of(pulled, batch.encoded, batch.labels, batch.weights, self.loss)
        except ModelError as error:
            raise ModelError(f"batch {number}: {error}") from error
        # Sums in float64, in the order of examples and inputs, as :func:`sums_by_slot` has them.
        sums = np.bincount(batch.encoded.slots.ravel(), gradients.ravel(), minlength=count + 1)[:count]
        with np.errstate(over="ignore"):
            rounded = sums.astype(np.float32)
        errors = np.split(rounded, np.cumsum(batch.asked)[:-1])
        return Computed(number, predictions, [BatchErrors(number, each) for each in errors])
