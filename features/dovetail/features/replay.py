"""Streaming views for past requests, through the real engine: events replayed in their order of arrival."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from dovetail.features.evaluate import StreamPreparer
from dovetail.features.plan import StreamView
from dovetail.features.stream.engine import StreamEngine
from dovetail.features.stream.keys import encode_keys
from dovetail.features.stream.prepare import NO_WATERMARK, Source, positions_of, prepare_rows, running_watermark
from dovetail.platform.errors import WireError

__all__ = ["Replayed", "ViewReplay", "replay_view", "with_positions"]

_Times = npt.NDArray[np.int64]


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
        self._preparer = StreamPreparer(view)
        self._states: dict[bytes, dict[int, bytes]] = {}
        self._watermarks: dict[int, int] = {}

    def apply(self, events: pa.Table) -> None:
        """Take in ``events``, in order of arrival, of any partitions."""
        partitions = np.asarray(events.column("_partition").to_numpy())
        for partition in np.unique(partitions).tolist():
            self._apply(partition, events.take(pa.array(np.flatnonzero(partitions == partition))))

    def _apply(self, partition: int, events: pa.Table) -> None:
        prepared = self._preparer.prepare(events)
        known = self._watermarks.get(partition, NO_WATERMARK)
        before, self._watermarks[partition] = running_watermark(prepared.event_time, known)
        keys, codes = encode_keys(prepared.entity)
        rows = prepare_rows(
            self.engine.layout,
            codes,
            prepared.event_time[prepared.kept],
            before[prepared.kept],
            prepared.arguments,
            prepared.filters,
            self.engine.collections,
            Source(partition, positions_of(events)[prepared.kept]),
        )
        applied = self.engine.apply([self._states.get(key, {}).get(partition) for key in keys], rows)
        for key, blob in zip(keys, applied.blobs, strict=True):
            self._states.setdefault(key, {})[partition] = blob

    def values(self, requests: pa.Table) -> Replayed:
        """The view at each request, as of now."""
        keys, codes = encode_keys([requests.column(column) for column in self.engine.view.entity])
        held = [(i, p, blob) for i, key in enumerate(keys) for p, blob in sorted(self._states.get(key, {}).items())]
        owners = np.array([key for key, _, _ in held], dtype=np.int32)
        watermark = max(self._watermarks.values(), default=NO_WATERMARK)
        return Replayed(*self.engine.values([b for _, _, b in held], owners, codes, _times(requests), watermark))


def replay_view(view: StreamView, events: pa.Table, requests: pa.Table, seen: str | None) -> Replayed:
    """``view`` at each request.

    A request is answered at the last moment at which the state still can: when all events up to its time have arrived,
    but none later than its time plus ``allowed_lateness``. An event that comes after that is not seen, as it would not
    be live. With ``seen``, the column with the first offset not seen by partition, it is answered at that moment.

    Raises:
        WireError: what a request had seen is not a prefix of the events' order of arrival.
    """
    events = with_positions(events)
    replay = ViewReplay(view)
    moments = _moments(view, events, requests) if seen is None else _prefixes(events, requests, seen)
    parts, order, applied = [], [], 0
    for moment in np.unique(moments).tolist():
        if moment > applied:
            replay.apply(events.slice(applied, moment - applied))
            applied = moment
        mine = np.flatnonzero(moments == moment)
        parts.append(replay.values(requests.take(pa.array(mine))))
        order.append(mine)
    if not parts:
        return replay.values(requests)
    place = np.argsort(np.concatenate(order))
    values = pa.concat_tables([part.values for part in parts]).take(pa.array(place)).combine_chunks()
    return Replayed(values, np.concatenate([part.answerable for part in parts])[place])


def _times(requests: pa.Table) -> _Times:
    times = requests.column("request_time").cast(pa.timestamp("us")).cast(pa.int64())
    return np.asarray(times.to_numpy(), dtype=np.int64)


def _moments(view: StreamView, events: pa.Table, requests: pa.Table) -> _Times:
    """How many events each request waits for: as few moments as serve all."""
    times = np.asarray(events.column(view.stream.event_time).cast(pa.int64()).to_numpy(), dtype=np.int64)
    asked = _times(requests)
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


def _prefixes(events: pa.Table, requests: pa.Table, seen: str) -> _Times:
    """How many events had arrived when each request was answered."""
    partitions, offsets = (np.asarray(events.column(c).to_numpy(), dtype=np.int64) for c in ("_partition", "_offset"))
    moments = np.zeros(requests.num_rows, dtype=np.int64)
    known: dict[tuple[int, ...], int] = {}
    for request, positions in enumerate(requests.column(seen).to_pylist()):
        key = tuple(positions or ())
        if key not in known:
            bounds = np.zeros(max(int(partitions.max(initial=-1)) + 1, len(key)), dtype=np.int64)
            bounds[: len(key)] = key
            arrived = offsets < bounds[partitions]
            known[key] = int(arrived.sum())
            if not arrived[: known[key]].all():
                raise WireError(
                    f"request {request} had seen positions {list(key)}, which is no prefix of the events; "
                    "give events in order of arrival"
                )
        moments[request] = known[key]
    return moments
