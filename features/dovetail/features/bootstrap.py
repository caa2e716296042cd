"""Online state for a view from the archived event log: what ``dovetail bootstrap`` does.

The archive's rows go through the feature stage itself, partition by partition in the order of their offsets, into a
*staged* view beside the real one, with its own positions. When every partition has been read up to where the archive
was at the start, the staged state takes the real one's place, positions included, in one transaction. Until then the
real view is as it was; after it the stream goes on at exactly the first row the state does not have. A crash leaves
the staged state and its positions, and the next run goes on from them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

import numpy as np
import pyarrow as pa

from dovetail.features.agent import FeatureStage
from dovetail.features.fingerprints import record_of
from dovetail.features.plan import StreamView
from dovetail.platform.accounts import Account
from dovetail.platform.errors import StateError
from dovetail.platform.intake import Intake, Received
from dovetail.platform.stage import Poll
from dovetail.platform.stores.ledger import Progress
from dovetail.platform.stores.offline import OfflineStore
from dovetail.platform.stores.online import KeyStates, OnlineStore, ViewCommit
from dovetail.platform.stores.registry import DataFile, Registry

__all__ = ["BootstrapResult", "bootstrap"]

_ROWS_AT_ONCE = 200_000


@dataclass(frozen=True, slots=True)
class BootstrapResult:
    """Rows read from the archive by this run, and the positions the view's state has now."""

    view: str
    rows: int
    positions: Mapping[int, int]


def bootstrap(
    view: StreamView,
    registry: Registry,
    offline: OfflineStore,
    online: OnlineStore,
    *,
    replace_existing: bool = False,
    on_rows: Callable[[int, int], None] | None = None,
) -> BootstrapResult:
    """Fill the state of ``view`` from the archive of its stream. ``on_rows(rows read, of)`` is called as it goes.

    Raises:
        StateError: the view has state and ``replace_existing`` is False, or the archive is empty.
        StaleCommit: the view's state changed meanwhile (a worker runs); nothing was replaced.
    """
    before = {partition: progress.next_offset for partition, progress in online.progress(view.name).items()}
    if before and not replace_existing:
        raise StateError(
            f"view {view.name} has state (up to {_shown(before)}); --replace builds it again from the archive"
        )
    name = view.stream.name
    ends = {partition: progress.next_offset for partition, progress in registry.progress(f"archive.{name}").items()}
    if not ends:
        raise StateError(f"nothing is archived of stream {name}; run a worker with the archive agent first")
    staged = _Staged(online, view.name, f"{view.name}#{record_of(view).fingerprint}")
    rows = _ArchivedRows(view)
    stage = FeatureStage(view.stream, [view], rows, staged, dead_letter_topic="")
    stage.resume(view.stream.topic)
    files = registry.files(name)
    total, read = sum(file.rows for file in files), 0
    for partition, end in sorted(ends.items()):
        start = staged.progress(view.name).get(partition, Progress()).next_offset
        mine = [file for file in files if file.partition == partition]
        for part in _in_order(offline, mine, start, end):
            asyncio.run(_apply(stage, rows.poll(partition, part, int(part.column("_offset")[-1].as_py()))))
            read += part.num_rows
            if on_rows is not None:
                on_rows(read, total)
        staged.finish(partition, end)
    online.promote(staged.name, view.name, expected=before)
    return BootstrapResult(view.name, read, ends)


async def _apply(stage: FeatureStage, poll: Poll) -> None:
    async for work in stage.handle(poll):
        if work.commit is not None:
            work.commit()


def _in_order(offline: OfflineStore, files: Sequence[DataFile], start: int, end: int) -> Iterator[pa.Table]:
    """The rows of one partition with ``start <= offset < end``, by offset; no offset is in two tables.

    A file has the rows of one day, so files written together interleave: those whose offsets overlap are read
    together.
    """
    wanted = sorted((f for f in files if f.last_offset >= start and f.first_offset < end), key=lambda f: f.first_offset)
    last = np.maximum.accumulate(np.array([-1, *(f.last_offset for f in wanted)], dtype=np.int64))
    groups = np.cumsum([file.first_offset > last[i] for i, file in enumerate(wanted)])
    for _, numbered in groupby(enumerate(wanted), key=lambda pair: int(groups[pair[0]])):
        rows = pa.concat_tables([offline.read(file.path) for _, file in numbered], promote_options="permissive")
        offsets = rows.column("_offset").to_numpy()
        rows = rows.filter(pa.array((offsets >= start) & (offsets < end)))
        rows = rows.sort_by([("_offset", "ascending"), ("_row", "ascending")]).combine_chunks()
        offsets = rows.column("_offset").to_numpy()
        at = 0
        while at < len(offsets):
            stop = min(at + _ROWS_AT_ONCE, len(offsets))
            stop = int(np.searchsorted(offsets, offsets[stop - 1], side="right"))
            yield rows.slice(at, stop - at)
            at = stop


class _ArchivedRows(Intake):
    """Gives the stage what it would have got had it read the topic: rows that passed the intake when archived."""

    def __init__(self, view: StreamView) -> None:
        super().__init__(view.stream.schema, view.stream.event_time, None)
        self._topic = view.stream.topic
        self._rows = view.stream.schema.arrow.empty_table()

    def poll(self, partition: int, rows: pa.Table, last_offset: int) -> Poll:
        """A poll that stands for ``rows``; :meth:`read` answers with them."""
        self._rows = rows
        nothing = np.zeros(1, dtype=np.int64)
        return Poll(self._topic, partition, np.array([last_offset], dtype=np.int64), nothing, [None], [None], [()])

    def read(self, poll: Poll) -> Received:
        return Received(self._rows, [], [])


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

    def read_partition(self, view: str, partition: int, keys: Sequence[bytes]) -> list[bytes | None]:
        return self._store.read_partition(self.name, partition, keys)

    def commit(self, partition: int, commits: Sequence[ViewCommit], accounts: Sequence[Account]) -> None:
        mine = [account._replace(stage=f"features.{self.name}") for account in accounts]
        # The archive does not keep the messages' timestamps.
        staged = [replace(c, view=self.name, progress=replace(c.progress, timestamp_ms=None)) for c in commits]
        self._store.commit(partition, staged, mine)

    def finish(self, partition: int, end: int) -> None:
        """Move the partition's position to ``end``: what is not archived before it was dead."""
        now = self.progress(self._view).get(partition, Progress())
        if now.next_offset < end:
            commit = ViewCommit(self.name, now.next_offset, replace(now, next_offset=end), {})
            self._store.commit(partition, [commit], [])

    def promote(self, source: str, target: str, *, expected: Mapping[int, int]) -> None:
        self._store.promote(source, target, expected=expected)

    def accounts(self) -> list[Account]:
        return self._store.accounts()

    def close(self) -> None:
        self._store.close()


def _shown(positions: Mapping[int, int]) -> str:
    return ", ".join(f"offset {offset} of partition {partition}" for partition, offset in sorted(positions.items()))
