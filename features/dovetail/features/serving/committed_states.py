"""States that a stage has committed itself, kept so that it need not read them again.

What is kept is a view of the store, never ahead of it: a state is taken in when its commit has succeeded, and given
out while the reader stands at exactly the position that commit moved to. Anybody else's commit would have moved the
position on, and the compare-and-set lets no commit pass that computed with an older one. A state that may have left
the store by its age is not given out either, so that with and without this the same states are computed with.

A view may be built again beside its worker and put in place at just the position where the worker stands
(:meth:`OnlineStore.promote`). So with each read one state that is known is read, too: if the store has another, nothing
is known any more. Of another definition each state is another.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field

from dovetail.platform.stores.online import OnlineStore, ViewCommit

__all__ = ["CommittedStates"]

_BUDGET = 64 << 20
#: What a state takes in memory beside its bytes and those of its key.
_EACH = 250
_FOR_EVER = 1 << 63

_Known = dict[bytes, tuple[int, bytes]]


@dataclass(slots=True)
class _Part:
    """The states of one view and source: by key the age that the store remembers it by, and the state.

    ``older`` has what was committed before the memory was half full, and goes when it is so again.
    """

    next_offset: int = -1
    leaving_before_us: int = -_FOR_EVER
    recent: _Known = field(default_factory=dict)
    older: _Known = field(default_factory=dict)


class CommittedStates:
    """Reads states of source partitions from ``store``, and from memory what :meth:`committed` was told of.

    Bounded: of about ``budget`` bytes, the states that were committed last. Thread-safe for different partitions; the
    calls for one partition come one after the other.
    """

    def __init__(self, store: OnlineStore, budget: int = _BUDGET) -> None:
        self._store = store
        self._budget = budget
        self._parts: dict[tuple[str, int], _Part] = {}
        self._recent_bytes = 0
        self._lock = threading.Lock()

    def read(self, view: str, source: int, next_offset: int, keys: Sequence[bytes]) -> list[bytes | None]:
        """As :meth:`OnlineStore.read_partition`, for a reader that has come to ``next_offset``."""
        part = self._parts.get((view, source))
        if part is None or part.next_offset != next_offset:
            return self._read_anew(view, source, keys)
        recent, older, before = part.recent, part.older, part.leaving_before_us
        found: list[bytes | None] = []
        missing: list[int] = []
        for at, key in enumerate(keys):
            known = recent.get(key) or older.get(key)
            if known is None or known[0] < before:
                missing.append(at)
                found.append(None)
            else:
                found.append(known[1])
        probe = next((at for at, state in enumerate(found) if state is not None), None)
        asked = missing if probe is None else [*missing, probe]
        read = self._store.read_partition(view, source, [keys[at] for at in asked]) if asked else []
        if probe is not None and read[-1] != found[probe]:
            return self._read_anew(view, source, keys)
        for at, state in zip(missing, read, strict=False):
            found[at] = state
        return found

    def committed(self, source: int, commit: ViewCommit) -> None:
        """Take in the states of a commit that has succeeded."""
        with self._lock:
            part = self._parts.get((commit.view, source))
            if part is None or part.next_offset != commit.expected:
                part = self._parts[commit.view, source] = _Part()
            age = _FOR_EVER if commit.age_us is None else commit.age_us
            for key, state in commit.changed.items():
                if state:
                    part.recent[key] = age, state
                    self._recent_bytes += len(key) + len(state) + _EACH
                else:
                    part.recent.pop(key, None)
                    part.older.pop(key, None)
            before = commit.leaving_before_us
            part.leaving_before_us = -_FOR_EVER if before is None else max(before, part.leaving_before_us)
            part.next_offset = commit.progress.next_offset
            if self._recent_bytes > self._budget // 2:
                self._recent_bytes = 0
                for each in self._parts.values():
                    each.older, each.recent = each.recent, {}

    def forget(self) -> None:
        """Drop everything, as when partitions are assigned anew."""
        with self._lock:
            self._parts.clear()
            self._recent_bytes = 0

    def _read_anew(self, view: str, source: int, keys: Sequence[bytes]) -> list[bytes | None]:
        """Forget what is known, and read."""
        with self._lock:
            self._parts.pop((view, source), None)
        return self._store.read_partition(view, source, keys)
