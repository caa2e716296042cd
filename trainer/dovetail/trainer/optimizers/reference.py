"""FTRL-proximal in plain Python and float64: what the kernel means. Slow on purpose; tests hold the kernel to it."""

from __future__ import annotations

import math
from collections.abc import Sequence

from dovetail.trainer.kernels import MARGIN_LIMIT
from dovetail.trainer.optimizers.ftrl import Ftrl

__all__ = ["ReferenceFtrl"]


class ReferenceFtrl:
    """The formulas of :class:`~dovetail.trainer.optimizers.ftrl.Ftrl`, one slot and one number at a time."""

    def __init__(self, parameters: Ftrl, slots: int) -> None:
        self.parameters = parameters
        self.w = [0.0] * slots
        self.z = [0.0] * slots
        self.n = [float(parameters.initial_accumulator)] * slots

    def hot_start(self, weights: Sequence[float]) -> None:
        """Give slot i the weight ``weights[i]``."""
        p = self.parameters
        for i, w0 in enumerate(weights):
            sign = (w0 > 0) - (w0 < 0)
            self.w[i] = w0
            self.z[i] = -w0 * ((p.beta + self.n[i] ** -p.lr_power) / p.alpha + p.l2) - sign * p.l1

    def update(self, slot: int, g: float) -> None:
        """One plain update of one slot."""
        p = self.parameters
        n_before, self.n[slot] = self.n[slot], self.n[slot] + g * g
        rate = self.n[slot] ** -p.lr_power
        sigma = (rate - n_before**-p.lr_power) / p.alpha
        self.z[slot] += g + p.l2_shrinkage * self.w[slot] - sigma * self.w[slot]
        z = self.z[slot]
        if abs(z) <= p.l1:
            self.w[slot] = 0.0
        else:
            self.w[slot] = (math.copysign(p.l1, z) - z) / ((p.beta + rate) / p.alpha + p.l2)

    def learn(self, slots: Sequence[int], values: Sequence[float], label: float, weight: float = 1.0) -> float:
        """Predict one example, then train on it; returns the prediction."""
        margin = sum(self.w[slot] * value for slot, value in zip(slots, values, strict=True))
        prediction = 1.0 / (1.0 + math.exp(-min(max(margin, -MARGIN_LIMIT), MARGIN_LIMIT)))
        if weight != 0.0:
            for slot, value in zip(slots, values, strict=True):
                self.update(slot, (prediction - label) * weight * value)
        return prediction
