"""AdaMom: momentum over a discounted second moment, for a world that moves."""

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

__all__ = ["AdaMom"]


@dataclass(frozen=True, slots=True)
class AdaMom(KernelOptimizer):
    """The optimizer of Monolith (Liu et al., "Monolith: Real Time Recommendation System With Collisionless Embedding
    Table", 2022), as its published operator computes it.

    For each occurrence of a slot, with gradient g = (p - y)·weight·value, unless g is zero::

        h  = g + weight_decay·w
        m' = beta1·m + (1 - beta1)·h
        v' = beta2·v + h²
        c' = beta2·c + 1
        w' = w - alpha · m' / √(v'/c' + epsilon)

    v/c is an average of h² that forgets, so the step does not decay to nothing as AdaGrad's does. Momentum is not
    corrected for its start: the first step is (1 - beta1) of a full one.

    A record is (w, m, v, c).

    >>> import numpy as np
    >>> adamom = AdaMom(alpha=0.1, weight_decay=0.01)
    >>> records = adamom.hot_start(np.array([0.1, 0.0], np.float32))
    >>> adamom.apply_gradients(records, np.array([0], np.uint32), np.array([0.12], np.float32))
    >>> [f"{field:.6f}" for field in records[0]]
    ['0.090000', '0.012100', '0.014641', '1.000000']

    :raises ConfigError: a hyperparameter is not finite or outside its range.
    """

    name: ClassVar[str] = "adamom"
    layout: ClassVar[tuple[str, str, str, str]] = ("w", "m", "v", "c")
    ranges: ClassVar[dict[str, Range]] = {
        "alpha": Range(0.0, open=True),
        "beta1": Range(0.0, 0.9999),
        "beta2": Range(0.0, 1.0),
        "epsilon": Range(0.0, open=True),
    }

    #: Step size; above 0.
    alpha: float = 0.01
    #: Share of the momentum that is kept at each update.
    beta1: float = 0.9
    #: Share of the second moment that is kept at each update; 1 forgets nothing.
    beta2: float = 0.99
    #: Keeps the step finite where gradients are small; the published operator's 1e-6.
    epsilon: float = 1e-6
    #: Part of the gradient of an updated slot.
    weight_decay: float = 0.0

    def blank(self) -> Float32:
        return np.zeros(4, np.float32)

    @property
    def kernels(self) -> Kernels:
        return Kernels(_apply, _progressive)

    def constants(self) -> tuple[np.float32, np.float32, np.float32, np.float32, np.float32]:
        return (
            np.float32(self.alpha),
            np.float32(self.beta1),
            np.float32(self.beta2),
            np.float32(self.epsilon),
            np.float32(self.weight_decay),
        )


@compiled_as_ieee
def _apply(
    records: Float32,
    slots: UInt32,
    gradients: Float32,
    alpha: np.float32,
    beta1: np.float32,
    beta2: np.float32,
    epsilon: np.float32,
    decay: np.float32,
) -> None:
    for i in range(len(slots)):
        s, g = slots[i], gradients[i]
        if g == 0:
            continue
        w = records[s, 0]
        h = np.float32(g + decay * w)
        m = np.float32(beta1 * records[s, 1] + (np.float32(1) - beta1) * h)
        v = np.float32(beta2 * records[s, 2] + h * h)
        c = np.float32(beta2 * records[s, 3] + np.float32(1))
        step = np.float32(alpha * m / np.float32(math.sqrt(v / c + epsilon)))
        records[s, 0], records[s, 1], records[s, 2], records[s, 3] = w - step, m, v, c


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
    beta1: np.float32,
    beta2: np.float32,
    epsilon: np.float32,
    decay: np.float32,
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
            _apply(records, slots[i], g, alpha, beta1, beta2, epsilon, decay)
    return int(n)
