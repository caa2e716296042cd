"""Where a topic ends for those who read it: control records and aborted rows of transactions are never handed out.

A transaction leaves a control record behind its rows, and an aborted one rows that nobody may see. The broker's end
offset counts both, so a stage that has had every row would seem to be behind for good: its partition would never count
as silent, its labels never be retired. So where the consumer has read up to the broker's end, the end is the offset
after the last message that was handed out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Generic, TypeVar

__all__ = ["VisibleEnds"]

P = TypeVar("P", bound=tuple[str, int])


class VisibleEnds(Generic[P]):
    """Ends of partitions as their readers can reach them. Belongs to the event loop that fetches."""

    def __init__(self) -> None:
        self._after: dict[P, int] = {}

    def sought(self, positions: Mapping[P, int]) -> None:
        """The partitions assigned, all of them, are read from these offsets on."""
        self._after = dict(positions)

    def read(self, after: Mapping[P, int]) -> None:
        """Polls were fetched; ``after`` is the offset after the last message of each."""
        self._after.update(after)

    def ends(self, ends: Mapping[P, int], positions: Mapping[P, int]) -> dict[P, int]:
        """``ends``, but where nothing visible is left before them: there the offset after the last message fetched.

        ``ends`` are the broker's, asked before ``positions`` were looked at: the offsets from which the consumer
        fetches next, in the partitions assigned here.
        """
        return {
            partition: self._after[partition]
            if partition in self._after and positions.get(partition, -1) >= end
            else end
            for partition, end in ends.items()
        }
