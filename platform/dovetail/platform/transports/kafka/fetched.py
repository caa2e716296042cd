"""The records of a fetch as a poll."""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter
from typing import Any

import numpy as np

from dovetail.platform.stage import Poll

__all__ = ["as_polls", "coalesced"]

_offsets, _timestamps = attrgetter("offset"), attrgetter("timestamp")


def coalesced(topic: str, partition: int, records: Sequence[Any]) -> Poll:
    """Consecutive records of one partition, at least one, as one poll."""
    size = len(records)
    return Poll(
        topic,
        partition,
        np.fromiter(map(_offsets, records), dtype=np.int64, count=size),
        np.fromiter(map(_timestamps, records), dtype=np.int64, count=size),
        [record.key for record in records],
        [record.value for record in records],
        [tuple(record.headers) for record in records],
    )


def as_polls(fetched: Any) -> None:
    """Let aiokafka's ``FetchResult`` give out polls where it would give lists of records.

    It makes an object of each record, of eleven members, of which a poll keeps five as columns. Of a fetch of ten
    thousand small ones that is half of the time, and so many objects that live on set off searches for garbage.
    """
    topic, partition = fetched._topic_partition  # noqa: SLF001 - there is no public way
    fetched._partition_records._consumer_record = _as_it_is  # noqa: SLF001
    getall = fetched.getall

    def poll(most: int | None = None) -> Poll | Sequence[Any]:
        records = getall(most)
        return coalesced(topic, partition, records) if records else records

    fetched.getall = poll


def _as_it_is(_: Any, record: Any) -> Any:
    return record
