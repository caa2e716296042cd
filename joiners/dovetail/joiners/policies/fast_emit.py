"""``fast_emit``: a negative soon after the exposure, a positive when the positive event has come.

Every row exposed within the first horizon gives a negative at once, also one that has its positive event already;
every positive event met at a horizon gives a second sample, label 1, with the same features. So a model sees positives
as a share b of a stream in which each positive has a false negative beside it: b = p / (1 + p). The weights undo that
(FNW of Ktena et al. 2019, "Addressing Delayed Feedback for Continuous Training with Neural Networks in CTR
Prediction"): 1 + p for positives and (1 - p)(1 + p) for negatives, with p the model's prediction, taken as a constant.
The sample's ``weight`` uses the prediction that was *served* (``score``): known when the sample is made, a model
version older than the one that trains. A trainer that wants its own p has the flag column ``emission`` and
:func:`fnw_weight`.

Published on Criteo's data, FNW keeps the AUC of waiting: the gain is freshness, not accuracy. The paper's other remedy,
FNC, trains without weights and calibrates predictions; docs/training.md has the numbers for which it is not offered.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from dovetail.joiners.policies import policy
from dovetail.joiners.policies.policy import (
    EMISSIONS,
    Candidates,
    Decision,
    Policy,
)

__all__ = ["FastEmit", "fnw_weight"]

_NEGATIVE, _POSITIVE = EMISSIONS.index("negative"), EMISSIONS.index("positive")


class FastEmit(Policy):
    """The ``fast_emit`` policy; ``horizons_us`` are the emission times and, last, the window."""

    def __init__(self, exposure: str, positive: str, horizons_us: tuple[int, ...]) -> None:
        self.exposure, self.positive = exposure, positive
        self.horizons_us = horizons_us

    def decide(self, lane: int, rows: Candidates) -> Decision:
        positive = rows.by(self.positive, self.horizons_us[lane])
        if lane == 0:
            exposed = rows.by(self.exposure, self.horizons_us[0])
            positive &= exposed
            outcome = np.where(exposed, policy.SAMPLED, policy.UNEXPOSED)
            alive = exposed & ~positive
            negatives = np.flatnonzero(exposed)
        else:
            outcome = np.where(positive, policy.SAMPLED, policy.UNCHANGED)
            alive = ~positive
            negatives = np.zeros(0, dtype=np.int64)
        positives = np.flatnonzero(positive)
        label = np.concatenate((np.zeros(len(negatives), np.int8), np.ones(len(positives), np.int8)))
        index = np.concatenate((negatives, positives))
        order = np.argsort(index, kind="stable")  # a row's negative stands before its positive
        index, label = index[order], label[order]
        last = lane == len(self.horizons_us) - 1
        return Decision(
            index,
            label,
            fnw_weight(rows.score[index], label),
            np.where(label == 1, _POSITIVE, _NEGATIVE).astype(np.int8),
            outcome.astype(np.int8),
            np.zeros_like(alive) if last else alive,
        )


def fnw_weight(prediction: npt.ArrayLike, label: npt.ArrayLike) -> npt.NDArray[np.float32]:
    """FNW weights, float32: 1 + p for positives, (1 - p)(1 + p) for negatives, computed in float32.

    With them the expected gradient over fast-emitted samples vanishes where that over the true labels does; no gradient
    flows through the weight itself.
    """
    p = np.asarray(prediction, dtype=np.float32)
    one = np.float32(1)
    weight: npt.NDArray[np.float32] = np.where(np.asarray(label) == 1, one + p, (one - p) * (one + p))
    return weight
