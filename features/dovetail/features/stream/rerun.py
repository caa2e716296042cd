"""Streaming views for past requests, through the real engine: events replayed in their order of arrival."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from dovetail.features.batch.relation import by_stream
from dovetail.features.expressions.execute import StreamPreparer
from dovetail.features.plan.definitions import StreamView
from dovetail.features.plan.sources import Place, source_of
from dovetail.features.stream.engine import StreamEngine
from dovetail.features.stream.keys import encode_keys
from dovetail.features.stream.prepare import NO_WATERMARK, RowOrigin, positions_of, prepare_rows, running_watermark
from dovetail.platform.errors import WireError

__all__ = ["Replayed", "ViewReplay", "replay_view", "with_positions"]

_Times = npt.NDArray[np.int64]
_POSITION = ("_partition", "_offset")


class Replayed(NamedTuple):
    """Values in request order; NULL where ``answerable`` is False: the state could not answer exactly."""

    values: pa.Table
    answerable: npt.NDArray[np.bool_]


def with_positions(events: pa.Table) -> pa.Table:
    """``events`` with position columns; where they have none, one partition in the order of the table."""
    if "_offset" in events.column_names:
        return events
    rows = events.num_rows
    columns = {
        "_partition": pa.array(np.zeros(rows), pa.int32()),
        "_offset": pa.array(np.arange(rows, dtype=np.int64)),
        "_row": pa.array(np.zeros(rows), pa.int32()),
    }
    for name, column in columns.items():
        events = events.append_column(name, column)
    return events


class ViewReplay:
    """One view's engine with its states in memory: what a worker and its online store are to each other."""

    def __init__(self, view: StreamView) -> None:
        self.engine = StreamEngine(view)
        self._preparers = [StreamPreparer(view, branch) for branch in range(len(view.reads))]
        self._states: dict[bytes, dict[int, bytes]] = {}
        self._watermarks: dict[int, int] = {}

    def apply(self, events: pa.Table, branch: int = 0) -> None:
        """Take in ``events`` of one branch's stream, in order of arrival, of any partitions."""
        partitions = np.asarray(events.column("_partition").to_numpy())
        for partition in np.unique(partitions).tolist():
            self._apply(Place(branch, partition), events.take(pa.array(np.flatnonzero(partitions == partition))))

    def _apply(self, place: Place, events: pa.Table) -> None:
        prepared = self._preparers[place.branch].prepare(events)
        source = source_of(self.engine.view, place)
        known = self._watermarks.get(source, NO_WATERMARK)
        before, self._watermarks[source] = running_watermark(prepared.event_time, known)
        keys, codes = encode_keys(prepared.entity)
        rows = prepare_rows(
            self.engine.layout,
            codes,
            prepared.event_time[prepared.kept],
            before[prepared.kept],
            prepared.arguments,
            prepared.filters,
            self.engine.collections,
            RowOrigin(source, positions_of(events)[prepared.kept]),
        )
        applied = self.engine.apply([self._states.get(key, {}).get(source) for key in keys], rows)
        for key, blob in zip(keys, applied.blobs, strict=True):
            self._states.setdefault(key, {})[source] = blob

    def values(self, requests: pa.Table) -> Replayed:
        """The view at each request, as of now."""
        keys, codes = encode_keys([requests.column(column) for column in self.engine.view.entity])
        held = [(i, p, blob) for i, key in enumerate(keys) for p, blob in sorted(self._states.get(key, {}).items())]
        owners = np.array([key for key, _, _ in held], dtype=np.int32)
        watermark = max(self._watermarks.values(), default=NO_WATERMARK)
        times = _us(requests, "request_time")
        return Replayed(*self.engine.values([b for _, _, b in held], owners, codes, times, watermark))


