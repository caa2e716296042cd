"""The partition of a key, as Kafka's default partitioner has it, in both drivers."""

from __future__ import annotations

from functools import lru_cache

from aiokafka.partitioner import murmur2

__all__ = ["partition_of_key"]


@lru_cache(maxsize=1 << 16)
def _positive_hash(key: bytes) -> int:
    # The pure-Python murmur2 takes about 1 µs per 4 bytes, and keys repeat (users, items): remember them.
    return int(murmur2(key)) & 0x7FFFFFFF


def partition_of_key(key: bytes, partitions: int) -> int:
    """Partition of ``key`` among ``partitions``: murmur2 with the sign bit cleared, modulo, as the Java client does."""
    return _positive_hash(key) % partitions
