"""Ways to train other than example by example: mini-batches, and threads without locks."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from dovetail.platform.compiling import compiled_as_ieee
from dovetail.platform.errors import ConfigError
from dovetail.trainer.arithmetic import Float32, UInt32
from dovetail.trainer.losses import LOGISTIC
from dovetail.trainer.optimizers.example import predict_example, prefetch_example
from dovetail.trainer.optimizers.optimizer import Optimizer
from dovetail.trainer.samples.encoding import Encoded
from dovetail.trainer.samples.memory import AHEAD

__all__ = ["gradients_of", "train_batch", "train_hogwild"]


def train_batch(
    optimizer: Optimizer, records: Float32, encoded: Encoded, labels: Float32, weights: Float32, loss: int = LOGISTIC
) -> Float32:
    """Train on all examples as one mini-batch; returns their predictions, float32 [n].

    Every example is predicted at the weights the batch began with. Then each slot is updated once, with the sum of its
    gradients over the batch (:class:`~dovetail.trainer.optimizers.delay.DelayCompensated` updates it once per
    occurrence instead). The result is deterministic and depends on which rows make up a batch, but not on their order,
    to the rounding of the sums. Larger batches learn less per example: one update stands for many.

    :raises ModelError: as :meth:`Optimizer.train`; nothing of this batch was trained.
    """
    slots, values = encoded
    optimizer.require_shapes(records, slots, values, labels, weights)
    predictions, gradients = gradients_of(records, encoded, labels, weights, loss)
    if len(labels):
        optimizer.apply_stale(records, slots.ravel(), gradients.ravel())
    return predictions


def gradients_of(
    records: Float32, encoded: Encoded, labels: Float32, weights: Float32, loss: int = LOGISTIC
) -> tuple[Float32, Float32]:
    """The predictions of all examples at the weights that ``records`` have, [n], and each input's gradient, [n, k].

    :raises ModelError: as :meth:`Optimizer.train`.
    """
    slots, values = encoded
    predictions = np.empty(len(labels), np.float32)
    gradients = np.empty(slots.shape, np.float32)
    done = _gradients(records, slots, values, labels, weights, predictions, gradients, loss)
    if done < len(labels):
        raise Optimizer.refusal(len(records), encoded, labels, weights, done, loss)
    return predictions, gradients


def train_hogwild(
    optimizer: Optimizer,
    records: Float32,
    encoded: Encoded,
    labels: Float32,
    weights: Float32,
    *,
    threads: int,
    loss: int = LOGISTIC,
) -> Float32:
    """Train in ``threads`` threads on one shared table, without locks; returns the predictions, float32 [n].

    **Not deterministic** (Niu, Recht, Ré, Wright, "Hogwild!", NIPS 2011): threads read records that others are writing
    and now and then undo one another's update of a slot. Two runs give two models, a resumed run does not equal an
    uninterrupted one, and predictions are no longer made strictly before their successors' training. For offline
    training only. Thread i trains on rows i, i + threads, i + 2·threads, …

    :raises ConfigError: ``threads`` is below 1.
    :raises ModelError: as :meth:`Optimizer.train`; other rows have been trained: throw the state away.
    """
    if threads < 1:
        raise ConfigError(f"hogwild training needs at least one thread, got {threads}")
    slots, values = encoded
    optimizer.require_shapes(records, slots, values, labels, weights)
    predictions = np.empty(len(labels), np.float32)

    def work(first: int) -> None:
        mine = slice(first, None, threads)
        part = Encoded(np.ascontiguousarray(slots[mine]), np.ascontiguousarray(values[mine]))
        given = np.ascontiguousarray(labels[mine]), np.ascontiguousarray(weights[mine])
        predictions[mine] = optimizer.train(records, part, *given, loss)

    with ThreadPoolExecutor(threads, thread_name_prefix="hogwild") as pool:
        for finished in [pool.submit(work, first) for first in range(threads)]:
            finished.result()
    return predictions


@compiled_as_ieee
def _gradients(
    records: Float32,
    slots: UInt32,
    values: Float32,
    labels: Float32,
    weights: Float32,
    predictions: Float32,
    gradients: Float32,
    loss: int,
) -> int:
    n, k = slots.shape
    for i in range(n):
        prefetch_example(records, slots[min(i + AHEAD, n - 1)])
        p, error = predict_example(records, slots[i], values[i], labels[i], weights[i], loss)
        if math.isnan(p):
            return i
        predictions[i] = p
        for j in range(k):
            gradients[i, j] = error * values[i, j]
    return int(n)
