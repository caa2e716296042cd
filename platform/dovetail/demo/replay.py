"""A recorded log sent to the broker in event time, as fast as the stages follow.

The replay goes in slices. Of each slice it sends the events and waits until the features have them, then the requests
and waits until they are answered. Labels follow at most once in ``labels_every_us`` of arrival time, those of all
slices since (and, for each slice and label partition, the watermark the slice ends at); then it waits until what they
release is trained on. So a request at T is answered from the events that arrived before it, by the model that the
labels sent before it had made, in a sequence that is always the same. What the label topics hold, and so what samples
there are and in which order, does not depend on ``labels_every_us``; which version of the model scored a request does.

Sending a slice's events before its requests is the same as sending everything in the order it arrived, because a slice
ends before an event that a request of the slice would see although it arrived later.

Everything sent is a function of the log, so how far the replay has come is simply how many messages each topic holds.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from dovetail.demo.logs.recorded import ARRIVAL, HOUR_US, RecordedLog
from dovetail.platform.config.load import Config
from dovetail.platform.rows import wire
from dovetail.platform.rows.intake import WATERMARK_HEADER, time_us
from dovetail.platform.stage import Outgoing

__all__ = ["LABELS_EVERY_US", "Batch", "Replay", "slice_ends"]

#: How far the demo's labels follow behind (µs): half of what the simulator's log takes for a version of the model.
LABELS_EVERY_US = HOUR_US

_REQUESTS_PER_MESSAGE = 64


@dataclass(frozen=True, slots=True)
class Batch:
    """Messages of one topic in one phase of one slice. ``first`` counts the topic's messages before these."""

    topic: str
    first: int
    messages: Sequence[Outgoing]


def slice_ends(
    event_arrival: npt.NDArray[np.int64],
    event_time: npt.NDArray[np.int64],
    request_arrival: npt.NDArray[np.int64],
    request_time: npt.NDArray[np.int64],
    slice_us: int,
) -> npt.NDArray[np.int64]:
    """Ends (exclusive, arrival time µs) of the slices that cover the log.

    A slice spans at most ``slice_us`` of arrival time. It ends before an event whose time is not after that of a
    request which came before it in the same slice: that request must not see it. All arrays are sorted by arrival.
    """
    arrivals = [a for a in (event_arrival, request_arrival) if len(a)]
    if not arrivals:
        return np.zeros(0, dtype=np.int64)
    start, last = min(int(a[0]) for a in arrivals), max(int(a[-1]) for a in arrivals)
    # The newest request before each event in arrival (requests of the same instant come after the event).
    newest_request = np.maximum.accumulate(request_time) if len(request_time) else request_time
    before = np.searchsorted(request_arrival, event_arrival, side="left") - 1
    candidates = np.flatnonzero(before >= 0)
    candidates = candidates[event_time[candidates] <= newest_request[before[candidates]]]
    ends: list[int] = []
    following = iter(candidates.tolist())
    late = next(following, None)
    while start <= last:
        end = start + slice_us
        while late is not None and event_arrival[late] < end:
            first_request = int(np.searchsorted(request_arrival, start, side="left"))
            seen = request_time[first_request : before[late] + 1]
            if len(seen) and seen.max() >= event_time[late]:
                end = int(event_arrival[late])
                break
            late = next(following, None)
        ends.append(end)
        start = end
    return np.array(ends, dtype=np.int64)


