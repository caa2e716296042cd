"""A span of days on a cluster: look, decide where rows go, evaluate, and give each day's result."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dovetail.features.batch.one_view import earliest_read
from dovetail.features.batch.pieces import OnStep
from dovetail.features.stored.day_engine import Consumer, DayWork
from dovetail.spark.cluster import Cluster, Stage
from dovetail.spark.day_assembly import Finish
from dovetail.spark.each import Each
from dovetail.spark.frames import ERROR, RESULT, Frame
from dovetail.spark.routing import Route, routed
from dovetail.spark.sent import EventPart, RequestPart, SentWork, raised, sent_work
from dovetail.spark.survey import Survey, found_of
from dovetail.spark.tasks import Evaluate, Ship

__all__ = ["SparkDays", "checked"]

_LOG = logging.getLogger(__name__)

#: Rows of an item at most, where a file can be cut; and of a task at least, where there are enough for all cores.
_ROWS_PER_ITEM = 4_000_000
_LEAST_PER_TASK = 100_000
#: Event parts of a view that are looked into.
_LOOKED_INTO = 64


@dataclass(frozen=True, slots=True)
class SparkDays:
    """A cluster as the engine of days (``features/stored/day_engine.py``).

    A span is one job: days come when all of it has been computed, so a driver that is ended loses at most a span. Days
    without errors are given before an error of another day is raised.
    """

    cluster: Cluster
    span_rows: int = 1_000_000_000

    def days(
        self, work: DayWork, days: Sequence[str], consume: Consumer, on_step: OnStep | None
    ) -> Iterator[tuple[str, Any]]:
        """As :class:`~dovetail.features.stored.day_engine.DayEngine`."""
        say = on_step or _silent
        sent = sent_work(work, days)
        requests = [
            RequestPart(number, day, split)
            for number, day in enumerate(days)
            for split in range(work.requests.splits(day))
        ]
        events = _event_parts(work, sent)
        looked = [part for name in sent.stream for part in _some([e for e in events if e.view == name])]
        tasks = 2 * self.cluster.tasks_at_once  # each sends what it found to the driver, up to 2 MiB a view
        say("survey", 0, 3)
        seen: list[RequestPart | EventPart] = [*requests, *looked]
        found = found_of(
            checked(self.cluster.run(len(seen), [Stage(Survey(sent, seen), min(len(seen), tasks))])),
            {name: _rows(work, sent, name) for name in sent.stream},
        )
        routes, tasks = self._routes(sent, found.probes, found.events)
        say("evaluation", 1, 3)
        asked = [e for e in events if e.view in found.keys]
        ship = Ship(
            sent,
            [*requests, *asked],
            routes,
            {name: np.packbits(keys).tobytes() for name, keys in found.keys.items()},
        )
        stages = [
            Stage(ship, self._partitions(len(ship.items))),
            Stage(Evaluate(sent, routes), tasks),
            Stage(Finish(sent, routes, work.versions.stored(found.versions, self.each), consume), len(days)),
        ]
        frames = self.cluster.run(len(ship.items), stages)
        results = {frame.to: frame.value() for frame in frames if frame.kind == RESULT}
        say("evaluation", 3, 3)
        for number in sorted(results):
            yield days[number], results[number]
        checked(frames)

    def each(self, function: Callable[[Any], Any], items: Sequence[Any], at_once: int | None = None) -> list[Any]:
        """As :class:`~dovetail.features.stored.day_engine.DayEngine`, an item a task, or in ``at_once`` tasks."""
        if not items:
            return []
        frames = checked(self.cluster.run(len(items), [Stage(Each(function, items), at_once or len(items))]))
        results = {frame.a: frame.value() for frame in frames}
        return [results[number] for number in range(len(items))]

    def _partitions(self, items: int) -> int:
        """As many as there are items, but no more than the cluster has use for."""
        return max(1, min(items, 16 * self.cluster.tasks_at_once))

    def _routes(self, sent: SentWork, probes: Any, events: Any) -> tuple[dict[str, Route], int]:
        """The route of each view that has probes, and the number of tasks."""
        routes, tasks = {}, 0
        for name, view in sent.stream.items():
            given = [*probes.get(name, ()), *events.get(name, ())]
            total = sum(len(sampled.hashes) * sampled.weight for sampled in given)
            even = max(_LEAST_PER_TASK, int(total / (2 * self.cluster.tasks_at_once)))
            target = max(1, min(sent.limits.piece, even))
            routes[name] = routed(view, probes.get(name, ()), events.get(name, ()), target, tasks)
            tasks += routes[name].tasks
            if routes[name].whole:
                _LOG.warning(
                    "%s: a key has about %s rows and stays in one task: its windows have no bound in time, or reach "
                    "over all of them",
                    name,
                    f"{routes[name].whole:,}",
                )
        return routes, max(1, tasks)


def _event_parts(work: DayWork, sent: SentWork) -> list[EventPart]:
    parts = []
    for name, view in sent.stream.items():
        reach = earliest_read(view, sent.low_us)
        for number, branch in enumerate(view.reads):
            log = work.events[branch.stream.name]
            parts += [EventPart(name, number, files) for files in log.parts(reach, sent.high_us, _ROWS_PER_ITEM)]
    return parts


def _rows(work: DayWork, sent: SentWork, name: str) -> int:
    view = sent.stream[name]
    reach = earliest_read(view, sent.low_us)
    return sum(work.events[branch.stream.name].rows(reach, sent.high_us) for branch in view.reads)


def _some(parts: Sequence[EventPart]) -> list[EventPart]:
    """Some of ``parts``, evenly."""
    chosen = np.unique(np.linspace(0, len(parts) - 1, min(len(parts), _LOOKED_INTO), dtype=np.int64))
    return [parts[number] for number in chosen.tolist()] if parts else []


def checked(frames: Sequence[Frame]) -> Sequence[Frame]:
    """``frames``, if none of them tells of an error; else the earliest stage's is raised."""
    errors = [frame for frame in frames if frame.kind == ERROR]
    if errors:
        raise raised(min(errors, key=lambda frame: frame.b))
    return frames


def _silent(what: str, done: int, of: int) -> None:
    """Nobody wants to know."""
