"""Archives topics as Parquet datasets: every row with its position, in files by UTC day.

Batch evaluation, ``consistency`` and ``join`` read these archives. An archive is complete but for the rows of the last
``max_delay``. A file counts once its row is in the registry, and that row is written in the transaction that moves the
archive's position; a file that a crash leaves unregistered is written again.

A process that dies while it writes leaves a draft (``stores/offline.py``), whose rows begin at or after the archive's
position of that moment. Once another writer has moved the position beyond the draft's first row, the draft can never
count: the compare-and-set of its own writer would be refused, be that writer dead or only slow. The other writer has
written the same rows into the same folder, so it removes the draft there.
"""

from __future__ import annotations

import logging
import posixpath
import re
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from dovetail.platform.archive.file_index import marks_of_file
from dovetail.platform.clock import Clock, SystemClock
from dovetail.platform.errors import WireError
from dovetail.platform.logs import Event
from dovetail.platform.rows.accounts import READ, Account
from dovetail.platform.rows.conversion import MAX_TIME_US, MIN_TIME_US
from dovetail.platform.rows.encodings.shared import spread
from dovetail.platform.rows.evolution import conformed
from dovetail.platform.rows.positions import Progress, SourceFilter, without_messages
from dovetail.platform.rows.refusals import Refusals
from dovetail.platform.runtime.computing import compute
from dovetail.platform.stage import Poll, Stage, Work
from dovetail.platform.stores.offline import OfflineStore
from dovetail.platform.stores.registry.archived.file_marks import FileMarks
from dovetail.platform.stores.registry.archived.window_sketches import WindowChange
from dovetail.platform.stores.registry.definition_log import DefinitionUse
from dovetail.platform.stores.registry.store import DataFile, Registry

__all__ = ["ArchiveStage", "Dataset", "Decoded", "read_dataset"]

_log = logging.getLogger(__name__)
_MICROSECONDS = pa.timestamp("us")
#: Parquet is written from smaller pieces at the cost of many small calls: those are put together first.
_ROWS_PER_CHUNK = 500
_FILE = re.compile(r"(?P<partition>\d+)-(?P<first>\d+)-\d+\.parquet")


class Decoded(NamedTuple):
    """The rows of a poll, with positions, and of others how many there were.

    ``dead`` messages could not be read: they are another stage's dead letters. ``repeated`` rows are no events: they
    are known by their id.
    """

    table: pa.Table
    dead: int = 0
    repeated: int = 0


@dataclass(frozen=True, slots=True)
class Dataset:
    """The archive of one topic: how its rows are decoded, and by which day they are filed.

    ``decode`` turns a poll into its rows. ``derived`` rows carry source positions and are kept once per source
    position. ``day_of`` is the timestamp column that decides a row's day. ``uses`` are the definitions that rows are
    made with, fingerprints by name. ``refusals``: of a topic from outside, where messages are refused that ``decode``
    cannot read.
    """

    name: str
    topic: str
    day_of: str
    decode: Callable[[Poll], Decoded]
    derived: bool
    uses: Mapping[str, str] = field(default_factory=dict)
    #: Columns that rows are looked for by.
    keys: Sequence[str] = ()
    #: Sketches rows of a partition by window, to be kept with their files.
    sketch: Callable[[int, pa.Table], WindowChange] | None = None
    refusals: Refusals | None = None
    #: ``decode`` without any effect, for a part of a poll that is only tried. None: it has none.
    probe: Callable[[Poll], Decoded] | None = None


@dataclass(slots=True)
class _Buffer:
    """Rows of one partition not yet in a file."""

    stored: Progress
    sources: SourceFilter
    tables: list[pa.Table] = field(default_factory=list)
    rows: int = 0
    next_offset: int = 0
    counts: dict[str, int] = field(default_factory=dict)
    #: When the oldest poll in it came; None while there is none.
    since_us: int | None = None


