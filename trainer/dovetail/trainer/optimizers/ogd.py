"""Online gradient descent with a step that decays per coordinate."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from dovetail.platform.compiling import compiled_as_ieee
from dovetail.trainer.arithmetic import Float32, UInt32
from dovetail.trainer.optimizers.example import predict_example, prefetch_example
from dovetail.trainer.optimizers.kernels import KernelOptimizer, Kernels
from dovetail.trainer.optimizers.optimizer import Range
from dovetail.trainer.samples.memory import AHEAD

__all__ = ["Ogd"]


@dataclass(frozen=True, slots=True)
class Ogd(KernelOptimizer):
    """Zinkevich, "Online Convex Programming and Generalized Infinitesimal Gradient Ascent", ICML 2003.

    For each occurrence of a slot, with gradient g = (p - y)·weight·value, unless g is zero::

        t' = t + 1
        w' = w - alpha · t'^lr_power · (g + l2·w)

    t counts the updates of this slot alone, so that a rare value still learns when common ones have settled; the
    paper's single t is for dense inputs. ``lr_power`` -0.5 is the paper's 1/√t; 0 is plain stochastic gradient descent.
    t is a float32 and stops at 2**24, where the step hardly changes any more.

    A record is (w, t, spare, spare).

    >>> import numpy as np
    >>> records = Ogd(alpha=0.1).new_records(bits=1)
    >>> for _ in range(2):
    ...     Ogd(alpha=0.1).apply_gradients(records, np.array([0], np.uint32), np.array([1.0], np.float32))
    >>> [f"{field:.6f}" for field in records[0, :2]]  # -0.1 - 0.1/√2
    ['-0.170711', '2.000000']

    :raises ConfigError: a hyperparameter is not finite or outside its range.
    """

    name: ClassVar[str] = "ogd"
    layout: ClassVar[tuple[str, str, str, str]] = ("w", "t", "spare", "spare")
    ranges: ClassVar[dict[str, Range]] = {"alpha": Range(0.0, open=True), "lr_power": Range(-1.0, 0.0)}

    #: Step size of a slot's first update; above 0.
    alpha: float = 0.05
    #: How fast the step decays: -0.5 (the paper) … 0 (not at all).
    lr_power: float = -0.5
    #: Weight decay, applied when a slot is updated.
    l2: float = 0.0

    def blank(self) -> Float32:
        return np.zeros(4, np.float32)

    @property
    def kernels(self) -> Kernels:
        return Kernels(_apply, _progressive)

    def constants(self) -> tuple[np.float32, np.float32, np.float32]:
        return np.float32(self.alpha), np.float32(self.lr_power), np.float32(self.l2)


@compiled_as_ieee
def _apply(
    records: Float32, slots: UInt32, gradients: Float32, alpha: np.float32, lr_power: np.float32, l2: np.float32
) -> None:
    for i in range(len(slots)):
        s, g = slots[i], gradients[i]
        if g == 0:
            continue
        w, t = records[s, 0], np.float32(records[s, 1] + np.float32(1))
        rate = np.float32(1) / np.float32(math.sqrt(t)) if lr_power == np.float32(-0.5) else np.float32(t**lr_power)
        records[s, 0], records[s, 1] = w - alpha * rate * (g + l2 * w), t


@compiled_as_ieee
def _progressive(
    records: Float32,
    slots: UInt32,
    values: Float32,
    labels: Float32,
    weights: Float32,
    predictions: Float32,
    loss: int,
    alpha: np.float32,
    lr_power: np.float32,
    l2: np.float32,
) -> int:
    n, k = slots.shape
    g = np.empty(k, np.float32)
    for i in range(n):
        prefetch_example(records, slots[min(i + AHEAD, n - 1)])
        p, error = predict_example(records, slots[i], values[i], labels[i], weights[i], loss)
        if math.isnan(p):
            return i
        predictions[i] = p
        if weights[i] != 0:
            for j in range(k):
                g[j] = error * values[i, j]
            _apply(records, slots[i], g, alpha, lr_power, l2)
    return int(n)
