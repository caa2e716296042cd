"""``delayed``: wait until the window has passed, then one sample per exposed row.

Positive if the positive event took effect within the window. No bias; the price is that training lags by the window.

*Corrections*: the snapshots of negatives wait on, and when the positive event comes within ``corrections_us`` after the
window, a second sample with the original features and label 1 is sent, marked as a correction.

*Sampled negatives*: a fraction f of the candidates never exposed become negatives of weight 1/f; a fraction g of the
exposed negatives is kept, with weight 1/g. Which ones is drawn by request and item (see ``choice.py``), so every
replay draws the same. With the weights, sums over samples estimate sums over all rows without bias. A model trained
*without* the weights sees positives 1/g times too often; :func:`recalibrate` takes that out of its predictions.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from dovetail.joiners.policies import policy
from dovetail.joiners.policies.policy import Candidates, Decision, Policy

__all__ = ["Delayed", "recalibrate"]


class Delayed(Policy):
    """The ``delayed`` policy; times in microseconds, fractions in (0, 1], 0 unexposed ones for none."""

    later_outcome = "corrected"

    def __init__(
        self,
        exposure: str,
        positive: str,
        window_us: int,
        *,
        corrections_us: int | None = None,
        unexposed_fraction: float = 0.0,
        negative_fraction: float = 1.0,
    ) -> None:
        self.exposure, self.positive = exposure, positive
        self.horizons_us = (window_us,) if corrections_us is None else (window_us, window_us + corrections_us)
        self.unexposed_fraction = unexposed_fraction
        self.negative_fraction = negative_fraction

    def decide(self, lane: int, rows: Candidates) -> Decision:
        return self._first(rows) if lane == 0 else self._corrections(rows)

    def _first(self, rows: Candidates) -> Decision:
        (window, *more) = self.horizons_us
        exposed = rows.by(self.exposure, window)
        positive = exposed & rows.by(self.positive, window)
        negative = exposed & ~positive
        outcome = np.where(exposed, policy.SAMPLED, policy.UNEXPOSED).astype(np.int8)
        if self.unexposed_fraction > 0 or self.negative_fraction < 1:
            chance = rows.chance()
            outcome[negative & (chance >= self.negative_fraction)] = policy.DOWN_SAMPLED
            outcome[~exposed & (chance < self.unexposed_fraction)] = policy.UNEXPOSED_SAMPLED
        chosen = np.flatnonzero((outcome == policy.SAMPLED) | (outcome == policy.UNEXPOSED_SAMPLED))
        unexposed = outcome[chosen] == policy.UNEXPOSED_SAMPLED
        weight = np.ones(len(chosen), dtype=np.float32)
        weight[negative[chosen]] = 1 / self.negative_fraction
        if self.unexposed_fraction > 0:
            weight[unexposed] = 1 / self.unexposed_fraction
        return Decision(
            chosen,
            positive[chosen].astype(np.int8),
            weight,
            unexposed.astype(np.int8),
            outcome,
            negative if more else np.zeros_like(negative),
        )

    def _corrections(self, rows: Candidates) -> Decision:
        corrected = rows.by(self.positive, self.horizons_us[1])
        chosen = np.flatnonzero(corrected)
        return Decision(
            chosen,
            np.ones(len(chosen), dtype=np.int8),
            np.ones(len(chosen), dtype=np.float32),
            np.full(len(chosen), policy.EMISSIONS.index("correction"), dtype=np.int8),
            np.where(corrected, policy.SAMPLED, policy.UNCHANGED).astype(np.int8),
            np.zeros_like(corrected),
        )


def recalibrate(prediction: npt.ArrayLike, negative_fraction: float) -> npt.NDArray[np.float64]:
    """Probabilities for the whole population, from a model trained without weights on a fraction g of the negatives.

    ``p = q / (q + (1 - q) / g)`` (He et al. 2014, "Practical Lessons from Predicting Clicks on Ads at Facebook", §6.3).

    Raises:
        ValueError: the fraction is not in (0, 1].
    """
    if not 0 < negative_fraction <= 1:
        raise ValueError(f"negative_fraction is {negative_fraction}; it is a fraction kept, above 0 and at most 1")
    q = np.asarray(prediction, dtype=np.float64)
    recalibrated: npt.NDArray[np.float64] = q / (q + (1 - q) / negative_fraction)
    return recalibrated