class ArchiveStage(Stage):
    """Writes the rows of one topic to the offline store.

    Rows of a partition are held in memory until there are ``max_rows`` of them, or until ``max_delay_us`` have passed
    since the first of them came, by ``clock``. After a crash they are read again.
    """

    def __init__(
        self,
        dataset: Dataset,
        registry: Registry,
        offline: OfflineStore,
        *,
        max_rows: int = 500_000,
        max_delay_us: int = 300_000_000,
        clock: Clock | None = None,
    ) -> None:
        self.name = f"archive.{dataset.name}"
        self.topics = (dataset.topic,)
        self._dataset = dataset
        self.refusals = dataset.refusals
        self._registry = registry
        self._offline = offline
        self._max_rows, self._max_delay_us = max_rows, max_delay_us
        self._clock = clock or SystemClock()
        self._buffers: dict[int, _Buffer] = {}
        self._stored = registry.progress(self.name)

    def resume(self, topic: str) -> Mapping[int, int]:
        self._stored = self._registry.progress(self.name)
        return {partition: progress.next_offset for partition, progress in self._stored.items()}

    def forget(self, topic: str, partitions: Collection[int]) -> None:
        for partition in partitions:
            self._buffers.pop(partition, None)

    async def handle(self, poll: Poll) -> AsyncIterator[Work]:
        buffer = self._buffer(poll.partition)
        poll = poll.since(buffer.next_offset)
        if len(poll) == 0:
            return
        await compute(self._take, buffer, poll)
        if buffer.since_us is None:
            buffer.since_us = self._clock.now_us()
        if buffer.rows >= self._max_rows:
            yield self._flush(poll.partition, buffer)

    def probe(self, poll: Poll) -> None:
        table = (self._dataset.probe or self._dataset.decode)(poll).table
        self._check_days(table)
        pq.write_table(table, pa.BufferOutputStream())

    async def settle(self, topic: str, partition: int, *, stopping: bool = False) -> AsyncIterator[Work]:
        buffer = self._buffers.get(partition)
        if buffer is None or buffer.since_us is None:
            return
        # A clock that was set back says nothing about how long it is: then it is long enough.
        if stopping or not 0 <= self._clock.now_us() - buffer.since_us < self._max_delay_us:
            yield self._flush(partition, buffer)

    def _buffer(self, partition: int) -> _Buffer:
        if partition not in self._buffers:
            stored = self._stored.get(partition, Progress())
            self._buffers[partition] = _Buffer(stored, SourceFilter(stored.sources), next_offset=stored.next_offset)
        return self._buffers[partition]

    def _take(self, buffer: _Buffer, poll: Poll) -> None:
        table, dead, repeated = self._dataset.decode(poll)
        self._check_days(table)  # a row without a day must not wait for the commit that would raise for it
        counts = {READ: dead + repeated, "dead_letter": dead, "duplicate": repeated}
        if table.num_rows:
            read = table.num_rows
            if self._dataset.derived and not (fresh := buffer.sources.admit(table)).all():
                table = table.filter(pa.array(fresh))
            buffer.tables.append(table)
            buffer.rows += table.num_rows
            counts = {
                READ: dead + repeated + read,
                "dead_letter": dead,
                "archived": table.num_rows,
                "duplicate": repeated + read - table.num_rows,
            }
        for outcome, rows in counts.items():
            buffer.counts[outcome] = buffer.counts.get(outcome, 0) + rows
        buffer.next_offset = poll.last + 1

    def _flush(self, partition: int, buffer: _Buffer) -> Work:
        """Hand the buffered rows over to a work; the buffer starts again behind it."""
        progress = Progress(buffer.next_offset, sources=buffer.sources.state)
        tables, counts, expected = buffer.tables, buffer.counts, buffer.stored.next_offset
        buffer.tables, buffer.counts, buffer.rows, buffer.stored, buffer.since_us = [], {}, 0, progress, None

        def commit() -> None:
            rows = pa.concat_tables(tables, promote_options="permissive") if tables else None
            written = self._write(partition, rows) if rows is not None else []
            sketch = self._dataset.sketch
            windows = sketch(partition, rows) if sketch is not None and rows is not None else None
            files = [file for file, _ in written]
            accounts = [
                Account(self.name, self._dataset.topic, partition, outcome, rows) for outcome, rows in counts.items()
            ]
            days = sorted({file.day for file in files})
            made = [
                DefinitionUse(n, mark, self._dataset.name, d) for n, mark in self._dataset.uses.items() for d in days
            ]
            self._registry.commit(
                self.name, partition, expected=expected, progress=progress, accounts=accounts, files=files,
                marks=[marks for _, marks in written], windows=windows, uses=made,
            )  # fmt: skip
            _log.info(
                Event(
                    "archive flushed",
                    dataset=self._dataset.name,
                    partition=partition,
                    rows=sum(file.rows for file in files),
                    files=len(files),
                    next_offset=progress.next_offset,
                )
            )
            for folder in sorted({posixpath.dirname(file.path) for file in files}):
                self._offline.clear(folder, lambda name: _is_behind(name, partition, progress.next_offset))

        return Work(commit=commit, done=progress.next_offset)

    def _check_days(self, rows: pa.Table) -> None:
        """Raise what :meth:`_days` does."""
        times = rows.column(self._dataset.day_of)
        if rows.num_rows and times.type == _MICROSECONDS:
            found = times.to_numpy().view(np.int64)
            if found.min() >= MIN_TIME_US and found.max() <= MAX_TIME_US:
                return
        self._days(rows)

    def _days(self, rows: pa.Table) -> list[date]:
        """The UTC days of rows. Raises OverflowError or ArrowInvalid for a time that is on no day of a calendar."""
        if rows.num_rows == 0:
            return []
        days: list[date] = pc.unique(rows.column(self._dataset.day_of).cast(pa.date32())).to_pylist()
        return days

    def _write(self, partition: int, rows: pa.Table) -> list[tuple[DataFile, FileMarks]]:
        name, files = self._dataset.name, []
        for day, mine in self._by_day(rows):
            offsets = mine.column("_offset").to_numpy()
            first, last = int(np.min(offsets)), int(np.max(offsets))
            path = f"{name}/day={day}/{partition:05d}-{first:012d}-{last:012d}.parquet"
            self._offline.write(path, mine)
            marks = marks_of_file(name, path, mine, self._dataset.day_of, self._dataset.keys)
            files.append((DataFile(name, str(day), path, mine.num_rows, partition, first, last), marks))
        return files

    def _by_day(self, rows: pa.Table) -> Iterator[tuple[date, pa.Table]]:
        """The rows of each day. Where a day's stand together, as they mostly do, none is copied."""
        if rows.num_rows == 0:
            return
        if rows.num_rows < _ROWS_PER_CHUNK * rows.column(0).num_chunks:
            rows = rows.combine_chunks()
        days = rows.column(self._dataset.day_of).cast(pa.date32()).combine_chunks()
        found = pc.unique(days).to_pylist()
        starts = pc.index_in(pa.array(found, pa.date32()), days).to_pylist()
        numbers = days.cast(pa.int32()).to_numpy()
        together = np.count_nonzero(numbers[1:] != numbers[:-1]) == len(found) - 1
        for day, start, end in zip(found, starts, [*starts[1:], rows.num_rows], strict=True):
            if together:
                yield day, rows.slice(start, end - start)
            else:
                yield day, rows.filter(pc.equal(days, pa.scalar(day, pa.date32()))).combine_chunks()


