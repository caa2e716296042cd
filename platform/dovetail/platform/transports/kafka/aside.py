"""Records of partitions that are held back, fetched and set aside until they may be handed out: the next poll has all.

aiokafka has one fetch of a broker under way at a time, and a partition with records that nobody has taken is not in it.
Where its records were left in aiokafka's buffer while a stage was at work, the broker held the fetch of all others for
as long as it may, and only then was told that the partition is to be read, too. At 50 requests a second, three requests
that came while one was answered made five others wait for 80 ms. So records are taken at once, and every fetch has
every partition in it. What came in the meantime is one poll, which costs less than many.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping
from typing import Generic, TypeVar

from dovetail.platform.stage import Poll

__all__ = ["Aside"]

P = TypeVar("P")


class Aside(Generic[P]):
    """Consecutive polls by partition. Belongs to the event loop that fetches.

    A partition has room until its keys and values have ``most_bytes``; what one fetch brought is set aside whole.
    """

    def __init__(self, most_bytes: int, most_messages: int) -> None:
        self._most_bytes, self._most_messages = most_bytes, most_messages
        self._polls: defaultdict[P, list[Poll]] = defaultdict(list)
        self._bytes: defaultdict[P, int] = defaultdict(int)

    def put(self, polls: Mapping[P, Poll]) -> None:
        """Set these aside, each behind those of its partition that are there."""
        for partition, poll in polls.items():
            self._polls[partition].append(poll)
            self._bytes[partition] += _size(poll)

    def with_room(self, partitions: Collection[P]) -> set[P]:
        """Those of ``partitions`` that more may be fetched of."""
        return {partition for partition in partitions if self._bytes.get(partition, 0) < self._most_bytes}

    def take(self, partitions: Collection[P]) -> dict[P, Poll]:
        """The oldest messages of each of ``partitions`` that has some, at most ``most_messages`` of it, as one poll."""
        found = {}
        for partition in self._polls.keys() & partitions:
            poll = Poll.joined(self._polls.pop(partition))
            del self._bytes[partition]
            if len(poll) > self._most_messages:
                after = int(poll.offsets[self._most_messages])
                self.put({partition: poll.since(after)})
                poll = poll.before(after)
            found[partition] = poll
        return found

    def clear(self) -> None:
        """Forget all: it is fetched again from where its partition is read next."""
        self._polls.clear()
        self._bytes.clear()


def _size(poll: Poll) -> int:
    return sum(map(len, filter(None, poll.values))) + sum(map(len, filter(None, poll.keys)))
