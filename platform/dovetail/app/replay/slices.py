"""A log cut into slices, of which events, requests and labels may be sent one after the other.

Of each slice the events go first, then the requests, then the labels. That is the same, to every request, as if all
had been sent in the order of their arrival, because a slice ends before an event that

- is not later than a request which came before it in the slice: that request must not see it; or
- is so much later than one that the stream would have moved beyond its ``allowed_lateness``: the request could
  then not be answered, and in the order of arrival it could.

Events at the very moment of a request are before it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from dovetail.app.replay.arriving import Source

__all__ = ["conflict", "next_end"]

Int64 = npt.NDArray[np.int64]


def conflict(
    event_arrival: Int64, event_time: Int64, request_arrival: Int64, request_time: Int64, lateness_us: int
) -> int | None:
    """The first arrival (µs) of an event that must not go before the requests that came before it; None: of none.

    All arrays are sorted by arrival. ``lateness_us`` is the stream's allowed lateness.
    """
    if len(request_arrival) == 0 or len(event_arrival) == 0:
        return None
    before = np.searchsorted(request_arrival, event_arrival, side="left") - 1
    newest = np.maximum.accumulate(request_time)[before]
    oldest = np.minimum.accumulate(request_time)[before]
    parted = (before >= 0) & ((event_time <= newest) | (event_time - lateness_us > oldest))
    found = np.flatnonzero(parted)
    return int(event_arrival[found[0]]) if len(found) else None


def next_end(
    streams: Sequence[Source],
    requests: Sequence[Source],
    labels: Sequence[Source],
    *,
    slice_us: int,
    most: int,
) -> int | None:
    """The end (exclusive, arrival in µs) of the slice that begins with the next row; None when there is no row left.

    It spans ``slice_us`` of arrival at most, and about ``most`` rows of each source. ``requests`` are those of scenes.
    """
    every = [*streams, *requests, *labels]
    arrivals = [arrival for source in every if (arrival := source.next_arrival) is not None]
    if not arrivals:
        return None
    end = min(arrivals) + slice_us
    for source in every:
        end = source.look(end, most)
    for asks in requests:
        asked = int(np.searchsorted(asks.arrival, end))
        for stream in streams:
            there = int(np.searchsorted(stream.arrival, end))
            cut = conflict(
                stream.arrival[:there],
                stream.times[:there],
                asks.arrival[:asked],
                asks.times[:asked],
                stream.lateness.allowed,
            )
            end = end if cut is None else min(end, cut)
    return end
