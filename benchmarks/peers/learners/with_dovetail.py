"""Dovetail's FTRL kernel on encoded examples; and its learner, from columns, which encodes and evaluates, too."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.feather as feather

from dovetail.trainer.learner import Learner
from dovetail.trainer.metrics.progressive import Evaluation
from dovetail.trainer.optimizers import Ftrl
from dovetail.trainer.samples.encoding import Encoded

from .data import BITS, encoder_of

PACKAGES = ("numba", "numpy", "pyarrow")
FTRL = Ftrl(alpha=0.1, beta=1.0, l1=0.1, l2=0.1)


def begin(folder: Path, way: str) -> Callable[[], pa.Table]:
    """``slots`` or ``columns``."""
    if way == "columns":
        table = feather.read_table(str(folder / "columns.arrow"), memory_map=False)
        encoder = encoder_of(table)

        def learned() -> pa.Table:
            learner = Learner(encoder, FTRL, label="clicked", evaluation=Evaluation())
            learner.learn(table)
            loss = learner.evaluator.evaluation.total().log_loss
            return pa.table({"examples": [table.num_rows], "loss": [loss]})

        return learned
    table = feather.read_table(str(folder / "slots.arrow"), memory_map=False)
    labels = table.column("clicked").to_numpy().astype(np.float32)
    chunk = table.column("slots").combine_chunks()
    slots = np.ascontiguousarray(chunk.flatten().to_numpy().reshape(len(labels), -1))
    encoded = Encoded(slots, np.ones(slots.shape, np.float32))
    weights = np.ones(len(labels), np.float32)

    def trained() -> pa.Table:
        predicted = FTRL.train(FTRL.new_records(BITS), encoded, labels, weights).astype(np.float64)
        loss = -np.log(np.where(labels > 0, predicted, 1 - predicted)).mean()
        return pa.table({"examples": [len(labels)], "loss": [loss]})

    return trained
