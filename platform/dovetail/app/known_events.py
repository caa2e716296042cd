"""The events of streams as far as they are known: archived ones, and behind them those that only the topic has."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from dovetail.app.datasets import datasets
from dovetail.app.gates import gate_of
from dovetail.app.storage import Stores
from dovetail.features import Project
from dovetail.features.stored.read_columns import struct_members
from dovetail.platform.archive.dayfiles import DayFiles
from dovetail.platform.archive.writer import Dataset
from dovetail.platform.errors import StateError
from dovetail.platform.rows.evolution import conformed
from dovetail.platform.rows.intake import time_us
from dovetail.platform.rows.positions import Progress, SourceFilter, own_position_columns
from dovetail.platform.transports.viewing import TopicView, read_all

__all__ = ["KnownEvents", "known_events"]

_ROWS_AT_ONCE = 131_072


@dataclass(frozen=True, slots=True)
class KnownEvents:
    """The events of a stream: those in ``files``, if there are, and then those of ``table``, in memory."""

    files: DayFiles | None
    table: pa.Table
    time_column: str

    def rows(self, low_us: int | None, high_us: int) -> int:
        """At least as many rows as have their time in ``[low, high]``."""
        in_memory: int = self.table.num_rows
        return in_memory + (0 if self.files is None else self.files.rows(low_us, high_us))

    def read(self, columns: Sequence[str] | None, low_us: int | None, high_us: int) -> Iterator[pa.Table]:
        """Rows with ``low <= time <= high`` in bounded parts; all columns, or those named."""
        if self.files is not None:
            yield from self.files.read(columns, low_us, high_us)
        times = time_us(self.table, self.time_column)
        inside = times <= high_us if low_us is None else (times >= low_us) & (times <= high_us)
        rows = self.table if columns is None else self.table.select(list(columns))
        rows = rows.filter(pa.array(inside))
        for start in range(0, rows.num_rows, _ROWS_AT_ONCE):
            yield rows.slice(start, _ROWS_AT_ONCE)


async def known_events(
    project: Project, stores: Stores, view: TopicView, names: Sequence[str]
) -> dict[str, KnownEvents]:
    """The events of the streams ``names``. What is not archived yet is read into memory.

    Raises:
        StateError: events have left a topic that are not archived, so they are not known any more.
    """
    kept = {dataset.name: dataset for dataset in datasets(project, gate_of(stores.registry))}
    return {name: await _of_stream(project, stores, view, kept[name]) for name in names}


async def _of_stream(project: Project, stores: Stores, view: TopicView, dataset: Dataset) -> KnownEvents:
    stream = project.streams[dataset.name]
    archived = stores.registry.progress(f"archive.{dataset.name}")
    since = {number: progress.next_offset for number, progress in archived.items()}
    for number, (oldest, end) in (await view.bounds(dataset.topic)).items():
        known = since.get(number, 0)
        if known < oldest < end:
            raise StateError(
                f"events of stream {dataset.name}, partition {number}, from offset {known} to {oldest - 1} are gone: "
                "they have left their topic and are not archived; lengthen [broker.retention] inputs and run the "
                f"archive agents, or give the events: events={{{dataset.name!r}: table}}"
            )
    parts = []
    filters: dict[int, SourceFilter] = {}
    async for poll in read_all(view, dataset.topic, since):
        rows = dataset.decode(poll).table
        if dataset.derived:
            sources = archived.get(poll.partition, Progress()).sources
            admitted = filters.setdefault(poll.partition, SourceFilter(sources)).admit(rows)
            rows = rows.filter(pa.array(np.asarray(admitted)))
        parts.append(conformed(rows, stream.schema.arrow, called=f"topic {dataset.topic}"))
    # As the archive keeps them: every column may be NULL there.
    fields = [*stream.schema.arrow, *own_position_columns()]
    own = pa.schema([field.with_nullable(True) for field in fields])
    table = pa.concat_tables([part.select(own.names).cast(own) for part in parts]) if parts else own.empty_table()
    files = DayFiles.archived(
        stores.registry,
        stores.offline,
        dataset.name,
        stream.event_time,
        stream.schema.arrow,
        since,
        struct_members(project.stream_views.values(), stream),
    )
    return KnownEvents(files, table, stream.event_time)
