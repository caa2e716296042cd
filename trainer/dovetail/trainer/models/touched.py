"""The records of a model as they are stored: those alone that differ from an untrained one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from dovetail.platform.errors import ModelError
from dovetail.trainer.arithmetic import Float32
from dovetail.trainer.optimizers.optimizer import RECORD_WIDTH

__all__ = ["all_records", "touched_records"]


def touched_records(records: Float32, blank: Float32) -> dict[str, npt.NDArray[Any]]:
    """The records that differ from ``blank``, copied, with their slots.

    :raises ModelError: one has a value that is not finite; such a model must not be resumed from.
    """
    # Bits are compared, not numbers: -0.0 must come back as -0.0.
    slots = np.flatnonzero((records.view(np.uint32) != blank.view(np.uint32)).any(axis=1))
    touched = records[slots]
    if not np.isfinite(touched).all():
        broken = int(slots[~np.isfinite(touched).all(axis=1)][0])
        raise ModelError(
            f"the optimizer state is not finite (first at slot {broken}): the model has diverged and was not "
            "checkpointed; lower alpha or raise l2, and resume from the last checkpoint"
        )
    return {"slots": slots.astype(np.uint32), "records": touched, "blank": blank}


def all_records(size: int, arrays: Mapping[str, npt.NDArray[Any]]) -> Float32:
    """The ``size`` records of which :func:`touched_records` has made ``arrays``."""
    records = np.empty((size, RECORD_WIDTH), np.float32)
    records[:] = arrays["blank"]
    records[arrays["slots"]] = arrays["records"]
    return records
