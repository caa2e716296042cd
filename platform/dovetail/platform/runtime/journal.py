"""The lines a runtime writes to the log: assignments, rebalances, and the first dead letter of each kind."""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Collection, Iterable, Sequence

from dovetail.platform.logs import Event
from dovetail.platform.rows import wire
from dovetail.platform.stage import Outgoing

__all__ = ["Journal"]

_log = logging.getLogger(__name__)

#: What differs between two reasons of one kind: what was quoted, and numbers.
_VARYING = re.compile(r"'[^']*'|\"[^\"]*\"|`[^`]*`|\d+(?:[.,:]\d+)*")
_MAX_KIND = 200
#: Kinds told apart; what is beyond counts as one, whatever a sender makes up.
_MAX_KINDS = 1_000


class Journal:
    """Writes one line for each assignment and rebalance, and one for the first dead letter of each kind.

    A kind is stage, topic, and reason without what it quotes: a row's values are in the dead letter, not in the log.
    Further letters of a kind are counted; :meth:`stopped` says how many came.
    """

    def __init__(self) -> None:
        self._told: frozenset[tuple[str, int]] | None = None
        self._letters: Counter[tuple[str, str, str]] = Counter()

    def rebalancing(self, partitions: Collection[tuple[str, int]]) -> None:
        """A rebalance begins while ``partitions`` are assigned; that of a worker without any is no news."""
        if partitions:
            self._told = None
            _log.info(Event("rebalance", partitions=_spans(partitions)))

    def assigned(self, partitions: Collection[tuple[str, int]], gone: Collection[tuple[str, int]]) -> None:
        """``partitions`` are assigned now, and ``gone`` are not any more. Saying it again is no news."""
        if self._told != frozenset(partitions):
            self._told = frozenset(partitions)
            _log.info(Event("partitions assigned", partitions=_spans(partitions), gone=_spans(gone)))

    def published(self, outgoing: Sequence[Outgoing]) -> None:
        """The broker has these messages; dead letters may be among them."""
        for message in outgoing:
            if any(name == wire.REASON_HEADER for name, _ in message.headers):
                self._letter(message)

    def stopped(self) -> None:
        """The runtime has stopped: say how many dead letters there were of each kind that had more than one."""
        for (stage, topic, reason), letters in self._letters.items():
            if letters > 1:
                _log.info(Event("dead letters", stage=stage, topic=topic, reason=reason, letters=letters))

    def _letter(self, message: Outgoing) -> None:
        head = wire.letter_of(message.headers)
        kind = (head.stage, head.topic, _VARYING.sub("…", head.reason)[:_MAX_KIND])
        if kind not in self._letters and len(self._letters) >= _MAX_KINDS:
            kind = ("", "", "further kinds")
        self._letters[kind] += 1
        if self._letters[kind] == 1:
            stage, topic, reason = kind
            _log.info(
                Event(
                    "first dead letter of its kind",
                    stage=stage,
                    topic=topic,
                    partition=head.partition,
                    offset=head.offset,
                    reason=reason,
                )
            )


def _spans(partitions: Iterable[tuple[str, int]]) -> dict[str, str]:
    """Partitions by topic, neighbours together: ``0-3,5``."""
    numbers: dict[str, list[int]] = {}
    for topic, partition in sorted(partitions):
        numbers.setdefault(topic, []).append(partition)
    return {topic: ",".join(_ranges(of)) for topic, of in numbers.items()}


def _ranges(numbers: Sequence[int]) -> list[str]:
    starts = [n for n in numbers if n - 1 not in numbers]
    ends = [n for n in numbers if n + 1 not in numbers]
    return [f"{a}" if a == b else f"{a}-{b}" for a, b in zip(starts, ends, strict=True)]