class Replay:
    """The messages of a log, by slice and phase.

    A slice is no longer than the stream's ``allowed_lateness``: its first request must still be answerable when its
    last event is in.
    """

    def __init__(self, log: RecordedLog, config: Config, *, skew_us: int = 0, labels_every_us: int = 0) -> None:
        """``skew_us`` delays events against requests: features then lag by that much, as they would in production.

        ``labels_every_us``: labels go with the first slice that ends so long after the slice of the last ones; 0: with
        every slice.
        """
        self._config = config
        (self._stream_name, stream), *others = config.streams.items()
        if others:
            raise ValueError("a replay feeds one behaviour stream")
        self._stream = stream
        self._events = _Source(log.events, skew_us)
        self._requests = _Source(log.requests, 0)
        self._labels = {kind: _Source(log.labels[kind], 0) for kind in config.labels.streams}
        ends = slice_ends(
            self._events.arrival,
            time_us(log.events, stream.event_time),
            self._requests.arrival,
            time_us(log.requests, "request_time"),
            min(log.slice_us, stream.allowed_lateness),
        )
        last_label = max((int(s.arrival[-1]) for s in self._labels.values() if len(s.arrival)), default=0)
        # Slices without events and requests until the last label is in, and one announcement past every window.
        tail = np.arange(int(ends[-1]), last_label + log.slice_us, log.slice_us) + log.slice_us if len(ends) else ends
        self.ends = np.concatenate((ends, tail))
        #: Whether a slice has a phase of labels, bool [slices].
        self.labelled = _labelled(self.ends, labels_every_us)
        self.end_of_time_us = int(self.ends[-1]) + 2 * config.labels.window + config.labels.allowed_lateness

    def __len__(self) -> int:
        return len(self.ends)

    def phases(self) -> Iterator[tuple[int, list[list[Batch]]]]:
        """For each slice: its end (arrival µs) and three phases (events, requests, labels), each a list of batches."""
        sent: dict[str, int] = {}
        waiting: dict[str, list[Outgoing]] = {kind: [] for kind in self._labels}
        for number, end in enumerate(self.ends.tolist()):
            is_last = number == len(self.ends) - 1
            for kind, messages in waiting.items():
                messages += self._label_messages(kind, end, self.end_of_time_us if is_last else end)
            events = [self._batch(sent, self._stream.topic or self._stream_name, self._event_messages(end))]
            requests = [self._batch(sent, self._config.request.topic, self._request_messages(end))]
            labels: list[Batch] = []
            if self.labelled[number]:
                topics = {kind: self._config.labels.streams[kind].topic or kind for kind in waiting}
                labels = [self._batch(sent, topics[kind], messages) for kind, messages in waiting.items()]
                waiting = {kind: [] for kind in waiting}
            yield end, [[b for b in phase if b.messages] for phase in (events, requests, labels)]

    @staticmethod
    def _batch(sent: dict[str, int], topic: str, messages: list[Outgoing]) -> Batch:
        first = sent.get(topic, 0)
        sent[topic] = first + len(messages)
        return Batch(topic, first, messages)

    def _event_messages(self, end: int) -> list[Outgoing]:
        rows, arrival = self._events.until(end)
        if rows.num_rows == 0:
            return []
        topic = self._stream.topic or self._stream_name
        keys = [str(key).encode() for key in rows.column(self._stream.key).to_pylist()]
        values = wire.encode_json(rows)
        stamps = (arrival // 1_000).tolist()
        return [
            Outgoing(topic, value, key=key, timestamp_ms=stamp)
            for key, value, stamp in zip(keys, values, stamps, strict=True)
        ]

    def _request_messages(self, end: int) -> list[Outgoing]:
        rows, arrival = self._requests.until(end)
        partitions = self._config.request.partitions
        messages = []
        for start in range(0, rows.num_rows, _REQUESTS_PER_MESSAGE):
            part = rows.slice(start, _REQUESTS_PER_MESSAGE)
            stamp = int(arrival[min(start + _REQUESTS_PER_MESSAGE, rows.num_rows) - 1]) // 1_000
            partition = (start // _REQUESTS_PER_MESSAGE) % partitions
            messages.append(
                Outgoing(self._config.request.topic, wire.encode(part), partition=partition, timestamp_ms=stamp)
            )
        return messages

    def _label_messages(self, kind: str, end: int, announce: int) -> list[Outgoing]:
        rows, arrival = self._labels[kind].until(end)
        declared = self._config.labels.streams[kind]
        topic = declared.topic or kind
        stamps = (arrival // 1_000).tolist()
        messages = []
        if rows.num_rows:
            keys = [str(key).encode() for key in rows.column("request_id").to_pylist()]
            messages = [
                Outgoing(topic, value, key=key, timestamp_ms=stamp)
                for key, value, stamp in zip(keys, wire.encode_json(rows), stamps, strict=True)
            ]
        header = ((WATERMARK_HEADER, str(announce).encode()),)
        messages += [
            Outgoing(topic, b"", partition=partition, timestamp_ms=end // 1_000, headers=header)
            for partition in range(declared.partitions)
        ]
        return messages


def _labelled(ends: npt.NDArray[np.int64], every_us: int) -> npt.NDArray[np.bool_]:
    """Which slices end ``every_us`` or more after the one before that is chosen; the first and the last are, too."""
    chosen, last = np.zeros(len(ends), dtype=np.bool_), None
    for number, end in enumerate(ends.tolist()):
        if last is None or number == len(ends) - 1 or end - last >= every_us:
            chosen[number], last = True, end
    return chosen


class _Source:
    """A table sorted by arrival, handed out slice by slice without its arrival column."""

    def __init__(self, table: pa.Table, delay_us: int) -> None:
        self.arrival = time_us(table, ARRIVAL) + delay_us
        self._rows = table.drop_columns([ARRIVAL])
        self._at = 0

    def until(self, end: int) -> tuple[pa.Table, npt.NDArray[np.int64]]:
        stop = int(np.searchsorted(self.arrival, end, side="left"))
        start, self._at = self._at, max(stop, self._at)
        return self._rows.slice(start, self._at - start), self.arrival[start : self._at]
