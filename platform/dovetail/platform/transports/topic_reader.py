"""Reading what is in a topic already, beside the stages that read it in order."""

from __future__ import annotations

from collections.abc import Callable

from faust.types import TP

from dovetail.platform.stage import Poll
from dovetail.platform.transports.coalescing import CoalescingConsumer

__all__ = ["TopicReader"]


class TopicReader:
    """Reads a topic at any offset, without a position of its own. From any thread but the event loop's; blocks.

    Each call raises TransportError when the broker does not answer, or the worker stops.
    """

    def __init__(self, consumer: Callable[[], CoalescingConsumer], topic: str) -> None:
        self._consumer, self._topic = consumer, topic

    def bounds(self, partition: int) -> tuple[int, int]:
        """The first offset kept, and the next one."""
        return self._consumer().bounds_of(TP(self._topic, partition))

    def read(self, partition: int, offset: int) -> Poll | None:
        """Some messages from ``offset`` on, or from the first one kept; None where there is none."""
        return self._consumer().look_back(TP(self._topic, partition), offset)
