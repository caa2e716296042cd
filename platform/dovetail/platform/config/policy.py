"""``[labels]`` and ``[labels.targets.NAME]``: the policy that makes samples of snapshots and labels.

What each policy means is in ``dovetail.joiners.policies``; here is what may be declared, and what contradicts itself.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from typing import Literal

from pydantic import Field, model_validator

from dovetail.platform.config.durations import DAY_US, DurationUs, render_duration
from dovetail.platform.config.section import Name, Section

__all__ = ["PolicyConfig"]

#: The keys that belong to one policy alone.
_OWN_KEYS = {
    "delayed": ("corrections", "unexposed_fraction", "negative_fraction"),
    "fast_emit": ("emit_after",),
    "return_days": ("days",),
}


class PolicyConfig(Section):
    """How samples of one target are made."""

    policy: Literal["delayed", "fast_emit", "return_days"] = "delayed"
    #: How long after ``request_time`` a label counts; for ``return_days``: an entry (the ``exposure`` kind).
    window: DurationUs
    exposure: Name = "exposure"
    positive: Name = "click"
    samples_topic: str = "samples"
    #: ``delayed``: a positive event up to this long after the window is sent as a correction. None: only counted.
    corrections: DurationUs | None = None
    #: ``delayed``: this fraction of the candidates never exposed become negatives, each of weight 1 / fraction.
    unexposed_fraction: float = Field(default=0.0, ge=0, le=1)
    #: ``delayed``: only this fraction of the exposed negatives is kept, each of weight 1 / fraction.
    negative_fraction: float = Field(default=1.0, gt=0, le=1)
    #: ``fast_emit``: how long after ``request_time`` exposures become negatives, then, ascending, when to look for
    #: positives again before the end of the window.
    emit_after: tuple[DurationUs, ...] = ()
    #: ``return_days``: the ages, in days after ``request_time``, at which a sample says whether it has converted.
    days: tuple[int, ...] = ()

    @model_validator(mode="after")
    def _holds_together(self) -> PolicyConfig:
        for policy, keys in _OWN_KEYS.items():
            for key in keys:
                if policy != self.policy and getattr(self, key) != type(self).model_fields[key].default:
                    raise ValueError(f"{key} belongs to policy {policy!r}, and this is {self.policy!r}; remove one")
        if self.exposure == self.positive:
            raise ValueError(f"exposure and positive are both {self.exposure!r}: every sample would be positive")
        if self.window == 0:
            raise ValueError("window is 0: no label could count; give it a duration like 15m")
        if self.policy == "fast_emit" and not self.emit_after:
            raise ValueError('fast_emit needs emit_after, like ["30s", "5m"]')
        if self.policy == "return_days" and not self.days:
            raise ValueError("return_days needs days, like [1, 3, 7]")
        horizons = self.horizons_us
        if any(later <= earlier for earlier, later in pairwise(horizons)):
            shown = ", ".join(render_duration(us) for us in horizons)
            raise ValueError(f"{self.policy} would look at {shown} after the request; each must be later than the last")
        return self

    @property
    def horizons_us(self) -> tuple[int, ...]:
        """When, after the request, this policy looks at the labels: microseconds, by lane."""
        if self.policy == "fast_emit":
            return (*self.emit_after, self.window)
        if self.policy == "return_days":
            return (self.window, *(days * DAY_US for days in self.days))
        return (self.window,) if self.corrections is None else (self.window, self.window + self.corrections)

    def sample_columns(self, kinds: Iterable[str]) -> tuple[str, ...]:
        """The columns of this policy's samples beside features and positions; ``kinds`` are the label streams."""
        ages = ("elapsed_days", "return_day") if self.policy == "return_days" else ()
        times = (f"{kind}_time" for kind in kinds)
        keys = ("request_id", "item_id", "request_time")
        return (*keys, "label", "weight", "emission", *ages, *times, "score", "model_version")

    @property
    def held_topics(self) -> tuple[str, ...]:
        """The topics in which snapshot rows wait for the lanes from 1 on."""
        return tuple(f"{self.samples_topic}-held-{lane}" for lane in range(1, len(self.horizons_us)))
