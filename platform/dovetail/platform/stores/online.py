"""The online store: feature state by key, beside the positions it includes.

State is kept per (view, key, source partition). Each source partition has one writer, so its state and its position
can be committed together without asking anybody; a reader merges the partitions of a key, which every supported
aggregate allows.

A key's state leaves when event time has passed its last use: when the watermark of its partition is more than the
view's ``retention_us`` beyond what it was when the state last changed. Each commit removes what has become old, a
bounded number of keys and the oldest first, together with moving the watermark. A clock on the wall has no say in it:
a worker that stands still, or replays last month, loses nothing that its positions say is there.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dovetail.platform.rows.accounts import Account
from dovetail.platform.rows.positions import Progress

__all__ = ["KeyStates", "OnlineStore", "ViewCommit", "scope_of"]


@dataclass(frozen=True, slots=True)
class ViewCommit:
    """The change of one view's state by a part of one partition: keys to new state, and the position after it.

    An empty state removes the key. ``retention_us`` is how long, in event time, a state can matter after its last
    change; None is for ever.
    """

    view: str
    expected: int
    progress: Progress
    changed: Mapping[bytes, bytes]
    retention_us: int | None = None

    @property
    def age_us(self) -> int | None:
        """The watermark that the changed keys are remembered by; None where they stay for ever.

        Rounded up, so that a busy key's is seldom rewritten; and so a key stays up to a sixteenth longer.
        """
        if self.retention_us is None or self.progress.watermark_us is None:
            return None
        grain = max(1, self.retention_us // 16)
        return -(-self.progress.watermark_us // grain) * grain

    @property
    def leaving_before_us(self) -> int | None:
        """Keys remembered by a watermark below this may leave."""
        if self.retention_us is None or self.progress.watermark_us is None:
            return None
        return self.progress.watermark_us - self.retention_us

    @property
    def leaving(self) -> int:
        """How many keys may leave: more than come, and a bounded amount of work."""
        return 500 + 2 * len(self.changed)


@dataclass(frozen=True, slots=True)
class KeyStates:
    """States of the keys asked for, all partitions: ``blobs[i]`` belongs to key ``key_index[i]`` (int32).

    Sorted by key index, then partition. ``progress`` is what these states include, by partition: a partition's position
    and its states, of all views asked for, are read in one snapshot, so a position is never ahead of or behind them.
    Different partitions may be read at slightly different moments; nothing compares their positions.
    """

    key_index: npt.NDArray[np.int32]
    blobs: Sequence[bytes]
    progress: Mapping[int, Progress]


class OnlineStore(ABC):
    """Feature state with the compare-and-set commit. Safe for use from several threads."""

    @abstractmethod
    def progress(self, view: str) -> Mapping[int, Progress]:
        """The progress that the state of ``view`` includes, by source partition."""

    @abstractmethod
    def read(self, keys: Mapping[str, Sequence[bytes]]) -> dict[str, KeyStates]:
        """States of several views' distinct keys, each source partition from one consistent snapshot."""

    @abstractmethod
    def keys(self, view: str, limit: int) -> list[bytes]:
        """Keys of ``view`` that have a state, each once, at most ``limit``; which of more is the store's choice."""

    @abstractmethod
    def read_partition(self, view: str, partition: int, keys: Sequence[bytes]) -> list[bytes | None]:
        """States of ``keys`` from one source partition, in the order asked; None where there is none."""

    @abstractmethod
    def commit(self, partition: int, commits: Sequence[ViewCommit], accounts: Sequence[Account]) -> None:
        """Store all of it or none of it, and let leave what has become old.

        Raises:
            StaleCommit: a view's stored position is not the expected one.
            StoreError: whether it was stored is not known; the worker must end and read the position again.
        """

    @abstractmethod
    def promote(self, source: str, target: str, *, expected: Mapping[int, int]) -> None:
        """Let the state, positions and accounts of view ``source`` take the place of ``target``'s, all or nothing.

        ``expected`` is ``target``'s next offset by partition, empty when it has no state. ``source`` is gone after it.

        Raises:
            StaleCommit: ``target``'s positions are others, or ``source`` has none; nothing was changed.
        """

    @abstractmethod
    def accounts(self) -> list[Account]:
        """The accounts kept with this store."""

    @abstractmethod
    def close(self) -> None:
        """Release connections."""


def scope_of(view: str) -> str:
    """The ledger's name for the reader that keeps ``view``."""
    return f"view:{view}"
