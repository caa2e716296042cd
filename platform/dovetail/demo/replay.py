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
#: A slice has a handful of events and labels; encoding these takes as long as encoding hundreds.
_ENCODED_AT_ONCE = 2_000


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
        (name, stream), *others = config.streams.items()
        if others:
            raise ValueError("a replay feeds one behaviour stream")
        self._events = _JsonSource(log.events, skew_us, stream.topic or name, stream.key)
        self._requests = _Source(log.requests, 0)
        self._labels = {
            kind: _JsonSource(log.labels[kind], 0, declared.topic or kind, "request_id")
            for kind, declared in config.labels.streams.items()
        }
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
            events = [self._batch(sent, self._events.topic, self._events.messages_until(end))]
            requests = [self._batch(sent, self._config.request.topic, self._request_messages(end))]
            labels: list[Batch] = []
            if self.labelled[number]:
                labels = [self._batch(sent, self._labels[kind].topic, messages) for kind, messages in waiting.items()]
                waiting = {kind: [] for kind in waiting}
            yield end, [[b for b in phase if b.messages] for phase in (events, requests, labels)]

    @staticmethod
    def _batch(sent: dict[str, int], topic: str, messages: list[Outgoing]) -> Batch:
        first = sent.get(topic, 0)
        sent[topic] = first + len(messages)
        return Batch(topic, first, messages)

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
        source, header = self._labels[kind], ((WATERMARK_HEADER, str(announce).encode()),)
        announcements = [
            Outgoing(source.topic, b"", partition=partition, timestamp_ms=end // 1_000, headers=header)
            for partition in range(self._config.labels.streams[kind].partitions)
        ]
        return [*source.messages_until(end), *announcements]


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
        start, stop = self._advance(end)
        return self._rows.slice(start, stop - start), self.arrival[start:stop]

    def _advance(self, end: int) -> tuple[int, int]:
        stop = int(np.searchsorted(self.arrival, end, side="left"))
        start, self._at = self._at, max(stop, self._at)
        return start, self._at


class _JsonSource(_Source):
    """A table whose rows are sent to ``topic`` as JSON, each by itself, by the value of the column ``key``."""

    def __init__(self, table: pa.Table, delay_us: int, topic: str, key: str) -> None:
        super().__init__(table, delay_us)
        self.topic = topic
        self._key = key
        # Messages that are encoded and not yet handed out, and how many rows are encoded.
        self._ahead: list[Outgoing] = []
        self._encoded = 0

    def messages_until(self, end: int) -> list[Outgoing]:
        start, stop = self._advance(end)
        while self._encoded < stop:
            self._ahead += self._next_messages()
        given, self._ahead = self._ahead[: stop - start], self._ahead[stop - start :]
        return given

    def _next_messages(self) -> list[Outgoing]:
        rows = self._rows.slice(self._encoded, _ENCODED_AT_ONCE)
        stamps = (self.arrival[self._encoded : self._encoded + rows.num_rows] // 1_000).tolist()
        self._encoded += rows.num_rows
        keys = [str(key).encode() for key in rows.column(self._key).to_pylist()]
        return [
            Outgoing(self.topic, value, key=key, timestamp_ms=stamp)
            for key, value, stamp in zip(keys, wire.encode_json(rows), stamps, strict=True)
        ]
