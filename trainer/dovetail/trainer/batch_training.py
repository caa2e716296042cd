"""Training on stored samples: the same pass as the stream's, over any iterable of tables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from dovetail.platform.errors import ConfigError
from dovetail.trainer.arithmetic import Float32
from dovetail.trainer.learner import Learner
from dovetail.trainer.metrics.measures import Metrics
from dovetail.trainer.metrics.progressive import Evaluation
from dovetail.trainer.optimizers.optimizer import Optimizer
from dovetail.trainer.samples.encoding import Encoder
from dovetail.trainer.sharded.one_process import ShardedTrainer

__all__ = ["Schedule", "batches", "shuffled", "train", "train_passes"]


@dataclass(frozen=True, slots=True)
class Schedule:
    """How stored samples are gone through.

    :raises ConfigError: a number is out of range, or mini-batches and threads are asked for together.
    """

    passes: int = 1
    #: Rows shuffled among one another; 0 keeps the order, a number above the number of samples shuffles them all.
    shuffle_rows: int = 0
    seed: int = 0
    #: Rows per mini-batch; 0 trains example by example.
    batch: int = 0
    #: Threads without locks, not deterministic; 0 trains in this one.
    threads: int = 0
    #: Shards that mini-batches are trained on, by a :class:`~dovetail.trainer.sharded.one_process.ShardedTrainer`.
    shards: int = 0
    #: Batches before a batch that its weights may lack; None is no bound.
    staleness: int | None = 0

    def __post_init__(self) -> None:
        if self.passes < 1:
            raise ConfigError(f"passes = {self.passes}: training needs passes >= 1")
        for name, number in (("shuffle_rows", self.shuffle_rows), ("batch", self.batch), ("threads", self.threads)):
            if number < 0:
                raise ConfigError(f"{name} = {number}: give a number from 0 up")
        if self.batch and self.threads:
            raise ConfigError("training in mini-batches has one thread; give either batch or threads")
        if self.shards and not self.batch:
            raise ConfigError("shards train in mini-batches; say how many rows one has: --batch 1024")
        if not self.shards and self.staleness != 0:
            raise ConfigError("staleness is between shards; say how many there are: --shards 4")


def train(
    tables: Iterable[pa.Table],
    *,
    encoder: Encoder,
    optimizer: Optimizer,
    label: str,
    weight: str | None = None,
    evaluation: Evaluation | None = None,
    records: Float32 | None = None,
) -> Learner:
    """Predict, then train on, every row of ``tables`` once, in order; one table is in memory at a time.

    ``records`` starts from an earlier state, such as :meth:`Optimizer.hot_start` gives; it is changed in place. The
    result equals that of a trainer stage fed the same rows, however either cuts them.

    :raises WireError: a table lacks a column or has one of a wrong type.
    :raises ModelError: an example was refused, see :meth:`Optimizer.train`.
    """
    learner = Learner(encoder, optimizer, label=label, weight=weight, evaluation=evaluation, records=records)
    for table in tables:
        learner.learn(table)
    return learner


def train_passes(
    learner: Learner,
    tables: Callable[[], Iterable[pa.Table]],
    schedule: Schedule,
    staleness_seen: Counter[int] | None = None,
) -> tuple[list[tuple[str, Metrics]], list[float]]:
    """Train ``learner`` in several passes; ``tables()`` begins one.

    With shards, the next pass begins when all errors of the last one are applied, and how many batches were predicted
    that many behind is added to ``staleness_seen``.

    Returns the progressive metrics of the first pass (:meth:`Learner.metrics`: the first is the total), and the mean
    loss of each pass (:attr:`Metrics.mean_loss`). From the second on, every label has been seen: such losses tell that
    training converges, not how good the model is. Each pass has its own order, a function of ``seed`` and its number.

    :raises WireError: as :func:`train`.
    :raises ModelError: as :func:`train`.
    """
    first: list[tuple[str, Metrics]] = []
    losses = []
    before = learner.evaluation.total()
    for number in range(schedule.passes):
        rows = shuffled(tables(), schedule.shuffle_rows, seed=(schedule.seed, number))
        if schedule.batch:
            sharded = _sharded(learner, schedule, number)
            for table in batches(rows, schedule.batch):
                learner.learn_batch(table, sharded)
            if sharded is not None:
                sharded.finish()
                if staleness_seen is not None:
                    staleness_seen.update(sharded.staleness_seen)
        else:
            for table in rows:
                if schedule.threads:
                    learner.learn_hogwild(table, schedule.threads)
                else:
                    learner.learn(table)
        total = learner.evaluation.total()
        first = first or learner.metrics()
        weight = total.weight - before.weight
        loss = (total.mean_loss or 0.0) * total.weight - (before.mean_loss or 0.0) * before.weight
        losses.append(loss / weight if weight else float("nan"))
        before = total
    return first, losses


def _sharded(learner: Learner, schedule: Schedule, number: int) -> ShardedTrainer | None:
    if not schedule.shards:
        return None
    return ShardedTrainer(
        learner.records, learner.optimizer, shards=schedule.shards, staleness=schedule.staleness,
        loss=learner.encoder.loss_code, seed=(schedule.seed, number),
    )  # fmt: skip


def shuffled(tables: Iterable[pa.Table], rows: int, *, seed: int | tuple[int, ...]) -> Iterator[pa.Table]:
    """The rows of ``tables``, each ``rows`` consecutive ones in a random order of their own; as they are when 0.

    The order is a function of ``seed`` and of the rows' order, not of how they are cut. Up to ``rows`` rows, and one
    table, are in memory.
    """
    if rows == 0:
        yield from tables
        return
    random = np.random.default_rng(seed)
    for block in batches(tables, rows):
        yield block.take(pa.array(random.permutation(block.num_rows)))


def batches(tables: Iterable[pa.Table], rows: int) -> Iterator[pa.Table]:
    """The rows of ``tables`` in tables of exactly ``rows`` rows; the last one may be shorter."""
    held: list[pa.Table] = []
    count = 0
    for table in tables:
        rest = table
        while count + rest.num_rows >= rows:
            held.append(rest.slice(0, rows - count))
            rest = rest.slice(rows - count)
            yield pa.concat_tables(held)
            held, count = [], 0
        if rest.num_rows:
            held.append(rest)
            count += rest.num_rows
    if held:
        yield pa.concat_tables(held)
