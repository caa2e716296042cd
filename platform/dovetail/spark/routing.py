"""Routes of a view's probes and events to tasks: whole keys by their hash, and a hot one's by stretches of time.

Keys are counted in *slots*, low bits of their hash. Slots are given to tasks one after the other until a task has its
rows. A slot with more than two tasks' rows is *hot*: its probes are cut at moments into stretches with as many probes
each, and an event goes to every stretch whose windows reach it. Where the windows have no bound that would make no
stretch smaller, and the slot stays whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from dovetail.features.batch.one_view import earliest_read
from dovetail.features.plan.definitions import StreamView

__all__ = ["Route", "Sampled", "routed"]

#: A cut is worth its repeated events when the largest stretch is below this share of the whole, and all stretches
#: together have no more than so many times its rows.
_SMALLER = 0.8
_REPEATED = 2.0
_SLOTS_PER_TASK = 32
_MOST_SLOTS = 1 << 20


@dataclass(frozen=True, slots=True)
class Sampled:
    """Keys' hashes (uint64 ``[n]``) and times (µs, int64 ``[n]``) of some rows, each standing for ``weight`` rows."""

    hashes: npt.NDArray[np.uint64]
    times: npt.NDArray[np.int64]
    weight: float


@dataclass(frozen=True, slots=True)
class _Cut:
    """A hot slot's stretches: they begin at ``bounds``, all but the first, and reach back to ``reaches``."""

    bounds: npt.NDArray[np.int64]
    reaches: npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Route:
    """The tasks ``first … first + tasks - 1`` of a view, and what goes to which.

    Attributes:
        task_of: by slot, the task, a hot slot's first one.
        whole: rows of the largest hot slot that could not be cut, about; 0 where there is none.
    """

    first: int
    tasks: int
    task_of: npt.NDArray[np.int64]
    cuts: dict[int, _Cut] = field(default_factory=dict)
    whole: int = 0

    def probes(self, hashes: npt.NDArray[np.uint64], times: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """int64 ``[n]``: the task of each probe."""
        slots = self._slots(hashes)
        to = self.task_of[slots]
        for slot, cut in self.cuts.items():
            mine = slots == slot
            to[mine] += np.searchsorted(cut.bounds, times[mine], side="right")
        return to

    def events(
        self, hashes: npt.NDArray[np.uint64], times: npt.NDArray[np.int64]
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Rows and their tasks, int64 ``[m]`` each, rows ascending; an event may go to several tasks or none."""
        slots = self._slots(hashes)
        rows, to = np.arange(len(slots)), self.task_of[slots]
        for slot, cut in self.cuts.items():
            mine = slots[rows] == slot
            at = times[rows[mine]]
            # The stretches with probes at or after the event, less those that begin too late to reach it.
            low, high = np.searchsorted(cut.bounds, at, side="right"), np.searchsorted(cut.reaches, at, side="right")
            copies = np.maximum(high - low + 1, 0)
            steps = np.arange(copies.sum()) - np.repeat(np.cumsum(copies) - copies, copies)
            again = np.repeat(rows[mine], copies)
            rows = np.concatenate([rows[~mine], again])
            to = np.concatenate([to[~mine], self.task_of[slot] + np.repeat(low, copies) + steps])
            order = np.argsort(rows, kind="stable")
            rows, to = rows[order], to[order]
        return rows, to

    def _slots(self, hashes: npt.NDArray[np.uint64]) -> npt.NDArray[np.int64]:
        return (hashes & np.uint64(len(self.task_of) - 1)).astype(np.int64)


def routed(view: StreamView, probes: Sequence[Sampled], events: Sequence[Sampled], target: int, first: int) -> Route:
    """The route of ``view`` for so many rows, as near to ``target`` rows a task as they go; tasks from ``first`` on."""
    total = sum(len(s.hashes) * s.weight for s in (*probes, *events))
    slots = 1 << min(_MOST_SLOTS.bit_length() - 1, max(10, int(total / target * _SLOTS_PER_TASK).bit_length()))
    counts = sum((_counted(sampled, slots) for sampled in (*probes, *events)), np.zeros(slots))
    task_of = np.zeros(slots, dtype=np.int64)
    cuts, whole, task, filled = {}, 0, first, 0.0
    for slot in np.flatnonzero(counts).tolist():
        cut = None
        if counts[slot] > 2 * target:
            cut = _cut(view, _within(probes, slot, slots), _within(events, slot, slots), counts[slot], target)
            whole = whole if cut is not None else max(whole, int(counts[slot]))
        if filled and (cut is not None or filled + counts[slot] > target):
            task, filled = task + 1, 0.0
        task_of[slot] = task
        if cut is not None:
            cuts[slot] = cut
            task += len(cut.bounds) + 1
        else:
            filled += counts[slot]
    tasks = max(1, task - first + int(filled > 0))
    # A slot that no sampled row had may have rows all the same: they go where there is room.
    unseen = np.flatnonzero(counts == 0)
    task_of[unseen] = first + unseen % tasks
    return Route(first, tasks, task_of, cuts, whole)


def _counted(sampled: Sampled, slots: int) -> npt.NDArray[np.float64]:
    found = (sampled.hashes & np.uint64(slots - 1)).astype(np.int64)
    return np.bincount(found, minlength=slots).astype(np.float64) * np.float64(sampled.weight)


def _within(all_: Sequence[Sampled], slot: int, slots: int) -> list[Sampled]:
    found = []
    for sampled in all_:
        mine = sampled.hashes & np.uint64(slots - 1) == slot
        found.append(Sampled(sampled.hashes[mine], sampled.times[mine], sampled.weight))
    return found


def _cut(
    view: StreamView, probes: Sequence[Sampled], events: Sequence[Sampled], rows: float, target: int
) -> _Cut | None:
    """Stretches of a hot slot, as many as are worth it; None when no cut makes it smaller."""
    asked = np.sort(np.concatenate([sampled.times for sampled in probes]))
    if not len(asked) or earliest_read(view, int(asked[0])) is None:
        return None
    wanted = min(len(asked), max(2, int(-(-rows // target))))
    while wanted >= 2:
        bounds = np.unique(asked[np.arange(1, wanted) * len(asked) // wanted])
        bounds = bounds[bounds > asked[0]]
        if len(bounds):
            reaches = np.array([earliest_read(view, bound) for bound in bounds.tolist()], dtype=np.int64)
            sizes = _sizes(bounds, reaches, probes, events)
            if sizes.max() < _SMALLER * rows and sizes.sum() < _REPEATED * rows:
                return _Cut(bounds, reaches)
        wanted //= 2
    return None


def _sizes(
    bounds: npt.NDArray[np.int64],
    reaches: npt.NDArray[np.int64],
    probes: Sequence[Sampled],
    events: Sequence[Sampled],
) -> npt.NDArray[np.float64]:
    """The rows of each stretch."""
    stretches = len(bounds) + 1
    sizes = np.zeros(stretches)
    for sampled in probes:
        at = np.searchsorted(bounds, sampled.times, side="right")
        sizes += np.bincount(at, minlength=stretches) * sampled.weight
    for sampled in events:
        low = np.searchsorted(bounds, sampled.times, side="right")
        high = np.searchsorted(reaches, sampled.times, side="right")
        change = np.bincount(low, minlength=stretches + 1).astype(np.float64)
        change -= np.bincount(np.maximum(high, low - 1) + 1, minlength=stretches + 1)
        sizes += np.cumsum(change)[:stretches] * sampled.weight
    return sizes
