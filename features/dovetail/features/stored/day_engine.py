"""Where the days of a batch evaluation are computed: an interface, and the engine that is this process.

Work is described by values that another process can be sent. A day's rows and their features are handed to a *consumer*
where they are, so that nothing but its small result comes back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa

from dovetail.features.batch.pieces import Limits, OnStep, PieceEvaluator, Span
from dovetail.features.batch.streaming import Visibility
from dovetail.features.plan.definitions import BatchView, FeatureColumn, FeatureSet, StreamView
from dovetail.features.stored.past_requests import RequestLog
from dovetail.platform.archive.dayfiles import DAY_US, DayFiles, day_of, day_start_us

__all__ = ["Consumer", "DayEngine", "DayWork", "LocalDays", "VersionTables", "Versions"]

#: Takes a day, and its request rows with their features, part by part; its result travels. It may be called more than
#: once for a day, also at the same time and on several machines; the result of one of the calls is given back.
Consumer = Callable[[str, Iterator[tuple[pa.Table, pa.Table]]], Any]


class VersionTables(Protocol):
    """Versions of batch views."""

    def table(self, view: str, version_us: int) -> pa.Table:
        """The content of a version."""
        ...


class Versions(VersionTables, Protocol):
    """Versions that are made where they are missing (``serving/versions.py``)."""

    def stored(self, needed: Iterable[tuple[str, int]]) -> VersionTables:
        """The ``needed`` versions, made, as a value that can be sent."""
        ...


@dataclass(frozen=True, slots=True)
class DayWork:
    """An evaluation by days: ``columns`` of ``features`` for ``requests``, from ``events`` by stream.

    All of it but ``versions`` and ``scratch`` can be sent to other processes.
    """

    features: FeatureSet
    columns: Sequence[FeatureColumn]
    stream_views: Mapping[str, StreamView]
    batch_views: Mapping[str, BatchView]
    events: Mapping[str, DayFiles]
    requests: RequestLog
    versions: Versions
    scratch: Path
    visibility: Visibility = "event_time"
    limits: Limits = field(default_factory=Limits)


class DayEngine(Protocol):
    """Computes days. No value, and no order of rows, depends on which engine does."""

    @property
    def span_rows(self) -> int:
        """How many events a span of days may have before a new one is begun."""
        ...

    def days(
        self, work: DayWork, days: Sequence[str], consume: Consumer, on_step: OnStep | None
    ) -> Iterator[tuple[str, Any]]:
        """Each of ``days``, ascending, with the consumer's result; a day without rows is consumed, too.

        Raises:
            WireError, StateError, DefinitionError: as the views' evaluation; days given before are right.
        """
        ...


@dataclass(frozen=True, slots=True)
class LocalDays:
    """This process, its cores and its scratch folder."""

    span_rows: int = 32_000_000

    def days(
        self, work: DayWork, days: Sequence[str], consume: Consumer, on_step: OnStep | None
    ) -> Iterator[tuple[str, Any]]:
        """As :class:`DayEngine`; a day is given as soon as its last row is there."""
        evaluator = PieceEvaluator(
            work.features,
            work.columns,
            work.stream_views,
            work.batch_views,
            work.events,
            work.versions.table,
            visibility=work.visibility,
            limits=work.limits,
            scratch=work.scratch,
            on_step=on_step,
        )
        count = sum(table.num_rows for table in work.requests.rows(days))
        span = Span(count, day_start_us(days[0]), day_start_us(days[-1]) + DAY_US - 1)
        missing = list(days)
        evaluated = evaluator.evaluate(lambda: work.requests.rows(days), span)
        for day, parts in groupby(evaluated, key=lambda part: _day(part[0])):
            while missing[0] < day:  # days whose requests have no candidates
                yield missing[0], consume(missing.pop(0), iter(()))
            missing.remove(day)
            yield day, consume(day, parts)
        for day in missing:
            yield day, consume(day, iter(()))


def _day(table: pa.Table) -> str:
    return day_of(int(table.column("request_time")[0].cast(pa.timestamp("us")).value))
