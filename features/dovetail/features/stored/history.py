"""A stream's past from files that are not its archive: checked in full, and archived as a partition of its own.

Rows of files have no place in the topic, so they get one that no message has: offsets of a *history partition*, whose
number is above those of the topic. From there on they are archived rows like any other, with positions. State says how
far it includes them, so does what is served from it, and whatever reads the archive (bootstrap, backfill, consistency)
reads them. The topic's own partitions are untouched: the stream goes on with the first message that it would have gone
on with.

No row may be in both. What the files have must end before the stream begins, or be cut at a moment before that.
"""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import pyarrow as pa

from dovetail.features.plan.definitions import Stream, StreamView
from dovetail.features.project import Project
from dovetail.features.stream.vetting import vet_events
from dovetail.platform.archive.dayfiles import DAY_US, NEVER_US, DayFile, DayFiles, day_start_us
from dovetail.platform.archive.writer import ArchiveStage, Dataset, Decoded
from dovetail.platform.clock import Clock, SystemClock, moment_of
from dovetail.platform.errors import ConfigError, StateError, WireError, reason_of
from dovetail.platform.rows.conversion import conform
from dovetail.platform.rows.halving import halved
from dovetail.platform.rows.intake import Vetted, time_us
from dovetail.platform.rows.positions import Progress, with_own_positions
from dovetail.platform.stage import Poll, Work
from dovetail.platform.stores.offline import OfflineStore
from dovetail.platform.stores.registry.store import Registry

__all__ = ["History", "HistorySource", "archive_history", "history_of", "refuse_grown", "require_whole"]

#: Rows that are sorted, and registered, at once: about.
_ROWS_AT_ONCE = 500_000
#: A history partition has at least this number, and twice that of the topic's partitions: a topic may grow.
_LEAST_PARTITION = 16


@dataclass(frozen=True, slots=True)
class History:
    """A stream's past that is, or is being, archived.

    ``source`` and ``files`` say which files it was made of, ``partition`` the number it is archived under, ``rows`` how
    many it has, ``last_us`` their newest event time. ``before_us``: rows from that moment on were left out.
    """

    source: str
    files: str
    before_us: int | None
    partition: int
    rows: int
    last_us: int


@dataclass(frozen=True, slots=True)
class HistorySource:
    """Files of a stream's past, and how the command line names them; rows of ``before_us`` on are left out."""

    name: str
    log: DayFiles
    before_us: int | None = None


def history_of(registry: Registry, stream: str) -> History | None:
    """The past that was taken from files for ``stream``, whole or not; None where there is none."""
    job, _ = registry.backfill(_job(stream))
    return None if job is None else History(**json.loads(job))


def refuse_grown(project: Project, registry: Registry) -> None:
    """Refuse a stream whose topic has grown into its history partition.

    Raises:
        ConfigError: it has.
    """
    for name, declared in project.config.streams.items():
        found = history_of(registry, name)
        if found is not None and declared.partitions > found.partition:
            raise ConfigError(
                f"[streams.{name}] partitions = {declared.partitions}: partition {found.partition} of its archive is "
                f"the past that was taken from {found.source}; a topic may have {found.partition} partitions at most"
            )


def require_whole(registry: Registry, stream: str) -> None:
    """Refuse a past that is archived in part.

    Raises:
        StateError: rows are missing.
    """
    found = history_of(registry, stream)
    if found is not None and (done := _archived(registry, stream, found)) < found.rows:
        raise StateError(
            f"the past of stream {stream} is archived in part, {done:,} of {found.rows:,} rows: go on with "
            f"--events {stream}={found.source}" + _cut_option(found.before_us)
        )


