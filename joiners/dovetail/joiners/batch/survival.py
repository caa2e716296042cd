"""The product-limit estimate of how long something takes, from rows of which some have not been watched for long.

Kaplan and Meier, "Nonparametric Estimation from Incomplete Observations", Journal of the American Statistical
Association 53 (1958); its variance by Greenwood (1926).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["Curve", "kaplan_meier"]

_Ints = npt.NDArray[np.int64]
_Floats = npt.NDArray[np.float64]
#: Standard deviations on either side of a 95 % interval.
_Z95 = 1.959964


@dataclass(frozen=True, slots=True, eq=False)
class Curve:
    """The share of rows that nothing has happened to, as a step function of time.

    ``times`` are the different times at which something happened, ascending; ``at_risk`` the rows watched until then
    that it had not happened to before, ``events`` those it happened to, ``survival`` the share left after it, and
    ``greenwood`` the sum of d / (n (n - d)), which is the variance of ``survival`` over its square.
    """

    times: _Ints
    at_risk: _Ints
    events: _Ints
    survival: _Floats
    greenwood: _Floats

    @property
    def happened(self) -> float:
        """The share of rows that it happens to in the time watched."""
        return 1.0 - float(self.survival[-1]) if len(self.times) else 0.0

    def by(self, time: int) -> float:
        """The share of rows that it has happened to by ``time``."""
        step = self._step(time)
        return 0.0 if step < 0 else 1.0 - float(self.survival[step])

    def caught(self, time: int) -> float | None:
        """Of all that happens in the time watched, the share that has happened by ``time``; None when nothing does."""
        return self.by(time) / self.happened if self.happened > 0 else None

    def caught_interval(self, time: int) -> tuple[float, float] | None:
        """The 95 % interval of :meth:`caught`; None when nothing happens.

        The survival s to ``time`` and the survival u from there on are independent, and what is caught is
        (1 - s) / (1 - s u): the delta method on Greenwood's variances of both.
        """
        share = self.caught(time)
        if share is None:
            return None
        step, last = self._step(time), len(self.times) - 1
        s, before = (1.0, 0.0) if step < 0 else (float(self.survival[step]), float(self.greenwood[step]))
        u = float(self.survival[last]) / s if s > 0 else 0.0
        after = float(self.greenwood[last]) - before
        if not (math.isfinite(before) and math.isfinite(after)):
            return 0.0, 1.0
        whole = 1.0 - s * u
        by_s, by_u = (u - 1.0) / whole**2, (1.0 - s) * s / whole**2
        deviation = math.sqrt((by_s * s) ** 2 * before + (by_u * u) ** 2 * after)
        return max(0.0, share - _Z95 * deviation), min(1.0, share + _Z95 * deviation)

    def within(self, share: float) -> int | None:
        """The first time by which at least ``share`` of all that happens has happened; None when nothing does."""
        if not len(self.times):
            return None
        reached = 1.0 - self.survival >= share * self.happened - 1e-12
        return int(self.times[int(np.argmax(reached))])

    def _step(self, time: int) -> int:
        return int(np.searchsorted(self.times, time, side="right")) - 1


def kaplan_meier(delays: _Ints, watched: _Ints, horizon: int) -> Curve:
    """The curve of rows that something happened to after ``delays`` (-1: not yet), watched for so long: int64 [n] each.

    Rows are watched until ``horizon`` at most. What happened later than its row was watched is taken as not seen.
    """
    seen = np.minimum(watched, horizon)
    happened = (delays >= 0) & (delays <= seen)
    left = np.sort(np.where(happened, delays, seen))
    times, events = np.unique(delays[happened], return_counts=True)
    # Who is no more watched at the time of an event was watched until then.
    at_risk = len(left) - np.searchsorted(left, times, side="left")
    survival = np.cumprod(1.0 - events / at_risk, dtype=np.float64)
    with np.errstate(divide="ignore"):
        greenwood = np.cumsum(events / (at_risk * (at_risk - events)))
    return Curve(times, at_risk, events.astype(np.int64), survival, greenwood)
