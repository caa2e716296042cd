"""An optimizer is hyperparameters, a 16-byte record per slot, and one kernel that predicts and trains."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import asdict, fields
from typing import Any, ClassVar, NamedTuple

import numpy as np

from dovetail.platform.errors import ConfigError, ModelError
from dovetail.trainer.arithmetic import MARGIN_LIMIT, Float32, UInt32
from dovetail.trainer.losses import LOGISTIC, is_label, labels_of
from dovetail.trainer.optimizers.sums import sums_by_slot
from dovetail.trainer.samples.encoding import Encoded

__all__ = ["RECORD_WIDTH", "WEIGHT", "Optimizer", "Range"]

#: float32 fields per record; a record is 16 bytes and never straddles two cache lines.
RECORD_WIDTH = 4
#: The field that is the weight, in every optimizer's layout.
WEIGHT = 0


class Range(NamedTuple):
    """Where a hyperparameter may lie: ``low`` … ``high``, without ``low`` itself when ``open``."""

    low: float = 0.0
    high: float = math.inf
    open: bool = False

    def __str__(self) -> str:
        return f"above {self.low:g}" if self.open else f"in {self.low:g}…{self.high:g}"


class Optimizer(ABC):
    """A per-coordinate online optimizer; the loss is handed in with the examples.

    Implementations are frozen dataclasses whose fields are the hyperparameters, in float32-representable ranges.

    An example whose slots repeat (two inputs hashed into one slot) is predicted with each occurrence counted, and then
    each occurrence is updated in turn, all with the gradient of that one prediction. A zero gradient changes nothing,
    so an input of value 0 is an absent one.
    """

    __slots__ = ()

    #: As written in ``dovetail.toml`` and in checkpoints.
    name: ClassVar[str]
    #: Meaning of a record's four fields; the first is always the weight, an unused one is always 0.
    layout: ClassVar[tuple[str, str, str, str]]
    #: Where hyperparameters may lie; those not in it must be finite and not negative.
    ranges: ClassVar[dict[str, Range]] = {}

    def __post_init__(self) -> None:
        for hyperparameter in fields(self):  # type: ignore[arg-type]
            name, value = hyperparameter.name, getattr(self, hyperparameter.name)
            allowed = self.ranges.get(name, Range())
            inside = allowed.low <= value <= allowed.high and not (allowed.open and value == allowed.low)
            if not (math.isfinite(value) and inside):
                raise ConfigError(f"{self.name}: {name} = {value} is out of bounds; make it finite and {allowed}")

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

    def hot_start(self, weights: Float32) -> Float32:
        """Records whose weights are exactly ``weights`` (float32 [2**bits]), so training goes on from them.

        :raises ModelError: a weight is not finite, or the number of weights is not a power of two.
        """
        records = self.new_records(max(len(weights) - 1, 0).bit_length())
        if len(weights) != len(records) or not np.isfinite(weights).all():
            raise ModelError(
                f"hot start: need finite weights, one per slot of a power of two, got {len(weights)} weights of which "
                f"{int((~np.isfinite(weights)).sum())} are not finite"
            )
        records[:, WEIGHT] = weights
        return records

    @abstractmethod
    def apply_gradients(self, records: Float32, slots: UInt32, gradients: Float32) -> None:
        """One plain update per (slot, gradient) of two [n] arrays, in order, in place."""

    def apply_stale(self, records: Float32, slots: UInt32, gradients: Float32, pulled: Float32 | None = None) -> None:
        """Apply gradients that were all computed at the same weights: one update per slot, of their sum.

        ``pulled`` are those weights, one per gradient; without, they are as they are now. Sums run in float64, in the
        order given.
        """
        # A sum beyond float32 becomes infinite, and is refused where every diverged model is.
        self.apply_gradients(records, *sums_by_slot(slots, gradients))

    @abstractmethod
    def progressive(
        self,
        records: Float32,
        slots: UInt32,
        values: Float32,
        labels: Float32,
        weights: Float32,
        predictions_out: Float32,
        loss: int,
    ) -> int:
        """The kernel behind :meth:`train`: predict, then train, each example in order, in place.

        Returns the number of examples done; less than ``n`` when the example at that index is refused.
        """

    def train(
        self, records: Float32, encoded: Encoded, labels: Float32, weights: Float32, loss: int = LOGISTIC
    ) -> Float32:
        """Predict, then train on, every example in order; returns the predictions made before training, float32 [n].

        ``records`` is changed in place. ``labels`` are those of ``loss`` (0 or 1); ``weights`` scale an example's
        gradient, and an example of weight 0 is predicted and changes nothing. The result does not depend on how
        examples are cut into calls.

        :raises ModelError: shapes or dtypes do not fit; or an example has a slot outside ``records``, another label,
            a negative or non-finite weight, or a margin that is not finite (a non-finite value, or a diverged model).
            Examples before that one have been trained, it and those after it have not: throw the state away.
        """
        slots, values = encoded
        self.require_shapes(records, slots, values, labels, weights)
        predictions = np.empty(len(labels), np.float32)
        done = self.progressive(records, slots, values, labels, weights, predictions, loss)
        if done < len(labels):
            raise self.refusal(len(records), encoded, labels, weights, done, loss)
        return predictions

    @staticmethod
    def require_shapes(records: Float32, slots: UInt32, values: Float32, labels: Float32, weights: Float32) -> None:
        """Refuse arrays that a kernel must not be given; the checks of :meth:`train`.

        :raises ModelError: a shape, a dtype or the number of records does not fit.
        """
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
    def refusal(
        size: int, encoded: Encoded, labels: Float32, weights: Float32, row: int, loss: int = LOGISTIC
    ) -> ModelError:
        """The error that says why example ``row`` was refused, of a model of ``size`` records."""
        slots, values, label, weight = encoded.slots[row], encoded.values[row], labels[row], weights[row]
        if int(slots.max()) >= size:
            why = f"slot {slots.max()} is outside the {size} records; encoder and model differ in bits"
        elif not is_label(label, loss):
            why = f"its label is {label}; labels must be {labels_of(loss)}"
        elif not 0.0 <= weight < np.inf:
            why = f"its sample weight is {weight}; weights must be finite and not negative"
        elif not np.isfinite(values).all():
            why = "its input values are not finite; NaN and infinity must be encoded as missing"
        else:
            why = (
                f"its margin is not finite, so the model has diverged (margins beyond ±{MARGIN_LIMIT:g} already "
                "saturate); lower alpha, raise l2, and resume from the last checkpoint"
            )
        return ModelError(f"example {row} of this batch was refused: {why}")
