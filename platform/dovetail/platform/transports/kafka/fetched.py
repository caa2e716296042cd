"""The records of a fetch as a poll."""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter
from typing import Any

import numpy as np

from dovetail.platform.stage import Poll

__all__ = ["coalesced"]

_offsets, _timestamps = attrgetter("offset"), attrgetter("timestamp")


def coalesced(records: Sequence[Any]) -> Poll:
    """Consecutive records of one partition, at least one, as one poll."""
    size = len(records)
    return Poll(
        records[0].topic,
        records[0].partition,
        np.fromiter(map(_offsets, records), dtype=np.int64, count=size),
        np.fromiter(map(_timestamps, records), dtype=np.int64, count=size),
        [record.key for record in records],
        [record.value for record in records],
        [record.headers for record in records],
    )
