"""The archive of one partition, read in the order of its offsets and folded by the stage that reads the topic."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import pyarrow as pa

from dovetail.features.language.named_columns import columns_read
from dovetail.features.plan.definitions import Stream, StreamView
from dovetail.features.plan.sources import Place, source_of
from dovetail.features.serving.feature_agent import FeatureStage
from dovetail.features.stored.read_columns import struct_members
from dovetail.platform.errors import StateError
from dovetail.platform.rows.evolution import conformed
from dovetail.platform.rows.intake import Intake, Received
from dovetail.platform.rows.positions import OWN_COLUMNS, SOURCE_COLUMNS, Progress
from dovetail.platform.stage import Poll
from dovetail.platform.stores.offline import OfflineStore
from dovetail.platform.stores.online import OnlineStore
from dovetail.platform.stores.registry.store import DataFile

__all__ = ["PartitionLog"]

_ROWS_AT_ONCE = 200_000


@dataclass(frozen=True, slots=True)
class PartitionLog:
    """The archive of one partition of a stream that ``view`` reads, up to the offset ``end``; it can be sent."""

    view: StreamView
    stream: Stream
    partition: int
    files: Sequence[DataFile]
    end: int

    @property
    def sources(self) -> list[int]:
        """The numbers under which the view keeps the partition."""
        branches = [number for number, branch in enumerate(self.view.reads) if branch.stream.name == self.stream.name]
        return [source_of(self.view, Place(branch, self.partition)) for branch in branches]

    def fold(self, offline: OfflineStore, store: OnlineStore) -> Iterator[int]:
        """Fold the rows that ``store`` does not include into it; gives how many, part by part."""
        view, stream = self.view, self.stream
        rows = _ArchivedRows(stream)
        branches = [branch for branch in view.reads if branch.stream.name == stream.name]
        read_of = {name for branch in branches for name in columns_read(view, branch)}
        declared = pa.schema([field for field in stream.schema.arrow if field.name in read_of])
        stage = FeatureStage(stream, [view], rows, store, dead_letter_topic="")
        stage.resume(stream.topic)
        found = store.progress(view.name)
        start = min(found.get(source, Progress()).next_offset for source in self.sources)
        for part in _in_order(offline, self.files, start, self.end, declared, struct_members([view], stream)):
            part = conformed(part, stream.schema.arrow, called="the archive")  # what nobody reads is NULL
            asyncio.run(_apply(stage, rows.poll(self.partition, part, int(part.column("_offset")[-1].as_py()))))
            yield part.num_rows


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
