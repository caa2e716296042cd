"""Where the days of a batch evaluation are computed: an interface, and the engine that is this process.

Work is described by values that another process can be sent. A day's rows and their features are handed to a *consumer*
where they are, so that nothing but its small result comes back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import pyarrow as pa

from dovetail.features.batch.one_view import earliest_read
from dovetail.features.batch.pieces import Limits, OnStep, PieceEvaluator, Span
from dovetail.features.batch.point_in_time import RowAssembly
from dovetail.features.batch.streaming import Visibility
from dovetail.features.plan.definitions import BatchView, FeatureColumn, FeatureSet, StreamView
from dovetail.features.serving.versions import ForEach
from dovetail.features.stored.past_requests import RequestLog
from dovetail.platform.archive.dayfiles import DAY_US, DayFiles, day_of, day_start_us

__all__ = ["Consumer", "DayEngine", "DayWork", "LocalDays", "Part", "VersionTables", "Versions"]


class Part(NamedTuple):
    """Some request rows of a day, and their features.

    ``happened`` has them by event time where the work asks for ``both``; it is the table ``values`` itself where it
    does not, and where every row had seen all events of its windows.
    """

    requests: pa.Table
    values: pa.Table
    happened: pa.Table


#: Takes a day, and its request rows with their features, part by part; its result travels. It may be called more than
#: once for a day, also at the same time and on several machines; the result of one of the calls is given back.
Consumer = Callable[[str, Iterator[Part]], Any]


class VersionTables(Protocol):
    """Versions of batch views."""

    def table(self, view: str, version_us: int) -> pa.Table:
        """The content of a version."""
        ...


class Versions(VersionTables, Protocol):
    """Versions that are made where they are missing (``serving/versions.py``)."""

    def stored(self, needed: Iterable[tuple[str, int]], each: ForEach = map) -> VersionTables:
        """The ``needed`` versions as a value that can be sent; those that are missing are made by ``each``."""
        ...


@dataclass(frozen=True, slots=True)
class DayWork:
    """An evaluation by days: ``columns`` of ``features`` for ``requests``, from ``events`` by stream.

    All of it but ``versions`` and ``scratch`` can be sent to other processes. ``both``: by event time, too, which needs
    the visibility ``as_served``.
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
    both: bool = False

    def spans(self, days: Sequence[str], rows: int) -> Iterator[list[str]]:
        """``days`` in order, cut where their events, windows' reach included, become more than ``rows``."""
        span: list[str] = []
        for day in days:
            if span and self._events_of(span[0], day) > rows:
                yield span
                span = []
            span.append(day)
        if span:
            yield span

    def _events_of(self, first: str, last: str) -> int:
        start, end = day_start_us(first), day_start_us(last) + DAY_US - 1
        reads = RowAssembly(self.features, self.columns, self.stream_views, self.batch_views, self.versions.table)
        return sum(
            self.events[branch.stream.name].rows(earliest_read(view, start), end)
            for view in reads.stream.values()
            for branch in view.reads
        )


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

    def each(self, function: Callable[[Any], Any], items: Sequence[Any]) -> Iterable[Any]:
        """The results of ``function`` for ``items``, in their order. Both can be sent to other processes."""
        ...


@dataclass(frozen=True, slots=True)
class LocalDays:
    """This process, its cores and its scratch folder."""

    span_rows: int = 32_000_000

    def each(self, function: Callable[[Any], Any], items: Sequence[Any]) -> Iterable[Any]:
        """As :class:`DayEngine`, one after the other, when it is asked for."""
        return map(function, items)

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
        span = Span(work.requests.at_most(days), day_start_us(days[0]), day_start_us(days[-1]) + DAY_US - 1)
        missing = list(days)
        for day, parts in groupby(_parts(evaluator, work, days, span), key=lambda part: _day(part.requests)):
            while missing[0] < day:  # days whose requests have no candidates
                yield missing[0], consume(missing.pop(0), iter(()))
            missing.remove(day)
            yield day, consume(day, parts)
        for day in missing:
            yield day, consume(day, iter(()))


def _parts(evaluator: PieceEvaluator, work: DayWork, days: Sequence[str], span: Span) -> Iterator[Part]:
    def rows() -> Iterator[pa.Table]:
        return work.requests.rows(days)

    if work.both:
        yield from (Part(*found) for found in evaluator.evaluate_both(rows, span))
    else:
        yield from (Part(table, values, values) for table, values in evaluator.evaluate(rows, span))


def _day(table: pa.Table) -> str:
    return day_of(int(table.column("request_time")[0].cast(pa.timestamp("us")).value))
