"""Messages from outside that some reader could not use, remembered for all readers of their topic.

Most of what is wrong with a message can be read off it, and every intake turns it away alike. Some of it cannot: that
computing it raised, that it ended a process, that it came from the future by the clock of the worker that read it. So
who finds such a message writes down that it is refused, before anything is committed, and from then on every intake of
the topic turns it away, in this process and after every start. What was archived of it before does not count
(:meth:`~dovetail.platform.stores.registry.store.Registry.refused_rows`).
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Callable, Mapping

__all__ = ["Refusals"]

_MAX_REASON = 2_000


class Refusals:
    """The messages refused of every topic, by offset, with the reason. Thread-safe; one for all stages of a process."""

    def __init__(
        self,
        load: Callable[[str, int], Mapping[int, str]],
        keep: Callable[[str, int, Mapping[int, str]], None],
    ) -> None:
        """``load`` reads what is refused of a topic and partition; ``keep`` adds to it, durably, when it returns."""
        self._load, self._keep = load, keep
        self._known: dict[tuple[str, int], dict[int, str]] = {}
        self._offsets: dict[tuple[str, int], list[int]] = {}
        self._lock = threading.Lock()

    def within(self, topic: str, partition: int, first: int, last: int) -> dict[int, str]:
        """The reasons of what is refused from offset ``first`` to ``last``, by offset."""
        with self._lock:
            known = self._of(topic, partition)
            if not known:
                return {}
            offsets = self._offsets[topic, partition]
            return {offset: known[offset] for offset in offsets[bisect_left(offsets, first) :] if offset <= last}

    def add(self, topic: str, partition: int, reasons: Mapping[int, str]) -> None:
        """Refuse messages, by offset; who was refused before keeps its reason. Durable when it returns.

        A reason may quote the message: it is kept as text that any store and header takes, of 2,000 characters at most.
        """
        reasons = {offset: _plain(reason) for offset, reason in reasons.items()}
        self._keep(topic, partition, reasons)
        with self._lock:
            known = self._of(topic, partition)
            known |= {offset: reason for offset, reason in reasons.items() if offset not in known}
            self._offsets[topic, partition] = sorted(known)

    def forget(self, topic: str) -> None:
        """Read what is refused of ``topic`` again when it is next asked for: others may have added to it."""
        with self._lock:
            for key in [key for key in self._known if key[0] == topic]:
                del self._known[key], self._offsets[key]

    def _of(self, topic: str, partition: int) -> dict[int, str]:
        if (topic, partition) not in self._known:
            loaded = dict(self._load(topic, partition))
            self._known[topic, partition], self._offsets[topic, partition] = loaded, sorted(loaded)
        return self._known[topic, partition]


def _plain(reason: str) -> str:
    return reason[:_MAX_REASON].encode("utf-8", "backslashreplace").decode().replace("\0", "\\0")