class _Arrivals:
    """The events of all branches of a view in one order of arrival.

    Those of one branch come in the order of their table. Between branches nothing is known of it; they are put
    together as if each stream were up to date: an event comes when the newest time of its stream, up to it, does.
    """

    def __init__(self, view: StreamView, events: Mapping[str, pa.Table]) -> None:
        self._tables = [with_positions(events[branch.stream.name]) for branch in view.reads]
        times = [_us(t, branch.stream.event_time) for t, branch in zip(self._tables, view.reads, strict=True)]
        newest = np.concatenate([np.maximum.accumulate(mine) for mine in times])
        self._branches = np.repeat(np.arange(len(times)), [len(mine) for mine in times])
        self._rows = np.concatenate([np.arange(len(mine)) for mine in times])
        self.times = np.concatenate(times)
        columns = [[np.asarray(t.column(c).to_numpy(), dtype=np.int64) for t in self._tables] for c in _POSITION]
        partitions, self.offsets = (np.concatenate(column) for column in columns)
        self.sources = partitions * len(times) + self._branches
        if len(times) > 1:
            self._reorder(np.argsort(newest, kind="stable"))

    def as_seen(self, seen: list[tuple[int, ...]]) -> None:
        """Put the branches together anew, so that what was seen each time is, if it can be, a prefix."""
        if len(self._tables) == 1:
            return
        moments = np.full(len(self.times), np.iinfo(np.int64).max)
        for positions in sorted(seen, key=sum, reverse=True):
            moments[self.visible(positions)] = sum(positions)
        self._reorder(np.argsort(moments, kind="stable"))

    def visible(self, seen: tuple[int, ...]) -> npt.NDArray[np.bool_]:
        """A mask of the events at offsets below those ``seen``, by source."""
        bounds = np.zeros(max(int(self.sources.max(initial=-1)) + 1, len(seen)), dtype=np.int64)
        bounds[: len(seen)] = seen
        return np.asarray(self.offsets < bounds[self.sources])

    def replay(self, replay: ViewReplay, start: int, end: int) -> None:
        """Let the events that arrive from ``start`` up to ``end`` be taken in."""
        for branch, table in enumerate(self._tables):
            rows = self._rows[start:end][self._branches[start:end] == branch]
            if len(rows):
                replay.apply(table.take(pa.array(rows)), branch)

    def _reorder(self, order: _Times) -> None:
        self._branches, self._rows, self.times = self._branches[order], self._rows[order], self.times[order]
        self.sources, self.offsets = self.sources[order], self.offsets[order]


def replay_view(
    view: StreamView, events: pa.Table | Mapping[str, pa.Table], requests: pa.Table, seen: str | None
) -> Replayed:
    """``view`` at each request; ``events`` by stream, or of its one stream, each in order of arrival.

    A request is answered at the last moment at which the state still can: when all events up to its time have arrived,
    but none later than its time plus ``allowed_lateness``. An event that comes after that is not seen, as it would not
    be live. With ``seen``, the column with the first offset not seen by source, it is answered at that moment.

    Raises:
        WireError: a stream is missing, or what a request had seen is not a prefix of the events' order of arrival.
    """
    arrivals = _Arrivals(view, by_stream(view, events))
    replay = ViewReplay(view)
    moments = _moments(view, arrivals, requests) if seen is None else _prefixes(arrivals, requests, seen)
    parts, order, applied = [], [], 0
    for moment in np.unique(moments).tolist():
        if moment > applied:
            arrivals.replay(replay, applied, moment)
            applied = moment
        mine = np.flatnonzero(moments == moment)
        parts.append(replay.values(requests.take(pa.array(mine))))
        order.append(mine)
    if not parts:
        return replay.values(requests)
    place = np.argsort(np.concatenate(order))
    values = pa.concat_tables([part.values for part in parts]).take(pa.array(place)).combine_chunks()
    return Replayed(values, np.concatenate([part.answerable for part in parts])[place])


def _us(table: pa.Table, column: str) -> _Times:
    times = table.column(column).cast(pa.timestamp("us")).cast(pa.int64())
    return np.asarray(times.to_numpy(), dtype=np.int64)


def _moments(view: StreamView, arrivals: _Arrivals, requests: pa.Table) -> _Times:
    """How many events each request waits for: as few moments as serve all."""
    times, asked = arrivals.times, _us(requests, "request_time")
    latest = np.searchsorted(
        np.maximum.accumulate(times), asked + view.stream.allowed_lateness_us, side="right"
    ).astype(np.int64)
    # The least time from each event on: a request is ready where it passes the request's own time.
    least = np.minimum.accumulate(times[::-1])[::-1]
    ready = np.minimum(np.searchsorted(least, asked, side="right"), latest)
    moments, now = latest.copy(), -1
    for request in np.argsort(latest, kind="stable").tolist():
        if ready[request] > now:
            now = int(latest[request])
        moments[request] = now
    return moments


def _prefixes(arrivals: _Arrivals, requests: pa.Table, seen: str) -> _Times:
    """How many events had arrived when each request was answered."""
    wanted = [tuple(positions or ()) for positions in requests.column(seen).to_pylist()]
    arrivals.as_seen(list(dict.fromkeys(wanted)))
    moments = np.zeros(requests.num_rows, dtype=np.int64)
    known: dict[tuple[int, ...], int] = {}
    for request, key in enumerate(wanted):
        if key not in known:
            arrived = arrivals.visible(key)
            known[key] = int(arrived.sum())
            if not arrived[: known[key]].all():
                raise WireError(
                    f"request {request} had seen positions {list(key)}, which is no prefix of the events; "
                    "give events in order of arrival"
                )
        moments[request] = known[key]
    return moments
