"""Online state for a view from the archived event log: what ``dovetail bootstrap`` does.

The archives of the streams that the view reads, a past from files (``history.py``) among them, go through the feature
stage itself, partition by partition in the order of their offsets, into a
*staged* view beside the real one, with its own positions. When every partition has been read up to where the archive
was at the start, the staged state takes the real one's place, positions included, in one transaction. Until then the
real view is as it was; after it the stream goes on at exactly the first row the state does not have. A crash leaves
the staged state and its positions, and the next run goes on from them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from dovetail.features.plan.definitions import StreamView
from dovetail.features.plan.sources import place_of
from dovetail.features.serving.versions import ForEach
from dovetail.features.stored.fingerprints import record_of
from dovetail.features.stored.folding.in_tasks import fold_in_tasks
from dovetail.features.stored.folding.partition_log import PartitionLog
from dovetail.features.stored.history import require_whole
from dovetail.platform.errors import StateError
from dovetail.platform.rows.accounts import Account
from dovetail.platform.rows.positions import Progress
from dovetail.platform.stores.offline import OfflineStore
from dovetail.platform.stores.online import KeyStates, OnlineStore, ViewCommit
from dovetail.platform.stores.registry.store import Registry

__all__ = ["BootstrapResult", "bootstrap", "require_replaceable"]


@dataclass(frozen=True, slots=True)
class BootstrapResult:
    """Rows read from the archives by this run, and the next offsets of the view's state: by stream and partition."""

    view: str
    rows: int
    positions: Mapping[str, Mapping[int, int]]


def bootstrap(
    view: StreamView,
    registry: Registry,
    offline: OfflineStore,
    online: OnlineStore,
    *,
    replace_existing: bool = False,
    on_rows: Callable[[int, int], None] | None = None,
    each: ForEach | None = None,
) -> BootstrapResult:
    """Fill the state of ``view`` from the archives of its streams. ``on_rows(rows read, of)`` is called as it goes.

    ``each`` may fold the partitions on other machines, an item each; what counts is put in place here. Values are the
    same; a state that ``each`` made may stay for as long again as it is needed.
    A stream of which nothing is archived is read by the worker from its first message.

    Raises:
        StateError: the view has state and ``replace_existing`` is False, or the archives are empty, or a file is not
            as it was archived, or a past from files is archived in part.
        StaleCommit: the view's state changed meanwhile (a worker runs); nothing was replaced.
    """
    before = require_replaceable(view, online, replace_existing=replace_existing)
    for name in view.stream_names:
        require_whole(registry, name)
    ends = {
        name: {partition: progress.next_offset for partition, progress in registry.progress(f"archive.{name}").items()}
        for name in view.stream_names
    }
    if not any(ends.values()):
        names = ", ".join(view.stream_names)
        raise StateError(
            f"nothing is archived of stream {names}; run a worker with the archive agent first, or take its past from "
            "files with --events"
        )
    staged = _Staged(online, view.name, f"{view.name}#{record_of(view).fingerprint}")
    files = {name: registry.files(name) for name in view.stream_names}
    parts = [
        PartitionLog(view, stream, partition, [f for f in files[stream.name] if f.partition == partition], end)
        for stream in {branch.stream.name: branch.stream for branch in view.reads}.values()
        for partition, end in sorted(ends[stream.name].items())
    ]
    read, total = 0, sum(file.rows for part in parts for file in part.files)

    def say(rows: int) -> None:
        nonlocal read
        read += rows
        if on_rows is not None:
            on_rows(read, total)

    if each is not None:
        cluster = _Staged(online, view.name, f"{staged.name}#cluster")
        fold_in_tasks(cluster, cluster.name, offline, parts, each, say)
        online.promote(cluster.name, view.name, expected=before)
        return BootstrapResult(view.name, read, ends)
    for part in parts:
        for rows in part.fold(offline, staged):
            say(rows)
        staged.finish(part.sources, part.end)
    online.promote(staged.name, view.name, expected=before)
    return BootstrapResult(view.name, read, ends)


class _Staged(OnlineStore):
    """The store, with one view kept under another name."""

    def __init__(self, store: OnlineStore, view: str, name: str) -> None:
        self._store = store
        self._view = view
        self.name = name

    def progress(self, view: str) -> Mapping[int, Progress]:
        return self._store.progress(self.name)

    def read(self, keys: Mapping[str, Sequence[bytes]]) -> dict[str, KeyStates]:
        return {self._view: self._store.read({self.name: keys[self._view]})[self.name]}

    def keys(self, view: str, limit: int) -> list[bytes]:
        return self._store.keys(self.name, limit)

    def read_partition(self, view: str, partition: int, keys: Sequence[bytes]) -> list[bytes | None]:
        return self._store.read_partition(self.name, partition, keys)

    def commit(self, partition: int, commits: Sequence[ViewCommit], accounts: Sequence[Account]) -> None:
        mine = [account._replace(stage=f"features.{self.name}") for account in accounts]
        # The archive does not keep the messages' timestamps.
        staged = [replace(c, view=self.name, progress=replace(c.progress, timestamp_ms=None)) for c in commits]
        self._store.commit(partition, staged, mine)

    def finish(self, sources: Sequence[int], end: int) -> None:
        """Move the positions of a partition's sources to ``end``: what is not archived before it was dead."""
        found = self.progress(self._view)
        for source in sources:
            now = found.get(source, Progress())
            if now.next_offset < end:
                commit = ViewCommit(self.name, now.next_offset, replace(now, next_offset=end), {})
                self._store.commit(source, [commit], [])

    def promote(self, source: str, target: str, *, expected: Mapping[int, int]) -> None:
        self._store.promote(source, target, expected=expected)

    def accounts(self) -> list[Account]:
        return self._store.accounts()

    def close(self) -> None:
        self._store.close()


def require_replaceable(view: StreamView, online: OnlineStore, *, replace_existing: bool) -> dict[int, int]:
    """The next offset that the view's state has, by source partition; empty where it has none.

    Raises:
        StateError: the view has state, and ``replace_existing`` is False.
    """
    before = {partition: progress.next_offset for partition, progress in online.progress(view.name).items()}
    if before and not replace_existing:
        raise StateError(
            f"view {view.name} has state (up to {_shown(view, before)}); --replace builds it again from the archive"
        )
    return before


def _shown(view: StreamView, positions: Mapping[int, int]) -> str:
    places = [(place_of(view, source), offset) for source, offset in sorted(positions.items())]
    of = [view.reads[place.branch].stream.name for place, _ in places]
    names = [f" of {name}" if len(view.reads) > 1 else "" for name in of]
    return ", ".join(f"offset {o} of partition {p.partition}{n}" for (p, o), n in zip(places, names, strict=True))
