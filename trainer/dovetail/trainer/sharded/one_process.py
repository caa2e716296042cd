"""Splitter, shards and reducer in one process, every one as late as it may be: how a model learns on many workers."""

from __future__ import annotations

from collections import Counter, deque

import numpy as np

from dovetail.trainer.arithmetic import Float32, UInt32
from dovetail.trainer.losses import LOGISTIC
from dovetail.trainer.optimizers.optimizer import Optimizer
from dovetail.trainer.samples.encoding import Encoded
from dovetail.trainer.sharded.assembly import gather_records, records_of
from dovetail.trainer.sharded.batch_messages import BatchErrors, PartWeights
from dovetail.trainer.sharded.reducer import Reduced, Reducer
from dovetail.trainer.sharded.ring import Ring
from dovetail.trainer.sharded.shard import Shard
from dovetail.trainer.sharded.splitter import Splitter

__all__ = ["MEAN_LAG", "ShardedTrainer"]

#: Without a bound, a shard lacks the errors of so many batches on average.
MEAN_LAG = 4


class ShardedTrainer:
    """Trains ``records`` (float32 [2**bits, 4]) on ``shards`` shards, as machines would that exchange messages.

    Errors reach every shard as late as ``staleness`` allows: with a number s, a batch is always predicted by weights
    that include the batches up to s before it and no more, so that what is measured is the worst of that bound. With
    None, the errors of so many batches as is drawn from a geometric distribution reach a shard after each batch, such
    that it lacks those of 4 batches on average, and now and then of many more. The result is a function of the
    examples, their cut into batches, and these arguments.

    ``records`` are copied; :meth:`finish` brings back what became of them.

    :raises ConfigError: as :class:`Ring` and :class:`Shard`.
    """

    def __init__(
        self,
        records: Float32,
        optimizer: Optimizer,
        *,
        shards: int,
        staleness: int | None = 0,
        loss: int = LOGISTIC,
        seed: int | tuple[int, ...] = 0,
    ) -> None:
        ring = Ring(shards, len(records).bit_length() - 1)
        self._records = records
        self._splitter = Splitter(ring)
        self._reducer = Reducer(loss)
        self.shards = [
            Shard(ring, shard, optimizer, staleness, records_of(ring, shard, records)) for shard in range(shards)
        ]
        self._staleness = staleness
        self._random = np.random.default_rng(seed)
        # By shard, errors under way.
        self._under_way: list[deque[BatchErrors]] = [deque() for _ in range(shards)]
        #: How many batches were predicted by weights of which the oldest lacked so many batches.
        self.staleness_seen: Counter[int] = Counter()

    def forget(self, slots: UInt32) -> None:
        """Forget ``slots`` before the next batch."""
        self._splitter.forget(slots)

    def train(self, encoded: Encoded, labels: Float32, weights: Float32) -> Float32:
        """Predict one mini-batch, and train on it when its errors arrive; returns the predictions, float32 [n].

        :raises ModelError: as :func:`~dovetail.trainer.modes.train_batch`.
        """
        if not len(labels):
            return np.empty(0, np.float32)
        split = self._splitter.split(encoded, labels, weights)
        reduced: list[Reduced] = self._reducer.take(split.header)
        for shard, part in zip(self.shards, split.parts, strict=True):
            for answer in shard.take(part):
                if isinstance(answer, PartWeights):
                    reduced += self._reducer.take(answer)
        (batch,) = reduced
        number = batch.errors.number
        self.staleness_seen[number - 1 - batch.applied] += 1
        for shard, under_way in zip(self.shards, self._under_way, strict=True):
            under_way.append(batch.errors)
            for _ in range(self._arriving(len(under_way))):
                shard.take(under_way.popleft())
        return batch.predictions

    def _arriving(self, under_way: int) -> int:
        if self._staleness is not None:
            return max(0, under_way - self._staleness)
        # One more is under way after each batch; where so many arrive, geometrically many stay, MEAN_LAG on average.
        stops = MEAN_LAG / (1 + 2 * MEAN_LAG)
        return min(under_way, int(self._random.geometric(stops)) - 1)

    def finish(self) -> None:
        """Deliver all errors that are under way, and write the shards' records to those that were given."""
        for shard, under_way in zip(self.shards, self._under_way, strict=True):
            for errors in under_way:
                shard.take(errors)
            under_way.clear()
            gather_records(shard.ring, shard.number, shard.records, self._records)
