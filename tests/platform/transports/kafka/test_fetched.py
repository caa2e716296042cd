"""What aiokafka has fetched as polls: the same messages as its own records, without an object for each."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from aiokafka import TopicPartition
from aiokafka.consumer.fetcher import READ_COMMITTED, FetchResult, PartitionRecords
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.memory_records import MemoryRecords

from dovetail.platform.stage import Poll
from dovetail.platform.transports.kafka.fetched import as_polls, coalesced

PLACE = TopicPartition("topic", 3)
MESSAGES: list[tuple[int, int, bytes | None, bytes | None, list[tuple[str, bytes | None]]]] = [
    (0, 1_700_000_000_000, b"key", b"value", []),
    (1, 1_700_000_000_001, None, b"", [("a", b"1"), ("a", b"2")]),
    (3, 1_699_999_999_999, b"", None, [("none", None)]),
    (4, 0, b"k" * 100, b"v" * 1000, []),
]


class Assigned:
    """aiokafka's assignment and its one partition's state, without an event loop."""

    active, paused, position = True, False, 0

    def state_value(self, _: TopicPartition) -> Assigned:
        return self

    def consumed_to(self, position: int) -> None:
        self.position = position


def fetched() -> FetchResult:
    """A fetch of all, as of an assignment that has read nothing yet."""
    builder = DefaultRecordBatchBuilder(2, 0, 0, -1, -1, -1, 1 << 20)
    for message in MESSAGES:
        builder.append(*message)
    records = PartitionRecords(PLACE, MemoryRecords(bytes(builder.build())), [], 0, None, None, True, READ_COMMITTED)
    return FetchResult(PLACE, assignment=Assigned(), partition_records=records, backoff=0)


def columns(poll: Poll) -> list[Any]:
    times = [poll.offsets.tolist(), poll.timestamps_ms.tolist()]
    return [poll.topic, poll.partition, *times, poll.keys, poll.values, [list(headers) for headers in poll.headers]]


def test_a_poll_has_what_the_records_have() -> None:
    ours = fetched()
    as_polls(ours)
    poll: Any = ours.getall()
    assert columns(poll) == columns(coalesced("topic", 3, fetched().getall()))
    assert columns(poll) == ["topic", 3, *map(list, zip(*MESSAGES, strict=True))]
    assert poll.offsets.dtype == poll.timestamps_ms.dtype == np.int64
    assert not ours.has_more()


@pytest.mark.parametrize("most", [1, 3])
def test_a_fetch_is_taken_in_parts_and_positions_follow(most: int) -> None:
    ours = fetched()
    as_polls(ours)
    found: list[int] = []
    while ours.has_more():
        poll: Any = ours.getall(most)
        if poll:
            assert len(poll) <= most
            found += poll.offsets.tolist()
            assert ours._assignment.position == found[-1] + 1
    assert found == [offset for offset, *_ in MESSAGES]
