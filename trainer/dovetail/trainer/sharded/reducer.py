"""The reducer sums the weights that shards answered, predicts, and finds the errors that go back to them."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from dovetail.platform.compiling import compiled_as_ieee
from dovetail.platform.errors import ModelError
from dovetail.trainer.arithmetic import Float32, Int32, Int64, UInt8
from dovetail.trainer.losses import LOGISTIC, is_label, prediction_of
from dovetail.trainer.optimizers.optimizer import Optimizer
from dovetail.trainer.samples.encoding import Encoded
from dovetail.trainer.sharded.batch_messages import NO_SHARD, BatchErrors, BatchHeader, PartWeights

__all__ = ["Reduced", "Reducer"]


class Reduced(NamedTuple):
    """A batch that was predicted."""

    #: float32 [n].
    predictions: Float32
    errors: BatchErrors
    #: The last batch that the oldest of its weights include.
    applied: int


class Reducer:
    """Predicts batches in their order, each when its header and the weights of all shards have come.

    The margin of an example is the sum of weight times value over its inputs, in the order of its inputs, in float64:
    the sum that :func:`~dovetail.trainer.modes.train_batch` makes. So no bit depends on how slots are placed. The first
    answer of a shard to a batch counts; one that comes again changes nothing.

    Its state is the number of the last batch: ``reduced``.
    """

    def __init__(self, loss: int = LOGISTIC, reduced: int = 0) -> None:
        self.loss = loss
        #: The last batch that was predicted.
        self.reduced = reduced
        self._headers: dict[int, BatchHeader] = {}
        self._answers: dict[int, dict[int, PartWeights]] = {}

    def take(self, message: BatchHeader | PartWeights) -> list[Reduced]:
        """Take one message in; returns the batches that can be predicted now, in order.

        :raises ModelError: an example was refused, as by :meth:`Optimizer.train`, or answers do not fit their header.
            Nothing of its batch is trained then, anywhere.
        """
        if message.number > self.reduced:
            if isinstance(message, BatchHeader):
                self._headers.setdefault(message.number, message)
            else:
                self._answers.setdefault(message.number, {}).setdefault(message.shard, message)
        done: list[Reduced] = []
        while True:
            header = self._headers.get(self.reduced + 1)
            if header is None or len(self._answers.get(header.number, ())) < header.shards:
                return done
            done.append(self._reduce(header, self._answers[header.number]))
            self.reduced = header.number
            del self._headers[header.number], self._answers[header.number]

    def _reduce(self, header: BatchHeader, answers: dict[int, PartWeights]) -> Reduced:
        ordered = [answers[shard] for shard in sorted(answers)]
        counts = np.array([len(answer.weights) for answer in ordered], np.int64)
        expected = np.bincount(header.owners.ravel(), minlength=NO_SHARD + 1)[:NO_SHARD]
        if sorted(answers) != list(range(header.shards)) or (expected[: header.shards] != counts).any():
            raise ModelError(
                f"batch {header.number} was cut for {header.shards} shards into {expected[: header.shards].tolist()} "
                f"inputs, and shards {sorted(answers)} answered {counts.tolist()}; splitter and shards have different "
                "rings"
            )
        weights = np.concatenate([answer.weights for answer in ordered])
        places = np.full(header.owners.shape[1], -1, np.int32)
        places[header.columns] = np.arange(len(header.columns))
        n = len(header.labels)
        predictions, errors = np.empty(n, np.float32), np.empty(n, np.float32)
        given = (weights, np.cumsum(counts) - counts, header.owners, places, np.ascontiguousarray(header.values))
        done = _predict(*given, header.labels, header.weights, predictions, errors, self.loss)
        if done < n:
            raise self._refusal(header, places, done)
        oldest = min(answer.applied for answer in ordered)
        return Reduced(predictions, BatchErrors(header.number, errors), oldest)

    def _refusal(self, header: BatchHeader, places: Int32, row: int) -> ModelError:
        valued = np.concatenate((header.values[row], np.ones(1, np.float32)))[places]
        values = np.where(header.owners[row] == NO_SHARD, np.float32(0), valued)[np.newaxis]
        encoded = Encoded(np.zeros(values.shape, np.uint32), values)
        one = slice(row, row + 1)
        error = Optimizer.refusal(1, encoded, header.labels[one], header.weights[one], 0, self.loss)
        return ModelError(f"batch {header.number}, example {row}: {error}")


@compiled_as_ieee
def _predict(
    part_weights: Float32,
    cursors: Int64,
    owners: UInt8,
    places: Int32,
    values: Float32,
    labels: Float32,
    weights: Float32,
    predictions: Float32,
    errors: Float32,
    loss: int,
) -> int:
    n, k = owners.shape
    for i in range(n):
        label, weight = labels[i], weights[i]
        if not (is_label(label, loss) and weight >= 0 and weight < np.inf):
            return i
        margin = 0.0
        for j in range(k):
            owner = owners[i, j]
            if owner == NO_SHARD:
                continue
            w = np.float64(part_weights[cursors[owner]])
            cursors[owner] += 1
            # A weight times 1 is itself, and so is its sum.
            margin += w if places[j] < 0 else w * np.float64(values[i, places[j]])
        p = prediction_of(margin, loss)
        if not (math.isfinite(margin) and math.isfinite(p)):
            return i
        predictions[i] = p
        errors[i] = np.float32((p - label) * weight)
    return int(n)
