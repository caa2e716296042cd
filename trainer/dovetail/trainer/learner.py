"""Predict, then train: the one pass that the trainer stage and offline training share."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pyarrow as pa

from dovetail.platform.errors import WireError
from dovetail.platform.positions import OWN_COLUMNS
from dovetail.trainer.columns import number_column
from dovetail.trainer.encoding import Encoder
from dovetail.trainer.evaluation import Evaluation
from dovetail.trainer.kernels import Float32
from dovetail.trainer.optimizers.base import WEIGHT, Optimizer

__all__ = ["Learner", "Weights"]


class Weights(NamedTuple):
    """A model that can serve and cannot resume: the non-zero weights, by ascending slot."""

    slots: np.ndarray[tuple[int], np.dtype[np.uint32]]
    weights: np.ndarray[tuple[int], np.dtype[np.float32]]


class Learner:
    """A model being trained: optimizer records, and the evaluation of the predictions made on the way.

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
        evaluation: Evaluation | None = None,
        records: Float32 | None = None,
    ) -> None:
        self.encoder = encoder
        self.optimizer = optimizer
        self.label = label
        self.weight = weight
        self.evaluation = Evaluation() if evaluation is None else evaluation
        self.records = optimizer.new_records(encoder.bits) if records is None else records

    @property
    def trained(self) -> int:
        """Rows trained on, ever; kept by the evaluation and restored with it."""
        return self.evaluation.samples

    def learn(self, table: pa.Table) -> Float32:
        """Predict, then train on, every row in order; returns the predictions, float32 [n].

        :raises WireError: label, weight or input columns are absent, of a wrong type, or label or weight is NULL.
        :raises ModelError: an example was refused, see :meth:`Optimizer.train`. The learner must then be thrown away.
        """
        labels = self._numbers(table, self.label, "label")
        weights = np.ones(len(labels), np.float32)
        if self.weight is not None:
            weights = self._numbers(table, self.weight, "sample weight")
        predictions = self.optimizer.train(self.records, self.encoder.encode(table), labels, weights)
        self.evaluation.add(predictions, labels, weights)
        return predictions

    def weights(self) -> Weights:
        """A copy of the non-zero weights."""
        column = self.records[:, WEIGHT]
        slots = np.flatnonzero(column)
        return Weights(slots.astype(np.uint32), column[slots])

    @staticmethod
    def _numbers(table: pa.Table, column: str, role: str) -> Float32:
        if column not in table.column_names:
            raise WireError(f"the table lacks the {role} column {column!r}; it has {table.column_names}")
        chunks = [number_column(chunk, column=column) for chunk in table.column(column).chunks]
        numbers = np.concatenate([np.empty(0), *chunks])
        nulls = np.flatnonzero(np.isnan(numbers))
        if len(nulls):
            row = int(nulls[0])
            own = [name for name in OWN_COLUMNS if name in table.column_names]
            where = ", ".join(f"{name} {table.column(name)[row].as_py()}" for name in own) or f"row {row}"
            raise WireError(
                f"the {role} column {column!r} is NULL or NaN at {where} ({len(nulls)} such rows in the table); "
                "filter these rows out or give them a value where samples are made"
            )
        return numbers.astype(np.float32)
