"""Predict, then train: the one pass that the trainer stage and offline training share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise
from typing import Literal, NamedTuple, Protocol

import numpy as np
import pyarrow as pa

from dovetail.platform.errors import ConfigError, ModelError, WireError
from dovetail.platform.rows.positions import OWN_COLUMNS
from dovetail.trainer.arithmetic import Float32, Float64, UInt32
from dovetail.trainer.metrics.groups import Groups
from dovetail.trainer.metrics.measures import Metrics
from dovetail.trainer.metrics.progressive import Evaluation
from dovetail.trainer.metrics.rankings import RankingPolicy, Rankings, scoped_metrics
from dovetail.trainer.modes import train_batch, train_hogwild
from dovetail.trainer.optimizers.optimizer import WEIGHT, Optimizer
from dovetail.trainer.samples.columns import number_column
from dovetail.trainer.samples.encoding import Encoded, Encoder, Room
from dovetail.trainer.samples.holdout import NOTHING_HELD_OUT, Holdout
from dovetail.trainer.slots import SlotPolicy, SlotState

__all__ = ["Absent", "BatchTrainer", "Learner", "Weights", "column_of_numbers", "labels_and_weights", "with_labels"]

#: What becomes of a row whose label is NULL.
Absent = Literal["refuse", "zero", "skip"]


# Rows encoded, then trained on, while what they were encoded to is still in a cache. Fewer, and the calls per column
# show: at 4,096 rows of 39 inputs training from columns takes 10 % longer.
_BLOCK = 16_384


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
        self.encoder = encoder
        self.optimizer = optimizer
        self.label = label
        self.weight = weight
        self.absent: Absent = absent
        self.holdout = holdout
        self.evaluation = Evaluation(loss=encoder.loss) if evaluation is None else evaluation
        self.groups = Groups(loss=encoder.loss) if groups is None else groups
        if {self.evaluation.loss, self.groups.loss} != {encoder.loss}:
            raise ConfigError(
                f"a model of {encoder.loss} loss is evaluated as one of {self.evaluation.loss} and, in groups, "
                f"{self.groups.loss} loss; give all the same"
            )
        self.rankings = Rankings(ranking or RankingPolicy(), self.evaluation, self.groups)
        self.slots = SlotState(slots or SlotPolicy(), encoder.bits)
        self.records = optimizer.new_records(encoder.bits) if records is None else records
        self.moments = encoder.new_moments() if moments is None else moments
        self._room: Room | None = None
        if records is not None:
            self.slots.admit_weights(records)

    @property
    def trained(self) -> int:
        """Rows seen, ever, also those that a holdout predicts only; kept by the evaluation and restored with it."""
        return self.evaluation.samples

    def metrics(self) -> list[tuple[str, Metrics]]:
        """The metrics of the predictions so far, see :func:`~dovetail.trainer.metrics.rankings.scoped_metrics`."""
        return scoped_metrics(self.evaluation, self.groups, self.rankings)

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
        every_label, every_weight = labels_and_weights(table, self.label, self.weight, self.absent)
        table, held = self.holdout.mark(table)
        learnt_weight = np.where(held, np.float32(0), every_weight)
        predictions = np.empty(table.num_rows, np.float32)
        for rows, day in self._parts(table, forget or self._forget, whole=whole):
            cut = slice(rows.start, rows.stop)
            part, labels, weights = table.slice(rows.start, len(rows)), every_label[cut], every_weight[cut]
            learnt = learnt_weight[cut]
            encoded = self.encoder.encode(part, self.moments, learnt, self._room_for(part))
            if not self.slots.policy.idle:
                self.slots.admit(encoded, learnt, self.trained, day)
            try:
                predicted = train(encoded, labels, learnt)
            except ModelError as error:
                raise ModelError(f"rows {rows.start} to {rows.stop - 1} of the table: {error}") from error
            first = self.trained
            self.evaluation.add(predicted, labels, weights)
            places = self.groups.add(part, predicted, labels, weights)
            self.rankings.add(part, first, predicted, labels, places)
            predictions[cut] = predicted
        return predictions

    def _parts(self, table: pa.Table, forget: Callable[[UInt32], None], *, whole: bool) -> Iterator[tuple[range, int]]:
        """The rows of ``table`` by days, see :meth:`_days`, and unless ``whole`` in blocks."""
        for rows, day in self._days(table, forget):
            step = max(1, len(rows) if whole else _BLOCK)
            for start in range(rows.start, max(rows.start + 1, rows.stop), step):
                yield range(start, min(start + step, rows.stop)), day

    def _room_for(self, part: pa.Table) -> Room | None:
        """Memory to encode ``part`` in, kept from one part to the next; none for what is larger than a block."""
        rows = part.num_rows
        if rows <= _BLOCK and (self._room is None or self._room.rows < rows):
            self._room = self.encoder.room(min(_BLOCK, 2 * rows))
        return self._room

    def _days(self, table: pa.Table, forget: Callable[[UInt32], None]) -> Iterator[tuple[range, int]]:
        """Rows cut where a new newest day begins, with that day; all, with day 1, when nothing expires."""
        policy = self.slots.policy
        if not policy.expire_days:
            yield range(table.num_rows), 1
            return
        days = self.slots.days(column_of_numbers(table, policy.time, "time").astype(np.int64))
        starts = self.slots.boundaries(days)
        for start, end in pairwise(sorted({0, *starts, table.num_rows})):
            if start in starts:
                forget(self.slots.sweep(int(days[start])))
            yield range(start, end), self.slots.newest_day


def labels_and_weights(
    table: pa.Table, label: str, weight: str | None, absent: Absent = "refuse"
) -> tuple[Float32, Float32]:
    """Labels and weights of rows, float32 [n] each, as :func:`with_labels`; without a ``weight`` column, weights of 1.

    :raises WireError: a column is absent or not numeric, or a value is NULL and may not be.
    """
    weights = np.ones(table.num_rows, np.float32)
    if weight is not None:
        weights = column_of_numbers(table, weight, "sample weight").astype(np.float32)
    return with_labels(table, label, weights, absent)


def with_labels(table: pa.Table, column: str, weights: Float32, absent: Absent) -> tuple[Float32, Float32]:
    """Labels and weights of rows, float32 [n] each; those whose label is NULL or NaN as ``absent`` says.

    ``zero``: their label is 0. ``skip``: they weigh nothing, so they are predicted and change nothing.

    :raises WireError: the column is absent or not numeric, or a label is NULL and may not be.
    """
    if absent == "refuse":
        return column_of_numbers(table, column, "label").astype(np.float32), weights
    numbers = column_of_numbers(table, column, "label", nulls=True)
    missing = np.isnan(numbers)
    labels = np.where(missing, 0.0, numbers).astype(np.float32)
    return labels, np.where(missing, np.float32(0), weights) if absent == "skip" else weights


def column_of_numbers(table: pa.Table, column: str, role: str, *, nulls: bool = False) -> Float64:
    """A column that every row must have a number in, unless it may have ``nulls``, which are NaN: float64 [n].

    :raises WireError: it is absent or not numeric, or a value is NULL or NaN and may not; says in which row.
    """
    if column not in table.column_names:
        raise WireError(f"the table lacks the {role} column {column!r}; it has {table.column_names}")
    chunks = [number_column(chunk, column=column) for chunk in table.column(column).chunks]
    numbers = np.concatenate([np.empty(0), *chunks])
    lost = np.flatnonzero(np.isnan(numbers))
    if len(lost) and not nulls:
        row = int(lost[0])
        own = [name for name in OWN_COLUMNS if name in table.column_names]
        where = ", ".join(f"{name} {table.column(name)[row].as_py()}" for name in own) or f"row {row}"
        raise WireError(
            f"the {role} column {column!r} is NULL or NaN at {where} ({len(lost)} such rows in the table); "
            "filter these rows out or give them a value where samples are made"
        )
    return numbers
