"""How far the offset of a partition may be committed, when a message stands for a whole run of offsets.

A driver hands out one message per poll; it covers the offsets ``[first, last]``. Acknowledgements arrive in any
order. The one guarantee: the committable offset never passes an offset that was handed out and not acknowledged.
Offsets may have holes inside a poll and between polls (compaction, transactions, retention); a hole needs no
acknowledgement, because nothing in it was handed out.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass

from faust.types import TP

from dovetail.platform.errors import TransportError

__all__ = ["AckLists", "AckTracker"]


@dataclass(slots=True)
class _Poll:
    first: int
    last: int
    acknowledged: bool = False


class AckTracker:
    """Acknowledgements of one partition.

    Not thread safe: it belongs to the event loop that hands out the polls.
    """

    __slots__ = ("_committable", "_pending", "_polls")

    def __init__(self) -> None:
        # By last offset, ascending because they are handed out so. The head is the oldest poll not acknowledged.
        self._polls: dict[int, _Poll] = {}
        self._pending = 0
        self._committable: int | None = None

    @property
    def committable(self) -> int | None:
        """The offset to commit (the next one to read), None while nothing has been acknowledged."""
        return self._committable

    @property
    def outstanding(self) -> int:
        """How many polls are handed out and not fully acknowledged."""
        return self._pending

    def deliver(self, first: int, last: int) -> None:
        """Record that ``[first, last]`` is being handed out.

        Raises TransportError when it does not follow what was handed out before: a driver that goes backwards
        without :meth:`rewind` would commit offsets nobody has seen.
        """
        newest = next(reversed(self._polls.values()), None)
        floor = newest.last + 1 if newest else (self._committable or 0)
        if last < first or first < floor:
            raise TransportError(
                f"poll [{first}, {last}] handed out where offset {floor} or later was due; "
                "rewind the partition before reading it again"
            )
        self._polls[last] = _Poll(first, last)
        self._pending += 1

    def ack(self, last: int) -> bool:
        """Acknowledge the whole poll that ends at ``last``; False when it is unknown or was acknowledged before."""
        poll = self._polls.get(last)
        if poll is None or poll.acknowledged:
            return False
        poll.acknowledged = True
        self._pending -= 1
        self._advance()
        return True

    def complete(self, offset: int) -> None:
        """Acknowledge every message handed out below ``offset``, which may lie inside a poll."""
        cut: _Poll | None = None
        for poll in self._polls.values():
            if poll.first >= offset:
                break
            if poll.last >= offset:
                cut = poll
                break
            if not poll.acknowledged:
                poll.acknowledged = True
                self._pending -= 1
        self._advance()
        if cut is not None and not cut.acknowledged:
            # Everything before this poll is acknowledged, so it is the head, and its first part may be committed.
            cut.first = offset
            self._committable = offset

    def rewind(self, offset: int) -> None:
        """Forget what was handed out at or after ``offset``: it is going to be handed out again."""
        for poll in [poll for poll in self._polls.values() if poll.last >= offset]:
            del self._polls[poll.last]
            if poll.first < offset:
                poll.last = offset - 1
                self._polls[poll.last] = poll
            elif not poll.acknowledged:
                self._pending -= 1
        if self._committable is not None and self._committable > offset:
            self._committable = offset

    def _advance(self) -> None:
        while self._polls:
            poll = next(iter(self._polls.values()))
            if not poll.acknowledged:
                return
            del self._polls[poll.last]
            self._committable = poll.last + 1


class _AckList:
    """Stands where Faust keeps the list of acked offsets, because its compiled stream iterator appends there itself."""

    __slots__ = ("append",)

    def __init__(self, append: Callable[[int], None]) -> None:
        self.append = append


class AckLists(defaultdict[TP, _AckList]):
    """By partition, such a list; made when Faust asks for it."""

    def __init__(self, acknowledge: Callable[[TP, int], None]) -> None:
        super().__init__()
        self._acknowledge = acknowledge

    def __missing__(self, tp: TP) -> _AckList:
        made = self[tp] = _AckList(lambda offset: self._acknowledge(tp, offset))
        return made
