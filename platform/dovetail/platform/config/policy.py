"""``[labels]`` and ``[labels.targets.NAME]``: the policy that makes samples of snapshots and labels.

What each policy means is in ``dovetail.joiners.policies``; here is what may be declared, and what contradicts itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Annotated, Any, Literal

from pydantic import Field, PrivateAttr, model_validator

from dovetail.platform.config.durations import DAY_US, DurationUs, render_duration
from dovetail.platform.config.order import OrderConfig
from dovetail.platform.config.section import Name, Section
from dovetail.platform.config.stream import LabelStreamConfig

__all__ = ["LabelConfig", "PolicyConfig", "Reach"]

#: The latest age of a sample: longer than anybody will wait, and far from what a time can hold.
_MOST_DAYS = 100_000
#: The keys that belong to one policy alone.
_OWN_KEYS = {
    "delayed": ("corrections", "unexposed_fraction", "negative_fraction"),
    "fast_emit": ("emit_after",),
    "return_days": ("days",),
}


@dataclass(frozen=True, slots=True)
class Reach:
    """The needs of snapshots that were made under other settings, in microseconds after or before the request.

    ``lanes``, by target: how often one looks at its labels.
    """

    longest_us: int = 0
    early_us: int = 0
    lanes: Mapping[str, int] = field(default_factory=dict)


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
    days: tuple[Annotated[int, Field(ge=1, le=_MOST_DAYS)], ...] = ()
    #: How often rows of other settings look at their labels, see :meth:`LabelConfig.reaching`.
    _lanes: int = PrivateAttr(0)

    @model_validator(mode="after")
    def _holds_together(self) -> PolicyConfig:
        for policy, keys in _OWN_KEYS.items():
            for key in keys:
                if policy != self.policy and getattr(self, key) != type(self).model_fields[key].default:
                    raise ValueError(
                        f"{key}: it belongs to policy {policy!r}, and this is {self.policy!r}; remove it, or set that "
                        "policy"
                    )
        if self.exposure == self.positive:
            raise ValueError(
                f"exposure and positive are both {self.exposure!r}, and every sample would be positive; name two kinds"
            )
        if self.window == 0:
            raise ValueError("window: it is 0, and no label could count; give it a duration like 15m")
        if self.policy == "fast_emit" and not self.emit_after:
            raise ValueError('emit_after: policy fast_emit needs it; add one, like emit_after = ["30s", "5m"]')
        if self.policy == "return_days" and not self.days:
            raise ValueError("days: policy return_days needs them; add some, like days = [1, 3, 7]")
        horizons = self.horizons_us
        if any(later <= earlier for earlier, later in pairwise(horizons)):
            shown = ", ".join(render_duration(us) for us in horizons)
            raise ValueError(f"{self.policy} would look at {shown} after the request; make each later than the last")
        return self

    @property
    def horizons_us(self) -> tuple[int, ...]:
        """When, after the request, this policy looks at the labels: microseconds, by lane."""
        if self.policy == "fast_emit":
            return (*self.emit_after, self.window)
        if self.policy == "return_days":
            return (self.window, *(days * DAY_US for days in self.days))
        return (self.window,) if self.corrections is None else (self.window, self.window + self.corrections)

    def sample_columns(self, kinds: Iterable[str], values: Iterable[str] = ()) -> tuple[str, ...]:
        """The columns of this policy's samples beside features and positions.

        ``kinds`` are the label streams, ``values`` the columns that come from labels' own.
        """
        ages = ("elapsed_days", "return_day") if self.policy == "return_days" else ()
        times = (f"{kind}_time" for kind in kinds)
        keys = ("request_id", "item_id", "request_time")
        return (*keys, "label", "weight", "emission", *ages, *times, *values, "score", "model_version")

    @property
    def held_topics(self) -> tuple[str, ...]:
        """The topics in which snapshot rows wait for the lanes from 1 on."""
        lanes = max(self._lanes, len(self.horizons_us))
        return tuple(f"{self.samples_topic}-held-{lane}" for lane in range(1, lanes))


class LabelConfig(PolicyConfig):
    """Label streams, what they have in common, and the policy of the primary target."""

    #: A partition's clock is its newest event time minus this.
    allowed_lateness: DurationUs = 0
    #: A label further ahead of its message's timestamp is dead-lettered: it would release everybody's samples.
    max_ahead: DurationUs = 3_600_000_000
    #: A label that happened longer than this before its request is not its own. None: as long as ``allowed_lateness``.
    max_early: DurationUs | None = None
    #: A partition silent for this long, by the message timestamps of the others, is spoken for.
    idle_timeout: DurationUs = 300_000_000
    #: How long a label row is kept after its window has passed; also how far requests may be out of order.
    retention: DurationUs = 86_400_000_000
    streams: dict[Name, LabelStreamConfig]
    #: Shuffle samples and spread positives before the trainer reads them. None: it reads them as they were made.
    order: OrderConfig | None = None
    #: Further targets by name: samples of the same snapshots and label streams under another policy.
    targets: dict[Name, PolicyConfig] = Field(default_factory=dict)
    _reach: Reach = PrivateAttr(Reach())

    @model_validator(mode="after")
    def _streams_fit(self) -> LabelConfig:
        self._require_fit()
        return self

    def _require_fit(self) -> None:
        self._require_roles()
        self._require_names()
        self._require_retractions()

    def _require_roles(self) -> None:
        known = ", ".join(sorted(self.streams))
        for target, policy in self.every_target().items():
            where = f"targets.{target}." if target else ""
            for role, name in (("exposure", policy.exposure), ("positive", policy.positive)):
                if name not in self.streams:
                    raise ValueError(f"{where}{role}: {name!r} is no label stream; write one of {known}, or declare it")

    def _require_names(self) -> None:
        taken = {*self.sample_columns(self.streams), "elapsed_days", "return_day"}
        for kind, stream in self.streams.items():
            for column in stream.values:
                if (name := f"{kind}_{column}") in taken:
                    raise ValueError(
                        f"streams.{kind}.values: samples have a column {name!r} already; give {column} another name"
                    )
                taken.add(name)

    def _require_retractions(self) -> None:
        known = ", ".join(sorted(self.streams))
        for kind, stream in self.streams.items():
            back = stream.retracts
            if back is None:
                continue
            where = f"streams.{kind}.retracts: {back!r}"
            if back not in self.streams:
                raise ValueError(f"{where}: there is no such label stream; write one of {known}, or declare it")
            if self.streams[back].retracts is not None or back == kind:
                raise ValueError(f"{where}: a label that takes back cannot be taken back; name another kind")
            for target, policy in self.every_target().items():
                if back in (policy.exposure, policy.positive) and len(policy.horizons_us) > 1:
                    of = f"target {target}" if target else "the primary target"
                    raise ValueError(
                        f"{where}: {of} makes samples at {len(policy.horizons_us)} times by it, and what was sent at "
                        'one cannot be taken back at the next; use policy = "delayed" without corrections for it'
                    )

    @property
    def value_columns(self) -> tuple[str, ...]:
        """The columns of samples that come from labels' own columns, in the order declared."""
        return tuple(f"{kind}_{column}" for kind, stream in self.streams.items() for column in stream.values)

    def every_target(self) -> dict[str, PolicyConfig]:
        """The primary target, under the empty name, and the further ones."""
        return {"": self, **self.targets}

    @property
    def early_us(self) -> int:
        """How long before its request a label may have happened, in microseconds: as far as clocks may disagree."""
        return self.allowed_lateness if self.max_early is None else self.max_early

    @property
    def attributed(self) -> dict[str, int]:
        """The label streams without request, and how long before a label its request may be, in microseconds."""
        longest_us = self._declared_us
        return {
            kind: longest_us if stream.attribute_within is None else stream.attribute_within
            for kind, stream in self.streams.items()
            if stream.attribute is not None
        }

    @property
    def training_topic(self) -> str:
        """The topic the trainer reads."""
        return self.samples_topic if self.order is None else f"{self.samples_topic}-ordered"

    @property
    def longest_us(self) -> int:
        """The longest any target waits after the request, in microseconds, also for rows of other settings."""
        return max(self._reach.longest_us, self._declared_us)

    @property
    def furthest_early_us(self) -> int:
        """As :attr:`early_us`, also for rows of other settings."""
        return max(self._reach.early_us, self.early_us)

    def with_policy(self, policy: Mapping[str, Any]) -> LabelConfig:
        """These label streams, and what they have in common, under another policy: its values by key.

        Raises:
            ValueError: the streams are not there that it needs, or say what it cannot do.
        """
        mine = self.model_copy(update=dict(policy)).reaching(Reach())
        mine._require_fit()  # noqa: SLF001 - its own
        return mine

    def reaching(self, reach: Reach) -> LabelConfig:
        """These settings, with labels and held topics kept for rows of other settings, too."""
        targets = {name: policy.model_copy() for name, policy in self.targets.items()}
        mine = self.model_copy(update={"targets": targets})
        mine._reach = reach  # noqa: SLF001 - its own
        for name, policy in mine.every_target().items():
            policy._lanes = reach.lanes.get(name, 0)  # noqa: SLF001
        return mine

    @property
    def _declared_us(self) -> int:
        return max(policy.horizons_us[-1] for policy in self.every_target().values())
