"""River's ``FTRLProximal``, on examples that are dicts already."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.feather as feather
from river import linear_model, optim

PACKAGES = ("river",)


def begin(folder: Path, way: str) -> Callable[[], pa.Table]:
    """The examples as dicts, all of them in memory."""
    assert not way, f"there is one way only, and not {way}"
    table = feather.read_table(str(folder / "slots.arrow"), memory_map=False)
    rows = [dict.fromkeys(slots, 1.0) for slots in table.column("slots").to_pylist()]
    labels = table.column("clicked").to_pylist()

    def trained() -> pa.Table:
        optimizer = optim.FTRLProximal(alpha=0.1, beta=1.0, l1=0.1, l2=0.1)
        model = linear_model.LogisticRegression(optimizer=optimizer, intercept_lr=0.0)
        loss = 0.0
        for row, label in zip(rows, labels, strict=True):
            predicted = model.predict_proba_one(row)[True]
            loss -= math.log(predicted if label else 1 - predicted)
            model.learn_one(row, label)
        return pa.table({"examples": [len(rows)], "loss": [loss / len(rows)]})

    return trained
