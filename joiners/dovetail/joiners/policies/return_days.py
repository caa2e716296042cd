"""``return_days``: conversions over days, for one head per day.

A row *enters* when its entry (the ``exposure`` kind: say, a click) took effect within the window. From then on it gives
one sample at each declared age in days after the request: label 1 if the positive event took effect by then, with
``elapsed_days`` the age and ``return_day`` the day of the event (1 for the first 24 hours). After its positive it gives
no more: later ages are implied. Head d trains on the samples of age d, and on the positives of younger ages.

*Seed + recent days* (:func:`~dovetail.joiners.batch.selection.seed_and_recent`) takes each row once, as old as it could
be at a given time: rows of full age for the seed, and the last days at the age they have reached.
"""

from __future__ import annotations

import numpy as np

from dovetail.joiners.policies import policy
from dovetail.joiners.policies.policy import (
    EMISSIONS,
    Candidates,
    Decision,
    Policy,
)
from dovetail.platform.config.durations import DAY_US

__all__ = ["ReturnDays"]


class ReturnDays(Policy):
    """The ``return_days`` policy: entry within ``window_us``, samples at the ages ``days``."""

    def __init__(self, entry: str, positive: str, window_us: int, days: tuple[int, ...]) -> None:
        self.exposure, self.positive = entry, positive
        self.days = days
        self.horizons_us = (window_us, *(day * DAY_US for day in days))

    def decide(self, lane: int, rows: Candidates) -> Decision:
        n = len(rows.request_time_us)
        everyone = np.arange(n, dtype=np.int64)
        if lane == 0:
            entered = rows.by(self.exposure, self.horizons_us[0])
            outcome = np.where(entered, policy.WAITING, policy.UNEXPOSED).astype(np.int8)
            return self._decision(everyone[:0], np.zeros(n, dtype=np.bool_), outcome, entered, 0, rows)
        positive = rows.by(self.positive, self.horizons_us[lane])
        outcome = np.full(n, policy.SAMPLED, dtype=np.int8)
        last = lane == len(self.days)
        held = np.zeros(n, dtype=np.bool_) if last else ~positive
        return self._decision(everyone, positive, outcome, held, self.days[lane - 1], rows)

    def _decision(
        self,
        index: policy.Int64,
        positive: policy.Bools,
        outcome: np.ndarray[tuple[int], np.dtype[np.int8]],
        held: policy.Bools,
        age: int,
        rows: Candidates,
    ) -> Decision:
        m = len(index)
        chosen = positive[index]
        since = np.zeros(m, dtype=np.int64)
        if chosen.any():
            since[chosen] = (rows.event_us[self.positive] - rows.request_time_us)[index][chosen]
        day = np.maximum(1, -(-since // DAY_US)).astype(np.int16)
        return Decision(
            index,
            chosen.astype(np.int8),
            np.ones(m, dtype=np.float32),
            np.full(m, EMISSIONS.index("aged"), dtype=np.int8),
            outcome,
            held,
            {
                "elapsed_days": np.ma.MaskedArray(np.full(m, age, dtype=np.int16), mask=np.zeros(m, dtype=np.bool_)),
                "return_day": np.ma.MaskedArray(day, mask=~chosen),
            },
        )