def archive_history(
    project: Project,
    stream: Stream,
    registry: Registry,
    offline: OfflineStore,
    source: HistorySource,
    *,
    clock: Clock | None = None,
    on_rows: Callable[[int, int], None] | None = None,
) -> int:
    """Archive the past of ``stream`` from files, and give the rows that this call archived.

    All rows are checked before the first is archived: as the intake of the stream checks messages, but for ids, which
    are not looked at. They are archived in the order of their event times. A call that was ended is gone on with by the
    same call; one more does nothing. ``on_rows(rows archived, of)`` is called as it goes.

    Raises:
        ConfigError: the stream has another past already, or is re-keyed.
        WireError: a row is not as declared, is of the future, or a definition has no value for it.
        StateError: the files have rows of a time that the stream has rows of, too; or no row.
        StaleCommit: somebody else archives it at the same time.
    """
    if stream.rekeyed_from is not None:
        raise ConfigError(
            f"--events: {stream.name} is made from stream {stream.rekeyed_from}, and its rows by a worker; a past from "
            "files is for streams that come from outside"
        )
    files = source.log.identity(None, NEVER_US)
    found = history_of(registry, stream.name)
    if found is None:
        views = list(project.stream_views.values())
        rows, last_us = _checked(stream, views, source, (clock or SystemClock()).now_us())
        _refuse_overlap(registry, offline, stream, source, last_us)
        partition = max(_LEAST_PARTITION, 2 * project.config.streams[stream.name].partitions)
        found = History(source.name, files, source.before_us, partition, rows, last_us)
        registry.begin_backfill(_job(stream.name), json.dumps(asdict(found), sort_keys=True))
    elif (found.files, found.before_us) != (files, source.before_us):
        raise ConfigError(
            f"--events {stream.name}={source.name}: the stream has a past already, {found.rows:,} rows from "
            f"{found.source}{_cut_option(found.before_us)} as it was then, and can have one; leave --events out to "
            "use it"
        )
    keys = sorted({view.entity[0] for view in project.stream_views.values() if stream.name in view.stream_names})
    writer = _Writer(stream, keys, registry, offline, found.partition)
    done = before = _archived(registry, stream.name, found)
    at = 0
    for part in _in_order(stream, source):
        fresh = part.slice(max(0, done - at))
        at += part.num_rows
        if fresh.num_rows:
            asyncio.run(writer.write(fresh, done))
            done += fresh.num_rows
            if on_rows is not None:
                on_rows(done, found.rows)
    if done != found.rows:
        raise StateError(f"{source.name} has {at:,} rows instead of {found.rows:,}: it was written while it was read")
    return done - before


def _job(stream: str) -> str:
    return f"history:{stream}"


def _archived(registry: Registry, stream: str, history: History) -> int:
    return registry.progress(f"archive.{stream}").get(history.partition, Progress()).next_offset


def _cut_option(before_us: int | None) -> str:
    return "" if before_us is None else f" --before {_shown(before_us)}"


def _shown(us: int) -> str:
    return f"{moment_of(us).isoformat()}Z"


def _refuse_overlap(
    registry: Registry, offline: OfflineStore, stream: Stream, source: HistorySource, last_us: int
) -> None:
    """Refuse rows of a time of which the stream has archived rows, too."""
    ends = DayFiles.archived(registry, offline, stream.name, stream.event_time, stream.schema.arrow).ends_us(
        None, NEVER_US
    )
    if ends is not None and last_us >= ends[0]:
        first = _shown(ends[0])
        raise StateError(
            f"--events {stream.name}={source.name} has rows up to {_shown(last_us)}, and the stream's archive has "
            f"its own from {first} on: rows of both would count twice. Leave out what the stream has, with "
            f"--before {first} or an earlier time"
        )


def _files_of(source: HistorySource, low_us: int | None, high_us: int) -> Iterator[tuple[DayFile, DayFiles]]:
    for file in source.log.touching(low_us, high_us):
        yield file, source.log.alone(file)


def _read(stream: Stream, log: DayFiles, low_us: int | None, high_us: int) -> Iterator[pa.Table]:
    """The declared columns that a file has, of its rows between two times."""
    there = log.schema()
    names = [] if there is None else [name for name in stream.schema.arrow.names if name in there.names]
    yield from log.read(names, low_us, high_us)


def _end_us(source: HistorySource) -> int:
    return NEVER_US if source.before_us is None else source.before_us - 1


