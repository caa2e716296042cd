"""Training on stored samples: the same pass as the stream's, over any iterable of tables."""

from __future__ import annotations

from collections.abc import Iterable

import pyarrow as pa

from dovetail.trainer.encoding import Encoder
from dovetail.trainer.evaluation import Evaluation
from dovetail.trainer.kernels import Float32
from dovetail.trainer.learner import Learner
from dovetail.trainer.optimizers.base import Optimizer

__all__ = ["train"]


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
