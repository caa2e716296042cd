"""Records of partitions that are held back, fetched and set aside until they may be handed out: the next poll has all.

aiokafka has one fetch of a broker under way at a time, and a partition with records that nobody has taken is not in it.
Where its records were left in aiokafka's buffer while a stage was at work, the broker held the fetch of all others for
as long as it may, and only then was told that the partition is to be read, too. At 50 requests a second, three requests
that came while one was answered made five others wait for 80 ms. So records are taken at once, and every fetch has
every partition in it. What came in the meantime is one poll, which costs less than many.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Generic, TypeVar

__all__ = ["Aside"]

P = TypeVar("P")


class Aside(Generic[P]):
    """Consecutive records by partition. Belongs to the event loop that fetches.

    A partition has room until its keys and values have ``most_bytes``; what one fetch brought is set aside whole.
    """

    def __init__(self, most_bytes: int, most_records: int) -> None:
        self._most_bytes, self._most_records = most_bytes, most_records
        self._records: dict[P, list[Any]] = {}
        self._bytes: dict[P, int] = {}

    def put(self, records: Mapping[P, Sequence[Any]]) -> None:
        """Set these aside, behind those of their partitions that are there."""
        for partition, some in records.items():
            if not some:
                continue
            self._records.setdefault(partition, []).extend(some)
            self._bytes[partition] = self._bytes.get(partition, 0) + _size(some)

    def with_room(self, partitions: Collection[P]) -> set[P]:
        """Those of ``partitions`` that more may be fetched of."""
        return {partition for partition in partitions if self._bytes.get(partition, 0) < self._most_bytes}

    def take(self, partitions: Collection[P]) -> dict[P, list[Any]]:
        """The oldest records of each of ``partitions`` that has some, at most ``most_records``."""
        found = {}
        for partition in self._records.keys() & partitions:
            records = self._records.pop(partition)
            found[partition], left = records[: self._most_records], records[self._most_records :]
            del self._bytes[partition]
            if left:
                self.put({partition: left})
        return found

    def clear(self) -> None:
        """Forget all: it is fetched again from where its partition is read next."""
        self._records.clear()
        self._bytes.clear()


def _size(records: Sequence[Any]) -> int:
    return sum(len(record.key or b"") + len(record.value or b"") for record in records)