def _checked(stream: Stream, views: Sequence[StreamView], source: HistorySource, now_us: int) -> tuple[int, int]:
    """The number of rows and their newest event time, once each row is found to be right."""
    vet = vet_events(stream, views)
    rows, last_us = 0, -NEVER_US
    for file, log in _files_of(source, None, _end_us(source)):
        at = 0
        _refuse_without(stream, log, file)
        for table in _read(stream, log, None, NEVER_US):
            bad = _bad_rows(stream, vet, table, now_us)
            if bad:
                row, why = min(bad.items())
                raise WireError(
                    f"--events {stream.name}: {log.store.path(file.path)}, row {at + row + 1:,}: {why}; nothing was "
                    "archived. Write the file without such rows, or correct them"
                )
            times = time_us(conform(table, stream.schema), stream.event_time)
            times = times[times <= _end_us(source)]
            at += table.num_rows
            rows += len(times)
            last_us = max(last_us, int(times.max(initial=-NEVER_US)))
    if not rows:
        raise StateError(f"--events {stream.name}={source.name}: no row{_cut_option(source.before_us)}")
    return rows, last_us


def _refuse_without(stream: Stream, log: DayFiles, file: DayFile) -> None:
    """Refuse a file that lacks a column which no row may be without.

    Raises:
        WireError: it does.
    """
    there = log.schema()
    gone = [] if there is None else [name for name in stream.schema.required if name not in there.names]
    if there is not None and gone:
        raise WireError(
            f"--events {stream.name}: {log.store.path(file.path)} has no column {', '.join(gone)}, which is NOT NULL "
            f"in {stream.schema.file}, and has {', '.join(there.names)}; nothing was archived. Write the file with it"
        )


def _bad_rows(stream: Stream, vet: Callable[[pa.Table], Vetted], table: pa.Table, now_us: int) -> dict[int, str]:
    """The rows (by index) of a part of a file that the intake would turn away, and why; some of them at least."""

    def made(rows: Sequence[int]) -> pa.Table:
        return conform(table.slice(rows[0], len(rows)), stream.schema)

    good, failed = halved(range(table.num_rows), made)
    if failed:
        return {row: str(error) if isinstance(error, WireError) else reason_of(error) for row, error in failed}
    rows = pa.concat_tables([part for _, part in good])
    ahead = np.flatnonzero(time_us(rows, stream.event_time) > now_us + stream.max_ahead_us)
    reason = f"{stream.event_time} is more than max_ahead ({stream.max_ahead_us / 1e6:g} s) after now"
    return {**vet(rows).refused, **dict.fromkeys(ahead.tolist(), reason)}


def _in_order(stream: Stream, source: HistorySource) -> Iterator[pa.Table]:
    """All rows by event time; of one time, in the order of the files. The same each time."""
    end_us = _end_us(source)
    for day, rows in source.log.days(None, end_us).items():
        start, parts = day_start_us(day), -(-rows // _ROWS_AT_ONCE)
        edges = [start + DAY_US * number // parts for number in range(parts + 1)]
        for low, high in itertools.pairwise(edges):
            tables = [
                conform(table, stream.schema)
                for _, log in _files_of(source, low, min(high - 1, end_us))
                for table in _read(stream, log, low, min(high - 1, end_us))
            ]
            if tables:
                found = pa.concat_tables(tables).combine_chunks()
                order = np.argsort(time_us(found, stream.event_time), kind="stable")
                yield found.take(pa.array(order))


class _Writer:
    """Archives rows under the history partition, by the stage that archives the stream."""

    def __init__(
        self, stream: Stream, keys: Sequence[str], registry: Registry, offline: OfflineStore, partition: int
    ) -> None:
        self._topic, self._partition = stream.topic, partition
        self._rows = pa.table({})
        dataset = Dataset(
            stream.name, stream.topic, stream.event_time, lambda _: Decoded(self._rows), derived=False, keys=keys
        )
        self._stage = ArchiveStage(dataset, registry, offline)
        self._stage.resume(stream.topic)

    async def write(self, rows: pa.Table, first: int) -> None:
        """Write files of ``rows``, whose offsets are ``first`` and on, and register them together."""
        offsets = np.arange(first, first + rows.num_rows, dtype=np.int64)
        self._rows = with_own_positions(rows, self._partition, offsets, np.zeros(rows.num_rows, dtype=np.int32))
        last, nothing = offsets[-1:], np.zeros(1, dtype=np.int64)
        poll = Poll(self._topic, self._partition, last, nothing, [None], [None], [()])
        works: list[Work] = [work async for work in self._stage.handle(poll)]
        works += [work async for work in self._stage.settle(self._topic, self._partition, stopping=True)]
        for work in works:
            if work.commit is not None:
                work.commit()
