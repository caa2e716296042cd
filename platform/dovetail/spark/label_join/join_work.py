"""A batch join as tasks are sent it: what is read, by which settings it is judged, and what its rows look like."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from dovetail.features.batch.pieces import Limits
from dovetail.features.duck.scratch import KeyHash
from dovetail.features.plan.definitions import BatchView, FeatureSet
from dovetail.joiners.batch.clock_rows import Setter, setter_fields
from dovetail.joiners.batch.join import CANDIDATE_COLUMNS
from dovetail.joiners.meanings.label_meaning import LabelMeaning
from dovetail.joiners.snapshots.shape import MEANING_COLUMN, named_as_now
from dovetail.platform.duck.hermetic import Resources, resources
from dovetail.platform.rows.encodings.shared import some_rows, spread
from dovetail.platform.rows.evolution import conformed
from dovetail.platform.rows.positions import OWN_COLUMNS, without_messages
from dovetail.platform.stores.offline import OfflineStore

__all__ = ["MEANING", "Consumer", "JoinPlan", "JoinWork", "Log", "LogPart", "SnapshotFile", "key_hashes"]

#: The column of shipped snapshot keys, int32: the number of the meaning that a row is judged by.
MEANING = "_meaning"

#: Takes a day, the schema of samples, and the day's samples part by part, in their order; its result travels. As for
#: the consumer of days (``features/stored/day_engine.py``), the result of one of its calls for a day is given back.
Consumer = Callable[[str, pa.Schema, Iterator[pa.Table]], Any]


@dataclass(frozen=True, slots=True)
class SnapshotFile:
    """An archived file of snapshots: of one day and partition."""

    path: str
    day: str
    partition: int
    first_offset: int
    rows: int


@dataclass(frozen=True, slots=True)
class Log:
    """A log that is read: the labels of a kind, or, under the empty name, the requests.

    ``columns`` are read of it, nullable, own positions among them; ``time`` is the one that its clocks go by.
    ``refused`` are messages that are in files and not in what is read, by dataset. ``within_us``: of labels without
    request, how long after one they may come.
    """

    name: str
    time: str
    columns: pa.Schema
    refused: Mapping[str, Sequence[tuple[int, int]]]
    within_us: int | None = None

    @property
    def shipped(self) -> pa.Schema:
        """The columns of rows on their way to the task of their request."""
        request = [] if "request_id" in self.columns.names else [pa.field("request_id", pa.string())]
        return pa.schema([*self.columns, *setter_fields(), *request])


@dataclass(frozen=True, slots=True)
class LogPart:
    """Files of one partition of a log that share offsets, and no others do: dataset and path of each.

    ``before`` is the newest row before them, once that is known.
    """

    log: int
    partition: int
    first_offset: int
    files: Sequence[tuple[str, str]]
    rows: int
    before: Setter | None = None


@dataclass(frozen=True, slots=True)
class JoinWork:
    """A join of all archived snapshots with labels.

    ``bounds`` are the first packed positions that are not released, by lane and partition. ``marks`` are numbers of
    ``meanings``, by what snapshots say they are judged by; both are known when the snapshots have been looked at.
    """

    offline: OfflineStore
    snapshots: Sequence[SnapshotFile]
    refused: Sequence[tuple[int, int]]
    logs: Sequence[Log]
    parts: Sequence[LogPart]
    target: str
    features: FeatureSet
    batch_views: Mapping[str, BatchView]
    allowed_lateness_us: int
    request_lateness_us: int
    bounds: Mapping[tuple[int, int], int]
    limits: Limits = field(default_factory=Limits)

    @property
    def days(self) -> list[str]:
        """The days of the snapshots, ascending."""
        return sorted({file.day for file in self.snapshots})

    @property
    def attributed(self) -> bool:
        """Whether there are labels that name no request."""
        return any(log.within_us is not None for log in self.logs)

    def released_before(self, partition: int) -> int:
        """The packed position before which some lane has released the snapshots of a partition."""
        return max((bound for (_, of), bound in self.bounds.items() if of == partition), default=0)

    def within(self, folder: Path) -> AbstractContextManager[None]:
        """DuckDB's limits in a task, where it spills into ``folder``; one thread unless more are asked for."""
        return resources(Resources(self.limits.threads or 1, self.limits.memory_bytes, folder / "duckdb"))

    def rows_of(self, part: LogPart) -> pa.Table:
        """The rows of a part of a log."""
        log, tables = self.logs[part.log], [self.logs[part.log].columns.empty_table()]
        for dataset, path in part.files:
            with self.offline.open(path) as file:
                table = file.read([name for name in log.columns.names if name in file.schema_arrow.names])
            table = without_messages(table, log.refused.get(dataset, ()))
            named = conformed(table, log.columns, called=self.offline.path(path)).select(log.columns.names)
            tables.append(named.cast(log.columns))
        return pa.concat_tables(tables)

    def keys_of(self, file: SnapshotFile) -> pa.Table:
        """The columns of a file's snapshots that the join reads, and their marks, where it has some."""
        wanted = {*CANDIDATE_COLUMNS, *OWN_COLUMNS, MEANING_COLUMN}
        with self.offline.open(file.path) as parquet:
            table = parquet.read([name for name in parquet.schema_arrow.names if name in wanted])
        return without_messages(table, self.refused)

    def snapshots_of(self, file: SnapshotFile) -> pa.Table:
        """A file's snapshots whole; values that rows share are in the first of them."""
        return without_messages(named_as_now(self.offline.read(file.path)), self.refused)


@dataclass(frozen=True, slots=True)
class JoinPlan:
    """A join of which the snapshots have been looked at.

    Attributes:
        meanings: the meanings that snapshots are judged by, in the order of their first snapshots.
        marks: the number of the meaning, by what a snapshot bears.
        snapshots: the columns of all snapshots together; ``joined`` by meaning those of :func:`join_samples`, and
            ``samples`` those of samples.
        tasks: those that rows are shuffled to by request.
    """

    work: JoinWork
    meanings: Sequence[LabelMeaning]
    marks: Mapping[int, int]
    snapshots: pa.Schema
    joined: Sequence[pa.Schema]
    samples: pa.Schema
    tasks: int

    @property
    def keys(self) -> pa.Schema:
        """The columns of snapshot keys on their way to the task of their request."""
        own = [self.snapshots.field(name) for name in (*CANDIDATE_COLUMNS, *OWN_COLUMNS)]
        return pa.schema([*(f.with_nullable(True) for f in own), pa.field(MEANING, pa.int32())])

    @property
    def sent(self) -> Sequence[pa.Schema]:
        """By meaning, the columns of joined rows on their way to their day."""
        without = {"request_id", "item_id", "request_time", "_at"}
        own = [pa.field(name, self.snapshots.field(name).type) for name in OWN_COLUMNS]
        return [pa.schema([*(f for f in schema if f.name not in without), *own]) for schema in self.joined]

    def whole(self, snapshots: pa.Table, rows: npt.NDArray[np.int64]) -> pa.Table:
        """The ``rows`` of a file's snapshots, in the order given, with all columns that any snapshots have."""
        chosen, back = np.unique(rows, return_inverse=True)
        flat = spread(some_rows(snapshots, chosen)).take(pa.array(back))
        return pa.concat_tables([self.snapshots.empty_table(), flat], promote_options="permissive")


def key_hashes(columns: Sequence[pa.ChunkedArray]) -> npt.NDArray[np.uint64]:
    """uint64 [n]: a hash of the columns' values, equal for equal ones of whatever type, as text."""
    return KeyHash([pa.string()] * len(columns), 1).of(columns)
