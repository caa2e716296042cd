"""Predict, then train: the one pass that the trainer stage and offline training share."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple, Protocol

import numpy as np
import pyarrow as pa

from dovetail.platform.errors import ModelError
from dovetail.trainer.arithmetic import Float32, Float64, UInt32
from dovetail.trainer.evaluating import Evaluator
from dovetail.trainer.metrics.groups import Groups
from dovetail.trainer.metrics.measures import Metrics
from dovetail.trainer.metrics.progressive import Evaluation
from dovetail.trainer.metrics.rankings import RankingPolicy, Rankings
from dovetail.trainer.modes import train_batch, train_hogwild
from dovetail.trainer.optimizers.optimizer import WEIGHT, Optimizer
from dovetail.trainer.preparing import Preparation
from dovetail.trainer.samples.encoding import Encoded, Encoder
from dovetail.trainer.samples.holdout import NOTHING_HELD_OUT, Holdout
from dovetail.trainer.samples.label_columns import Absent
from dovetail.trainer.slots import SlotPolicy, SlotState

__all__ = ["BatchTrainer", "Learner", "Weights"]


class Weights(NamedTuple):
    """A model that can serve and cannot resume: the non-zero weights, by ascending slot."""

    slots: np.ndarray[tuple[int], np.dtype[np.uint32]]
    weights: np.ndarray[tuple[int], np.dtype[np.float32]]


class BatchTrainer(Protocol):
    """A trainer of mini-batches that keeps the records itself, such as one that has them on shards."""

    def forget(self, slots: UInt32) -> None:
        """Forget the records of ``slots`` before the next batch."""

    def train(self, encoded: Encoded, labels: Float32, weights: Float32) -> Float32:
        """Predict a mini-batch and train on it, now or later; returns the predictions, float32 [n]."""


class Learner:
    """A model being trained: optimizer records, moments, slots admitted, and the evaluation of its predictions.

    State after a row depends on the rows before it and their order alone, not on how they are cut into tables.
    Not safe to use from two threads at once.
    """

    def __init__(
        self,
        encoder: Encoder,
        optimizer: Optimizer,
        *,
        label: str,
        weight: str | None = None,
        absent: Absent = "refuse",
        evaluation: Evaluation | None = None,
        groups: Groups | None = None,
        ranking: RankingPolicy | None = None,
        slots: SlotPolicy | None = None,
        holdout: Holdout = NOTHING_HELD_OUT,
        records: Float32 | None = None,
        moments: Float64 | None = None,
    ) -> None:
        """``absent``: what becomes of rows whose label is NULL. Of ``holdout``, rows are predicted only.

        :raises ConfigError: evaluation and groups are of another loss than the encoder's.
        """
        self.evaluator = Evaluator(encoder.loss, evaluation, groups, ranking)
        self.preparation = Preparation(
            encoder, label=label, weight=weight, absent=absent, slots=slots, holdout=holdout, moments=moments,
            prepared=self.evaluator.evaluation.samples,
        )  # fmt: skip
        self.optimizer = optimizer
        self.records = optimizer.new_records(encoder.bits) if records is None else records
        if records is not None:
            self.slots.admit_weights(records)

    @property
    def encoder(self) -> Encoder:
        """How rows become slots and values."""
        return self.preparation.encoder

    @property
    def moments(self) -> Float64:
        """Moments of standardised inputs, float64 [inputs, 3]."""
        return self.preparation.moments

    @property
    def slots(self) -> SlotState:
        """The slots that may learn."""
        return self.preparation.slots

    @property
    def evaluation(self) -> Evaluation:
        """The evaluation of the predictions."""
        return self.evaluator.evaluation

    @property
    def groups(self) -> Groups:
        """Their evaluation by time and slices."""
        return self.evaluator.groups

    @property
    def rankings(self) -> Rankings:
        """Their evaluation by requests."""
        return self.evaluator.rankings

    @property
    def trained(self) -> int:
        """Rows seen, ever, also those that a holdout predicts only; kept by the evaluation and restored with it."""
        return self.evaluation.samples

    def metrics(self) -> list[tuple[str, Metrics]]:
        """The metrics of the predictions so far, see :func:`~dovetail.trainer.metrics.rankings.scoped_metrics`."""
        return self.evaluator.metrics()

    def learn(self, table: pa.Table) -> Float32:
        """Predict, then train on, every row in order; returns the predictions, float32 [n].

        :raises WireError: label, weight, time, slice, request or input columns are absent, of a wrong type, or label,
            weight or time is NULL.
        :raises ModelError: an example was refused, see :meth:`Optimizer.train`. The learner must then be thrown away.
        """
        return self._learn(table, partial(self.optimizer.train, self.records, loss=self.encoder.loss_code))

    def learn_batch(self, table: pa.Table, trainer: BatchTrainer | None = None) -> Float32:
        """All of ``table`` as one mini-batch, see :func:`~dovetail.trainer.modes.train_batch`.

        With a ``trainer`` it is the one that trains, and :attr:`records` are its to bring back.
        """
        train = partial(train_batch, self.optimizer, self.records, loss=self.encoder.loss_code)
        if trainer is not None:
            return self._learn(table, trainer.train, forget=trainer.forget, whole=True)
        return self._learn(table, train, whole=True)

    def learn_hogwild(self, table: pa.Table, threads: int) -> Float32:
        """In ``threads`` threads and not deterministic, see :func:`~dovetail.trainer.modes.train_hogwild`."""
        loss = self.encoder.loss_code
        return self._learn(table, partial(train_hogwild, self.optimizer, self.records, threads=threads, loss=loss))

    def predict(self, table: pa.Table) -> Float32:
        """Predictions without training, float32 [n].

        :raises WireError: input columns are absent or of a wrong type.
        """
        labels = np.zeros(table.num_rows, np.float32)
        # Examples of weight 0 are predicted and change nothing.
        encoded = self.encoder.encode(table, self.moments)
        return self.optimizer.train(self.records, encoded, labels, labels, self.encoder.loss_code)

    def weights(self) -> Weights:
        """A copy of the non-zero weights."""
        column = self.records[:, WEIGHT]
        slots = np.flatnonzero(column)
        return Weights(slots.astype(np.uint32), column[slots])

    def _forget(self, slots: UInt32) -> None:
        self.records[slots] = self.optimizer.blank()

    def _learn(
        self,
        table: pa.Table,
        train: Callable[[Encoded, Float32, Float32], Float32],
        *,
        forget: Callable[[UInt32], None] | None = None,
        whole: bool = False,
    ) -> Float32:
        predictions = np.empty(table.num_rows, np.float32)
        for part in self.preparation.prepare(table, whole=whole):
            rows = part.rows
            if len(part.forgotten):
                (forget or self._forget)(part.forgotten)
            try:
                predicted = train(part.encoded, part.labels, part.learnt)
            except ModelError as error:
                raise ModelError(f"rows {rows.start} to {rows.stop - 1} of the table: {error}") from error
            self.evaluator.add(part.table, predicted, part.labels, part.weights)
            predictions[rows.start : rows.stop] = predicted
        return predictions