def _is_behind(name: str, partition: int, position: int) -> bool:
    """Whether a file of that name is one of ``partition`` which begins before ``position``."""
    file = _FILE.fullmatch(name)
    return file is not None and int(file["partition"]) == partition and int(file["first"]) < position


def read_dataset(
    registry: Registry,
    offline: OfflineStore,
    dataset: str,
    schema: pa.Schema | None = None,
    *,
    each: Callable[[pa.Table], pa.Table] = spread,
) -> pa.Table:
    """All registered rows of ``dataset``; an empty table of ``schema`` when there are none and it is given.

    ``each`` is applied to the rows of every file before they are put together; without it, values that rows share are
    put in each of them. What was archived of a message before
    some reader refused it is left out.
    With ``schema``, columns that files from before a change lack are NULL, and narrower ones widened.

    Raises:
        WireError: two files have a column as two types that have no common wider one.
    """
    tables = [each(offline.read(file.path)) for file in registry.files(dataset)]
    if not tables:
        return (schema or pa.schema([])).empty_table()
    if schema is not None:
        tables = [conformed(table, schema, called=dataset, strict=False) for table in tables]
    try:
        rows = pa.concat_tables(tables, promote_options="permissive").combine_chunks()
    except pa.ArrowTypeError as error:
        raise WireError(
            f"{dataset}: a column was declared otherwise when some of its files were written: {error}; declare it as "
            "it was, and the new one under another name"
        ) from error
    return without_messages(rows, registry.refused_rows(dataset))
