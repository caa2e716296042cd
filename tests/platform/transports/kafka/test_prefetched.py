"""Records that nobody takes for now: only of partitions that are to be read does a fetch wait for them to be taken."""

from __future__ import annotations

from types import SimpleNamespace

from aiokafka import TopicPartition
from aiokafka.consumer.fetcher import FetchError, FetchResult

from dovetail.platform.transports.kafka.prefetched import Prefetched

READ, HELD = TopicPartition("read", 0), TopicPartition("held", 0)


def fetched(partition: TopicPartition) -> FetchResult:
    return FetchResult(partition, assignment=None, partition_records=SimpleNamespace(), backoff=3600)


def test_records_of_partitions_that_are_held_back_are_waited_for_by_no_fetch() -> None:
    buffer = Prefetched()
    buffer[READ], buffer[HELD] = fetched(READ), fetched(HELD)
    assert buffer[HELD].calculate_backoff() > 0
    assert buffer.hold({HELD})
    assert (buffer[HELD].calculate_backoff(), buffer[READ].calculate_backoff() > 0) == (0, True)
    assert not buffer.hold({HELD})
    del buffer[HELD]
    # What a fetch brings that was under way.
    buffer[HELD] = fetched(HELD)
    assert buffer[HELD].calculate_backoff() == 0


def test_a_partition_that_is_read_again_is_waited_for_again() -> None:
    buffer = Prefetched()
    assert not buffer.hold({HELD})
    assert not buffer.hold(set())
    buffer[HELD] = FetchError(error=ValueError(), backoff=3600)
    assert buffer[HELD].calculate_backoff() > 0
