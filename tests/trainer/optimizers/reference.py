"""The optimizers in plain Python and float64: what the kernels mean. Slow on purpose; tests hold kernels to them."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

from dovetail.trainer.arithmetic import MARGIN_LIMIT
from dovetail.trainer.optimizers.adagrad import AdaGrad
from dovetail.trainer.optimizers.adamom import AdaMom
from dovetail.trainer.optimizers.ftrl import Ftrl
from dovetail.trainer.optimizers.ogd import Ogd
from dovetail.trainer.optimizers.optimizer import Optimizer

__all__ = ["Reference", "ReferenceFtrl", "reference_of"]


class Reference(ABC):
    """A model of ``slots`` weights and the formulas of one optimizer, one slot and one number at a time."""

    def __init__(self, slots: int) -> None:
        self.w = [0.0] * slots

    def update(self, slot: int, g: float) -> None:
        """One plain update of one slot; a zero gradient changes nothing."""
        if g != 0.0:
            self._move(slot, g)

    def learn(
        self, slots: Sequence[int], values: Sequence[float], label: float, weight: float = 1.0, loss: int = 0
    ) -> float:
        """Predict one example, then train on it; returns the prediction."""
        margin = sum(self.w[slot] * value for slot, value in zip(slots, values, strict=True))
        clamped = min(max(margin, -MARGIN_LIMIT), MARGIN_LIMIT)
        prediction = (1.0 / (1.0 + math.exp(-clamped)), margin, math.exp(clamped))[loss]
        if weight != 0.0:
            for slot, value in zip(slots, values, strict=True):
                self.update(slot, (prediction - label) * weight * value)
        return prediction

    @abstractmethod
    def _move(self, slot: int, g: float) -> None:
        """The update for a gradient that is not zero."""


class ReferenceFtrl(Reference):
    """The formulas of :class:`~dovetail.trainer.optimizers.ftrl.Ftrl`."""

    def __init__(self, parameters: Ftrl, slots: int) -> None:
        super().__init__(slots)
        self.parameters = parameters
        self.z = [0.0] * slots
        self.n = [float(parameters.initial_accumulator)] * slots

    def hot_start(self, weights: Sequence[float]) -> None:
        """Give slot i the weight ``weights[i]``."""
        p = self.parameters
        for i, w0 in enumerate(weights):
            sign = (w0 > 0) - (w0 < 0)
            self.w[i] = w0
            self.z[i] = -w0 * ((p.beta + self.n[i] ** -p.lr_power) / p.alpha + p.l2) - sign * p.l1

    def _move(self, slot: int, g: float) -> None:
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


class _ReferenceOgd(Reference):
    """The formulas of :class:`~dovetail.trainer.optimizers.ogd.Ogd`."""

    def __init__(self, parameters: Ogd, slots: int) -> None:
        super().__init__(slots)
        self.parameters = parameters
        self.t = [0] * slots

    def _move(self, slot: int, g: float) -> None:
        p = self.parameters
        self.t[slot] += 1
        self.w[slot] -= p.alpha * self.t[slot] ** p.lr_power * (g + p.l2 * self.w[slot])


class _ReferenceAdaGrad(Reference):
    """The formulas of :class:`~dovetail.trainer.optimizers.adagrad.AdaGrad`."""

    def __init__(self, parameters: AdaGrad, slots: int) -> None:
        super().__init__(slots)
        self.parameters = parameters
        self.n = [parameters.initial_accumulator] * slots

    def _move(self, slot: int, g: float) -> None:
        p = self.parameters
        h = g + p.l2 * self.w[slot]
        self.n[slot] += h * h
        if self.n[slot] > 0:
            self.w[slot] -= p.alpha * h * self.n[slot] ** p.lr_power


class _ReferenceAdaMom(Reference):
    """The formulas of :class:`~dovetail.trainer.optimizers.adamom.AdaMom`."""

    def __init__(self, parameters: AdaMom, slots: int) -> None:
        super().__init__(slots)
        self.parameters = parameters
        self.m, self.v, self.c = [0.0] * slots, [0.0] * slots, [0.0] * slots

    def _move(self, slot: int, g: float) -> None:
        p = self.parameters
        h = g + p.weight_decay * self.w[slot]
        self.m[slot] = p.beta1 * self.m[slot] + (1 - p.beta1) * h
        self.v[slot] = p.beta2 * self.v[slot] + h * h
        self.c[slot] = p.beta2 * self.c[slot] + 1
        self.w[slot] -= p.alpha * self.m[slot] / math.sqrt(self.v[slot] / self.c[slot] + p.epsilon)


_REFERENCES: dict[type[Optimizer], Callable[[Any, int], Reference]] = {
    Ftrl: ReferenceFtrl,
    Ogd: _ReferenceOgd,
    AdaGrad: _ReferenceAdaGrad,
    AdaMom: _ReferenceAdaMom,
}


def reference_of(optimizer: Optimizer, slots: int) -> Reference:
    """The plain-Python model that ``optimizer`` must agree with.

    :raises KeyError: nobody has written one for this optimizer.
    """
    return _REFERENCES[type(optimizer)](optimizer, slots)
