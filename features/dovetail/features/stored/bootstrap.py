"""Online state for a view from the archived event log: what ``dovetail bootstrap`` does.

The archives of the streams that the view reads, a past from files (``history.py``) among them, go through the feature
stage itself, partition by partition in the order of their offsets, into a
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

from dovetail.features.language.named_columns import columns_read
from dovetail.features.plan.definitions import Stream, StreamView
from dovetail.features.plan.sources import Place, place_of, source_of
from dovetail.features.serving.feature_agent import FeatureStage
from dovetail.features.stored.fingerprints import record_of
from dovetail.features.stored.history import require_whole
from dovetail.features.stored.read_columns import struct_members
from dovetail.platform.errors import StateError
from dovetail.platform.rows.accounts import Account
from dovetail.platform.rows.evolution import conformed
from dovetail.platform.rows.intake import Intake, Received
from dovetail.platform.rows.positions import OWN_COLUMNS, SOURCE_COLUMNS, Progress
from dovetail.platform.stage import Poll
from dovetail.platform.stores.offline import OfflineStore
from dovetail.platform.stores.online import KeyStates, OnlineStore, ViewCommit
from dovetail.platform.stores.registry.store import DataFile, Registry

__all__ = ["BootstrapResult", "bootstrap"]

_ROWS_AT_ONCE = 200_000


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
) -> BootstrapResult:
    """Fill the state of ``view`` from the archives of its streams. ``on_rows(rows read, of)`` is called as it goes.

    A stream of which nothing is archived is read by the worker from its first message.

    Raises:
        StateError: the view has state and ``replace_existing`` is False, or the archives are empty, or a file is not
            as it was archived, or a past from files is archived in part.
        StaleCommit: the view's state changed meanwhile (a worker runs); nothing was replaced.
    """
    before = {partition: progress.next_offset for partition, progress in online.progress(view.name).items()}
    if before and not replace_existing:
        raise StateError(
            f"view {view.name} has state (up to {_shown(view, before)}); --replace builds it again from the archive"
        )
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
    total, read = sum(file.rows for mine in files.values() for file in mine), 0
    for stream in {branch.stream.name: branch.stream for branch in view.reads}.values():
        rows = _ArchivedRows(stream)
        branches = [branch for branch in view.reads if branch.stream.name == stream.name]
        read_of = {name for branch in branches for name in columns_read(view, branch)}
        declared = pa.schema([field for field in stream.schema.arrow if field.name in read_of])
        members = struct_members([view], stream)
        stage = FeatureStage(stream, [view], rows, staged, dead_letter_topic="")
        stage.resume(stream.topic)
        for partition, end in sorted(ends[stream.name].items()):
            mine = [file for file in files[stream.name] if file.partition == partition]
            for part in _in_order(offline, mine, staged.start(view, stream, partition), end, declared, members):
                part = conformed(part, stream.schema.arrow, called="the archive")  # what nobody reads is NULL
                asyncio.run(_apply(stage, rows.poll(partition, part, int(part.column("_offset")[-1].as_py()))))
                read += part.num_rows
                if on_rows is not None:
                    on_rows(read, total)
            staged.finish(view, stream, partition, end)
    online.promote(staged.name, view.name, expected=before)
    return BootstrapResult(view.name, read, ends)


def _sources(view: StreamView, stream: Stream, partition: int) -> list[int]:
    """The sources of ``view`` that are a partition of ``stream``: one for each branch that reads it."""
    branches = [number for number, branch in enumerate(view.reads) if branch.stream.name == stream.name]
    return [source_of(view, Place(branch, partition)) for branch in branches]


async def _apply(stage: FeatureStage, poll: Poll) -> None:
    async for work in stage.handle(poll):
        if work.commit is not None:
            work.commit()


def _in_order(
    offline: OfflineStore,
    files: Sequence[DataFile],
    start: int,
    end: int,
    declared: pa.Schema,
    members: Mapping[str, pa.DataType],
) -> Iterator[pa.Table]:
    """The rows of one partition with ``start <= offset < end``, by offset; no offset is in two tables.

    They have the columns ``declared``, which files from before they were lack, or have narrower; of STRUCT columns that
    were declared otherwise, the ``members`` that are read.

    A file has the rows of one day, so files written together interleave: those whose offsets overlap are read
    together.
    """
    wanted = sorted((f for f in files if f.last_offset >= start and f.first_offset < end), key=lambda f: f.first_offset)
    last = np.maximum.accumulate(np.array([-1, *(f.last_offset for f in wanted)], dtype=np.int64))
    groups = np.cumsum([file.first_offset > last[i] for i, file in enumerate(wanted)])
    for _, numbered in groupby(enumerate(wanted), key=lambda pair: int(groups[pair[0]])):
        own = [*declared.names, *OWN_COLUMNS, *SOURCE_COLUMNS]
        tables = [_whole(offline, file) for _, file in numbered]
        tables = [table.select([name for name in table.column_names if name in own]) for table in tables]
        tables = [conformed(table, declared, called="the archive", read=members) for table in tables]
        rows = pa.concat_tables(tables, promote_options="permissive")
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


def _whole(offline: OfflineStore, file: DataFile) -> pa.Table:
    table = offline.read(file.path)
    if table.num_rows != file.rows:
        raise StateError(
            f"{offline.path(file.path)} has {table.num_rows:,} rows instead of {file.rows:,}: restore it from a copy; "
            "the state that is there stays as it is"
        )
    return table


class _ArchivedRows(Intake):
    """Gives the stage what it would have got had it read the topic: rows that passed the intake when archived."""

    def __init__(self, stream: Stream) -> None:
        super().__init__(stream.schema, stream.event_time, None)
        self._topic = stream.topic
        self._rows = stream.schema.arrow.empty_table()

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

    def keys(self, view: str, limit: int) -> list[bytes]:
        return self._store.keys(self.name, limit)

    def read_partition(self, view: str, partition: int, keys: Sequence[bytes]) -> list[bytes | None]:
        return self._store.read_partition(self.name, partition, keys)

    def commit(self, partition: int, commits: Sequence[ViewCommit], accounts: Sequence[Account]) -> None:
        mine = [account._replace(stage=f"features.{self.name}") for account in accounts]
        # The archive does not keep the messages' timestamps.
        staged = [replace(c, view=self.name, progress=replace(c.progress, timestamp_ms=None)) for c in commits]
        self._store.commit(partition, staged, mine)

    def start(self, view: StreamView, stream: Stream, partition: int) -> int:
        """The first offset of a partition that some branch has not read."""
        found = self.progress(self._view)
        return min(found.get(source, Progress()).next_offset for source in _sources(view, stream, partition))

    def finish(self, view: StreamView, stream: Stream, partition: int, end: int) -> None:
        """Move the partition's position to ``end``: what is not archived before it was dead."""
        found = self.progress(self._view)
        for source in _sources(view, stream, partition):
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


def _shown(view: StreamView, positions: Mapping[int, int]) -> str:
    places = [(place_of(view, source), offset) for source, offset in sorted(positions.items())]
    of = [view.reads[place.branch].stream.name for place, _ in places]
    names = [f" of {name}" if len(view.reads) > 1 else "" for name in of]
    return ", ".join(f"offset {o} of partition {p.partition}{n}" for (p, o), n in zip(places, names, strict=True))
