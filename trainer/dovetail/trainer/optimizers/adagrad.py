"""AdaGrad: steps scaled by the gradients a coordinate has seen."""

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

__all__ = ["AdaGrad"]


@dataclass(frozen=True, slots=True)
class AdaGrad(KernelOptimizer):
    """Duchi, Hazan, Singer, "Adaptive Subgradient Methods for Online Learning and Stochastic Optimization", JMLR 2011.

    For each occurrence of a slot, with gradient g = (p - y)·weight·value, unless g is zero::

        h  = g + l2·w
        n' = n + h²
        w' = w - alpha · h · n'^lr_power

    ``lr_power`` -0.5 is the paper; towards 0 the step decays less. There is no epsilon: n' is above 0 whenever h is not
    0, and when h is 0 nothing moves.

    A record is (w, n, spare, spare).

    >>> import numpy as np
    >>> records = AdaGrad(alpha=0.1, initial_accumulator=1.0).new_records(bits=1)
    >>> g = np.array([1.0, 2.0], np.float32)
    >>> AdaGrad(alpha=0.1).apply_gradients(records, np.array([0, 1], np.uint32), g)
    >>> [f"{weight:.6f}" for weight in records[:, 0]]  # -0.1·1/√2, -0.1·2/√5
    ['-0.070711', '-0.089443']

    :raises ConfigError: a hyperparameter is not finite or outside its range.
    """

    name: ClassVar[str] = "adagrad"
    layout: ClassVar[tuple[str, str, str, str]] = ("w", "n", "spare", "spare")
    ranges: ClassVar[dict[str, Range]] = {"alpha": Range(0.0, open=True), "lr_power": Range(-0.5, 0.0)}

    #: Step size; above 0.
    alpha: float = 0.05
    #: How fast the step decays with n: -0.5 (the paper) … 0 (not at all).
    lr_power: float = -0.5
    #: Weight decay, part of the gradient of an updated slot.
    l2: float = 0.0
    #: n of a slot never trained; above 0 it keeps the first steps small.
    initial_accumulator: float = 0.1

    def blank(self) -> Float32:
        return np.array([0.0, self.initial_accumulator, 0.0, 0.0], np.float32)

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
        w = records[s, 0]
        h = np.float32(g + l2 * w)
        n = np.float32(records[s, 1] + h * h)
        # h so small that its square is 0 has moved nothing.
        if n > 0:
            rate = np.float32(1) / np.float32(math.sqrt(n)) if lr_power == np.float32(-0.5) else np.float32(n**lr_power)
            records[s, 0], records[s, 1] = w - alpha * h * rate, n


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
