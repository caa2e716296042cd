"""How far the offset of a partition may be committed, when a message stands for a whole run of offsets.

A driver hands out one message per poll; it covers the offsets ``[first, last]``. Acknowledgements arrive in any
order. The one guarantee: the committable offset never passes an offset that was handed out and not acknowledged.
Offsets may have holes inside a poll and between polls (compaction, transactions, retention); a hole needs no
acknowledgement, because nothing in it was handed out.
"""

from __future__ import annotations

from dataclasses import dataclass

from dovetail.platform.errors import TransportError

__all__ = ["AckTracker"]


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
        # Ascending by offset, by insertion: Python dicts keep it. The head is the oldest poll not acknowledged.
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
        self._polls[first] = _Poll(first, last)
        self._pending += 1

    def ack(self, first: int) -> bool:
        """Acknowledge the whole poll that starts at ``first``; False when it is unknown or was acknowledged before."""
        poll = self._polls.get(first)
        if poll is None or poll.acknowledged:
            return False
        poll.acknowledged = True
        self._pending -= 1
        self._advance()
        return True

    def complete(self, offset: int) -> None:
        """Acknowledge every message handed out below ``offset``, which may lie inside a poll."""
        for first in list(self._polls):
            poll = self._polls[first]
            if first >= offset:
                break
            if poll.last < offset:
                if not poll.acknowledged:
                    poll.acknowledged = True
                    self._pending -= 1
            elif not poll.acknowledged:
                # The rest of this poll stays handed out. It is the last one below ``offset``, so once the polls
                # before it are gone it is the head, and the part just acknowledged may be committed.
                self._advance()
                poll.first = offset
                self._committable = offset
        self._advance()

    def rewind(self, offset: int) -> None:
        """Forget what was handed out at or after ``offset``: it is going to be handed out again."""
        for first in list(self._polls):
            poll = self._polls[first]
            if poll.last < offset:
                continue
            if not poll.acknowledged:
                self._pending -= 1
            del self._polls[first]
            if poll.first < offset:
                self._polls[first] = _Poll(poll.first, offset - 1, poll.acknowledged)
                self._pending += not poll.acknowledged
        if self._committable is not None and self._committable > offset:
            self._committable = offset

    def _advance(self) -> None:
        while self._polls:
            first, poll = next(iter(self._polls.items()))
            if not poll.acknowledged:
                return
            del self._polls[first]
            self._committable = poll.last + 1
