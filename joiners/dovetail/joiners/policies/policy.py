"""The interface of a policy: the rows it is given, and its answer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import numpy.typing as npt

__all__ = [
    "DOWN_SAMPLED",
    "EMISSIONS",
    "NEVER",
    "OUTCOMES",
    "SAMPLED",
    "UNEXPOSED",
    "UNEXPOSED_SAMPLED",
    "Bools",
    "Candidates",
    "Decision",
    "Int64",
    "Policy",
]

#: The time of a label that does not exist.
NEVER = int(np.iinfo(np.int64).max)

#: Why a sample was sent: the sample's flag column ``emission``. :class:`Decision` holds indexes into this.
EMISSIONS = ("delayed", "unexposed", "correction", "negative", "positive", "aged")

#: What became of a snapshot row in one lane. :class:`Decision` holds indexes into this.
OUTCOMES = ("sampled", "unexposed", "down_sampled", "unexposed_sampled", "waiting", "unchanged")
SAMPLED, UNEXPOSED, DOWN_SAMPLED, UNEXPOSED_SAMPLED, WAITING, UNCHANGED = range(len(OUTCOMES))

Int64 = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Candidates:
    """n snapshot rows whose horizon has passed, in log order, and their labels.

    ``effective_us`` and ``event_us`` by kind: int64 [n] µs, :data:`NEVER` where there is no such label; a kind nobody
    has is absent. ``score`` is the served probability, float32 [n]. ``chance`` draws a number in [0, 1) per row,
    float64 [n], always the same for a request and item.
    """

    request_time_us: Int64
    effective_us: Mapping[str, Int64]
    event_us: Mapping[str, Int64]
    score: npt.NDArray[np.float32]
    chance: Callable[[], npt.NDArray[np.float64]]

    def by(self, kind: str, horizon_us: int) -> Bools:
        """Bool [n]: rows whose label of ``kind`` took effect no later than the horizon after the request."""
        times = self.effective_us.get(kind)
        if times is None:
            return np.zeros(len(self.request_time_us), dtype=np.bool_)
        return times <= self.request_time_us + horizon_us


@dataclass(frozen=True, slots=True)
class Decision:
    """The samples of one lane.

    ``rows`` int64 [m], ascending: the row each sample is of; a row may have several. ``label`` int8 [m], ``weight``
    float32 [m], ``emission`` int8 [m]. ``outcome`` int8 [n]: each row's account. ``held`` bool [n]: rows the next lane
    must see. ``extra``: further columns, [m] each.
    """

    rows: Int64
    label: npt.NDArray[np.int8]
    weight: npt.NDArray[np.float32]
    emission: npt.NDArray[np.int8]
    outcome: npt.NDArray[np.int8]
    held: Bools
    extra: Mapping[str, np.ma.MaskedArray[tuple[int], np.dtype[np.int16]]] = field(default_factory=dict)


class Policy(ABC):
    """A policy over the label kinds ``exposure`` and ``positive``.

    Guarantees asked of an implementation: a decision depends on the labels that took effect within the lane's horizon
    and on nothing else; rows are decided one by one.
    """

    exposure: str
    positive: str
    #: By lane: how long after the request it decides, in microseconds, ascending.
    horizons_us: tuple[int, ...]
    #: What a positive event that is met in a lane from 1 on is counted as.
    later_outcome: ClassVar[str] = "sampled"

    @abstractmethod
    def decide(self, lane: int, rows: Candidates) -> Decision:
        """Decide for rows whose lane's horizon has passed; in lanes from 1 on, only rows held by the one before."""
