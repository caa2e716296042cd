"""aiokafka's buffer of what it has fetched ahead, in which a partition that is held back delays no other.

While aiokafka has records of a partition that nobody has taken, it asks the broker of it for nothing for a tenth
of a second: mostly they are taken at once, and the next fetch should have the partition in it. Records of a partition
that is held back (by a stage that waits for labels, for minutes) are not taken, and a fetch that brought some stopped
all partitions of the broker for that long, requests above all.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection
from typing import Any

from aiokafka.consumer.fetcher import FetchResult

from dovetail.platform.transports.kafka.fetched import as_polls

__all__ = ["Prefetched"]


class Prefetched(OrderedDict[Any, Any]):
    """Keeps what aiokafka has fetched, by partition, and gives it out as polls.

    Takes the place of its own buffer (``Fetcher._records``).
    """

    def __init__(self) -> None:
        super().__init__()
        self._held: Collection[Any] = frozenset()

    def __setitem__(self, partition: Any, fetched: Any) -> None:
        if isinstance(fetched, FetchResult):
            as_polls(fetched)
        if partition in self._held:
            _wait_for_nobody(fetched)
        super().__setitem__(partition, fetched)

    def hold(self, held: Collection[Any]) -> bool:
        """These partitions are held back, no others. Returns whether something waited for one of them to be taken."""
        self._held = held
        waited = [fetched for partition, fetched in self.items() if partition in held and fetched.calculate_backoff()]
        for fetched in waited:
            _wait_for_nobody(fetched)
        return bool(waited)


def _wait_for_nobody(fetched: Any) -> None:
    fetched._backoff = 0  # noqa: SLF001 - of aiokafka's FetchResult and FetchError
