"""What an optimizer is: hyperparameters, a 16-byte record per slot, and one kernel that predicts and trains."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import asdict
from typing import Any, ClassVar

import numpy as np

from dovetail.platform.errors import ModelError
from dovetail.trainer.encoding import Encoded
from dovetail.trainer.kernels import MARGIN_LIMIT, Float32, UInt32

__all__ = ["RECORD_WIDTH", "WEIGHT", "Optimizer"]

#: float32 fields per record; a record is 16 bytes and never straddles two cache lines.
RECORD_WIDTH = 4
#: The field that is the weight, in every optimizer's layout.
WEIGHT = 0


class Optimizer(ABC):
    """A per-coordinate online optimizer for logistic loss.

    Implementations are frozen dataclasses whose fields are the hyperparameters, in float32-representable ranges.

    An example whose slots repeat (two inputs hashed into one slot) is predicted with each occurrence counted, and then
    each occurrence is updated in turn, all with the gradient of that one prediction.
    """

    #: As written in ``dovetail.toml`` and in checkpoints.
    name: ClassVar[str]
    #: Meaning of a record's four fields; the first is always the weight, an unused one is always 0.
    layout: ClassVar[tuple[str, str, str, str]]

    def describe(self) -> dict[str, Any]:
        """Name and hyperparameters as JSON-ready values; part of every checkpoint."""
        return {"name": self.name, "layout": list(self.layout), **asdict(self)}  # type: ignore[call-overload]

    def new_records(self, bits: int) -> Float32:
        """Untrained state: float32 [2**bits, 4], every row equal to :meth:`blank`."""
        records = np.zeros((1 << bits, RECORD_WIDTH), np.float32)
        blank = self.blank()
        if blank.any():
            records[:] = blank
        return records

    @abstractmethod
    def blank(self) -> Float32:
        """The record of a slot never trained: float32 [4], weight 0."""

    @abstractmethod
    def hot_start(self, weights: Float32) -> Float32:
        """Records whose weights are exactly ``weights`` (float32 [2**bits]), so training goes on from them.

        :raises ModelError: a weight is not finite, or the number of weights is not a power of two.
        """

    @abstractmethod
    def apply_gradients(self, records: Float32, slots: UInt32, gradients: Float32) -> None:
        """One plain update per (slot, gradient) of two [n] arrays, in order, in place."""

    @abstractmethod
    def progressive(
        self,
        records: Float32,
        slots: UInt32,
        values: Float32,
        labels: Float32,
        weights: Float32,
        predictions_out: Float32,
    ) -> int:
        """The kernel behind :meth:`train`: predict, then train, each example in order, in place.

        Returns the number of examples done; less than ``n`` when the example at that index is refused.
        """

    def train(self, records: Float32, encoded: Encoded, labels: Float32, weights: Float32) -> Float32:
        """Predict, then train on, every example in order; returns the predictions made before training, float32 [n].

        ``records`` is changed in place. ``labels`` are 0 or 1; ``weights`` scale an example's gradient, and an example
        of weight 0 is predicted and changes nothing. The result does not depend on how examples are cut into calls.

        :raises ModelError: shapes or dtypes do not fit; or an example has a slot outside ``records``, another label,
            a negative or non-finite weight, or a margin that is not finite (a non-finite value, or a diverged model).
            Examples before that one have been trained, it and those after it have not: throw the state away.
        """
        slots, values = encoded
        self._require_shapes(records, slots, values, labels, weights)
        predictions = np.empty(len(labels), np.float32)
        done = self.progressive(records, slots, values, labels, weights, predictions)
        if done < len(labels):
            raise ModelError(self._refusal(records, slots[done], values[done], labels[done], weights[done], done))
        return predictions

    @staticmethod
    def _require_shapes(records: Float32, slots: UInt32, values: Float32, labels: Float32, weights: Float32) -> None:
        n = len(labels)
        expected = {
            "records": (records, np.float32, (len(records), RECORD_WIDTH)),
            "slots": (slots, np.uint32, (n, *slots.shape[1:2])),
            "values": (values, np.float32, slots.shape),
            "labels": (labels, np.float32, (n,)),
            "weights": (weights, np.float32, (n,)),
        }
        for name, (array, dtype, shape) in expected.items():
            if array.dtype != dtype or array.shape != shape or not array.flags.c_contiguous:
                raise ModelError(
                    f"cannot train: {name} must be contiguous {np.dtype(dtype).name} {list(shape)}, "
                    f"got {array.dtype} {list(array.shape)}; encode the rows with Encoder.encode"
                )
        if len(records).bit_count() != 1:
            raise ModelError(f"cannot train: {len(records)} records are not a power of two; use new_records(bits)")

    @staticmethod
    def _refusal(
        records: Float32, slots: UInt32, values: Float32, label: np.float32, weight: np.float32, row: int
    ) -> str:
        where = f"example {row} of this batch was refused"
        if int(slots.max()) >= len(records):
            return (
                f"{where}: slot {slots.max()} is outside the {len(records)} records; encoder and model differ in bits"
            )
        if label not in (0.0, 1.0):
            return f"{where}: its label is {label}; labels must be 0 or 1"
        if not 0.0 <= weight < np.inf:
            return f"{where}: its sample weight is {weight}; weights must be finite and not negative"
        if not np.isfinite(values).all():
            return f"{where}: its input values are not finite; NaN and infinity must be encoded as missing"
        return (
            f"{where}: its margin is not finite, so the model has diverged (margins beyond ±{MARGIN_LIMIT:g} already "
            "saturate); lower alpha, raise l2, and resume from the last checkpoint"
        )
