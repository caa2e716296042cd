"""Delay compensation: corrects gradients that were computed at weights which have moved since."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from dovetail.platform.errors import ConfigError
from dovetail.trainer.arithmetic import Float32, UInt32
from dovetail.trainer.optimizers.optimizer import WEIGHT, Optimizer

__all__ = ["DelayCompensated", "compensate"]


def compensate(gradients: Float32, now: Float32, pulled: Float32, strength: float) -> Float32:
    """g' = g + strength·g²·(w_now - w_pulled): g², the outer-product estimate of the Hessian, times how far w moved.

    >>> import numpy as np
    >>> one = lambda x: np.array([x], np.float32)
    >>> compensate(one(10), now=one(0), pulled=one(0.1), strength=0.1).tolist()
    [9.0]
    """
    corrected: Float32 = (gradients + np.float32(strength) * gradients * gradients * (now - pulled)).astype(np.float32)
    return corrected


@dataclass(frozen=True, slots=True)
class DelayCompensated(Optimizer):
    """``optimizer``, whose stale gradients are compensated first (Zheng et al., "Asynchronous Stochastic Gradient
    Descent with Delay Compensation", ICML 2017).

    Only :meth:`apply_stale` differs, so it matters where gradients are stale: in mini-batches, where the examples of a
    batch are all predicted at the weights the batch began with, or, on shards, at those of some batches before.
    Example by example there is no delay, and it trains as ``optimizer`` does, bit for bit.

    :raises ConfigError: ``strength`` is not finite or negative, or ``optimizer`` is itself a wrapper.
    """

    name: ClassVar[str] = "delay_compensated"
    layout: ClassVar[tuple[str, str, str, str]] = ("w", "inner", "inner", "inner")

    optimizer: Optimizer
    #: The paper's λ; 0 compensates nothing.
    strength: float = 0.1

    def __post_init__(self) -> None:
        if isinstance(self.optimizer, DelayCompensated):
            raise ConfigError("delay compensation: the optimizer is compensated already; wrap the plain one")
        if not (math.isfinite(self.strength) and self.strength >= 0):
            raise ConfigError(f"delay compensation: strength must be finite and not negative, got {self.strength}")

    def describe(self) -> dict[str, Any]:
        return {"name": self.name, "strength": self.strength, "optimizer": self.optimizer.describe()}

    def blank(self) -> Float32:
        return self.optimizer.blank()

    def hot_start(self, weights: Float32) -> Float32:
        return self.optimizer.hot_start(weights)

    def apply_gradients(self, records: Float32, slots: UInt32, gradients: Float32) -> None:
        self.optimizer.apply_gradients(records, slots, gradients)

    def apply_stale(self, records: Float32, slots: UInt32, gradients: Float32, pulled: Float32 | None = None) -> None:
        """One update per occurrence, in order, each compensated for what those before it have moved.

        Slots do not touch each other, so the first occurrences of all slots go in one step, then the second ones, and
        so on: the same result, in as many steps as the most frequent slot has occurrences.
        """
        if pulled is None:
            pulled = records[slots, WEIGHT].copy()
        order = np.argsort(slots, kind="stable")
        ranked = slots[order]
        firsts = np.flatnonzero(np.concatenate((ranked[:1] == ranked[:1], ranked[1:] != ranked[:-1])))
        lengths = np.diff(np.concatenate((firsts, [len(ranked)])))
        wave = np.empty(len(slots), np.int64)
        wave[order] = np.arange(len(slots)) - np.repeat(firsts, lengths)
        by_wave = np.argsort(wave, kind="stable")
        for chosen in np.split(by_wave, np.flatnonzero(np.diff(wave[by_wave])) + 1):
            now = records[slots[chosen], WEIGHT]
            corrected = compensate(gradients[chosen], now, pulled[chosen], self.strength)
            self.optimizer.apply_gradients(records, slots[chosen], corrected)

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
        return self.optimizer.progressive(records, slots, values, labels, weights, predictions_out, loss)
