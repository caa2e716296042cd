"""Polls of requests, cut by what they ask for: a poll is bounded by messages, and a message may ask for much."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dovetail.platform.rows.intake import Received
from dovetail.platform.rows.positions import OWN_COLUMNS
from dovetail.platform.stage import Poll

__all__ = ["parts_of"]

_CANDIDATES = "candidates"


def parts_of(poll: Poll, received: Received, most: int) -> list[tuple[Poll, Received]]:
    """``poll`` and what was ``received`` of it, in parts of whole messages with at most ``most`` candidates each.

    A message with more is a part by itself. Together the parts are the poll, in order; there is at least one.
    """
    rows = received.table
    counts = _candidates(rows)
    if counts.sum() <= most:
        return [(poll, received)]
    offsets = np.asarray(rows.column(OWN_COLUMNS[1]).to_numpy())
    by_message = np.zeros(len(poll), dtype=np.int64)
    np.add.at(by_message, np.searchsorted(poll.offsets, offsets), counts)
    cuts, held = [0], 0
    for index, count in enumerate(by_message.tolist()):
        if held + count > most and index > cuts[-1]:
            cuts.append(index)
            held = 0
        held += count
    starts = [int(poll.offsets[cut]) for cut in cuts]
    return [_part(poll, received, start, end) for start, end in zip(starts, [*starts[1:], poll.last + 1], strict=True)]


def _part(poll: Poll, received: Received, start: int, end: int) -> tuple[Poll, Received]:
    """What has offsets from ``start`` up to ``end``."""
    first, last = np.searchsorted(received.table.column(OWN_COLUMNS[1]).to_numpy(), (start, end)).tolist()
    mine = Received(
        received.table.slice(first, last - first),
        [letter for letter in received.dead if start <= letter.offset < end],
        [(offset, time_us) for offset, time_us in received.watermarks if start <= offset < end],
        [offset for offset in received.refused if start <= offset < end],
    )
    return poll.since(start).before(end), mine


def _candidates(requests: pa.Table) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """How many candidates each request has; int64."""
    lengths = pc.fill_null(pc.list_value_length(requests.column(_CANDIDATES)), 0)
    return np.asarray(lengths.to_numpy(), dtype=np.int64)
