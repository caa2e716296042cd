"""A durable log for one process, in one SQLite file: topics, partitions, offsets, consumer groups.

Guarantees:

- An append is one transaction: after a crash of the process at any point (``kill -9`` included) the log holds a prefix
  of the appends, each of them whole. The file runs in WAL mode with ``synchronous=NORMAL``, which does not wait for
  the disk: a power failure may take the last moments before it, still leaving a prefix.
- Offsets of a partition are consecutive and never given twice, also after retention has removed everything.
- One process at a time. The operating system frees the lock when that process dies. Inside the process the log may be
  opened any number of times and used from any thread.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from dovetail.platform.clock import Clock, SystemClock
from dovetail.platform.errors import TransportError
from dovetail.platform.owned import owned_file, owned_folder
from dovetail.platform.stage import Outgoing, Poll
from dovetail.platform.transports.embedded.format import (
    FORMAT,
    OFFSET_MASK,
    SCHEMA,
    LogRetention,
    PartitionState,
    TopicState,
)
from dovetail.platform.transports.embedded.headers import decode_headers, encode_headers
from dovetail.platform.transports.embedded.locking import FileLock
from dovetail.platform.transports.partitioning import partition_of_key

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["EmbeddedLog", "Listener", "LogRetention"]

MAX_POLL_BYTES = 4 << 20
MAX_POLL_RECORDS = 10_000

#: Called after a commit, in the thread that appended, with the partitions that have grown.
Listener = Callable[[frozenset[tuple[str, int]]], None]


class EmbeddedLog:
    """The log at one path; see the module's guarantees. Obtained by :meth:`open`, given back by :meth:`close`."""

    _open: ClassVar[dict[Path, EmbeddedLog]] = {}
    _open_guard: ClassVar[threading.Lock] = threading.Lock()

    def __init__(self, path: Path, clock: Clock) -> None:
        self.path = path
        self._clock = clock
        self._handles = 0
        self._guard = threading.Lock()
        self._listeners: tuple[Listener, ...] = ()
        self._topics: dict[str, TopicState] = {}
        self._reading = threading.Lock()
        with ExitStack() as opened:
            self._lock = FileLock(path)
            opened.callback(self._lock.release)
            self._writer = opened.enter_context(closing(self._connect()))
            self._reader = opened.enter_context(closing(self._connect()))
            self._prepare()
            self._opened = opened.pop_all()

    @classmethod
    def open(cls, path: str | Path, *, clock: Clock | None = None) -> EmbeddedLog:
        """Open the log, creating it with its folder when there is none.

        Within a process all callers share one log; it closes when each has called :meth:`close`. ``clock`` (used by
        the first opener) gives timestamps to messages that come without one.

        Raises LogLocked when another process has it open; TransportError when the file is not a log of this version.
        """
        resolved = Path(path).resolve()
        with cls._open_guard:
            log = cls._open.get(resolved)
            if log is None:
                owned_folder(resolved.parent)
                log = cls._open[resolved] = cls(resolved, clock or SystemClock())
            log._handles += 1
            return log

    def close(self) -> None:
        """Give this handle back; the last one closes the file."""
        with self._open_guard:
            self._handles -= 1
            if self._handles:
                return
            del self._open[self.path]
            with self._guard, self._reading:
                self._opened.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.close()

    # --- topics -------------------------------------------------------------------------------------------------

    def create_topic(self, name: str, partitions: int, *, retention: LogRetention | None = None) -> None:
        """Create a topic, or change the retention of one that exists.

        Raises TransportError when it exists with another number of partitions: keys would move between them.
        """
        if partitions < 1:
            raise TransportError(f"topic {name!r} in {self.path}: {partitions} partitions asked for; give at least 1")
        kept = retention or LogRetention()
        with self._guard, self._transaction() as execute:
            topic = self._topics.get(name)
            if topic is not None:
                if len(topic.partitions) != partitions:
                    raise TransportError(
                        f"topic {name!r} in {self.path} has {len(topic.partitions)} partitions, "
                        f"{partitions} asked for; the number cannot change, because keys would move: "
                        "use the old number or a new topic"
                    )
                if retention is not None:
                    execute(
                        "UPDATE topic SET max_age_ms = ?, max_bytes = ? WHERE name = ?",
                        (kept.max_age_ms, kept.max_bytes, name),
                    )
                    topic.retention = kept
                return
            execute("INSERT INTO topic VALUES (?, ?, ?, ?)", (name, partitions, kept.max_age_ms, kept.max_bytes))
            for number in range(partitions):
                execute("INSERT INTO partition VALUES (NULL, ?, ?, 0, 0, 0, 0)", (name, number))
        self._load()

    def topics(self) -> dict[str, int]:
        """Number of partitions by topic."""
        return {name: len(topic.partitions) for name, topic in self._topics.items()}

    def end_offsets(self, topic: str) -> dict[int, int]:
        """The offset the next message will get, by partition."""
        return {number: partition.end for number, partition in enumerate(self._topic(topic).partitions)}

    def start_offsets(self, topic: str) -> dict[int, int]:
        """The offset of the oldest message kept (the end offset when none is), by partition."""
        return {number: partition.start for number, partition in enumerate(self._topic(topic).partitions)}

    # --- messages -----------------------------------------------------------------------------------------------

    def append(self, outgoing: Sequence[Outgoing]) -> list[tuple[int, int]]:
        """Append all messages in one transaction; ``(partition, offset)`` of each, in order.

        Without a partition, the key decides as in Kafka; without a key, partitions take turns. Without a timestamp a
        message gets the clock's. Listeners are called after the commit. A value may be None (a tombstone).

        Raises TransportError, with nothing appended, for an unknown topic or partition or when SQLite refuses.
        """
        if not outgoing:
            return []
        with self._guard:
            grown: dict[tuple[str, int], PartitionState] = {}
            rows: list[tuple[int, int, int, bytes | None, bytes, bytes | None]] = []
            places: list[tuple[int, int]] = []
            now_ms = self._clock.now_us() // 1000
            for message in outgoing:
                number, partition = self._place(message, grown)
                timestamp = now_ms if message.timestamp_ms is None else message.timestamp_ms
                rows.append(
                    (
                        partition.rowid(partition.end),
                        timestamp,
                        partition.written,
                        message.key,
                        message.value,
                        encode_headers(message.headers),
                    )
                )
                places.append((number, partition.end))
                partition.end += 1
                # A tombstone is allowed here, although Outgoing, made for what Dovetail writes, has no such value.
                partition.written += len(message.value or b"") + len(message.key or b"")
                partition.newest_ms = max(partition.newest_ms, timestamp)
            with self._transaction() as execute:
                self._writer.executemany("INSERT INTO message VALUES (?, ?, ?, ?, ?, ?)", rows)
                for (topic, _), partition in grown.items():
                    self._trim(execute, partition, self._topics[topic].retention)
                    execute(
                        'UPDATE partition SET start = ?, "end" = ?, written = ?, newest_ms = ? WHERE id = ?',
                        (partition.start, partition.end, partition.written, partition.newest_ms, partition.id),
                    )
            for (topic, number), partition in grown.items():
                self._topics[topic].partitions[number] = partition
            listeners = self._listeners
        where = frozenset(grown)
        for listener in listeners:
            listener(where)
        return places

    def read(
        self,
        topic: str,
        partition: int,
        offset: int,
        *,
        max_bytes: int = MAX_POLL_BYTES,
        max_records: int = MAX_POLL_RECORDS,
    ) -> Poll | None:
        """The run of messages at and after ``offset``; None when there is none yet.

        Stops before ``max_bytes`` of keys and values or ``max_records`` are exceeded, but gives at least one message.
        Starts at the oldest message kept when ``offset`` has been removed by retention.
        """
        found = self._partition(topic, partition)
        first = max(offset, found.start)
        if first >= found.end:
            return None
        with self._reading, self._errors("read"), closing(self._reader.cursor()) as cursor:
            # ``written`` counts the bytes before a message, so the budget is a condition on one column. It is tested
            # here row by row and not in the WHERE clause, which would have to know the first message's value.
            cursor.execute(
                "SELECT id, timestamp_ms, written, key, value, headers FROM message "
                "WHERE id BETWEEN ? AND ? ORDER BY id LIMIT ?",
                (found.rowid(first), found.rowid(found.end - 1), max_records),
            )
            rows = _within(cursor, max_bytes)
        if not rows:
            return None
        ids, timestamps, _, keys, values, headers = zip(*rows, strict=True)
        return Poll(
            topic,
            partition,
            np.array(ids, dtype=np.int64) & OFFSET_MASK,
            np.array(timestamps, dtype=np.int64),
            keys,
            values,
            [decode_headers(encoded) for encoded in headers],
        )

    # --- groups and listeners -------------------------------------------------------------------------------------

    def commit(self, group: str, offsets: Mapping[tuple[str, int], int]) -> None:
        """Store the next offset to read of ``group``, by ``(topic, partition)``; all or none."""
        with self._guard, self._transaction():
            self._writer.executemany(
                "INSERT OR REPLACE INTO committed VALUES (?, ?, ?, ?)",
                [(group, topic, partition, offset) for (topic, partition), offset in offsets.items()],
            )

    def committed(self, group: str) -> dict[tuple[str, int], int]:
        """The offsets that :meth:`commit` stored for ``group``."""
        with self._reading, self._errors("read"):
            query = 'SELECT topic, partition, "offset" FROM committed WHERE consumer_group = ?'
            return {(topic, number): offset for topic, number, offset in self._reader.execute(query, (group,))}

    def listen(self, listener: Listener) -> Callable[[], None]:
        """Call ``listener`` after each append, in the appending thread; returns the function that ends it.

        A listener must not block: it sets an event, or schedules a callback in its event loop.
        """
        with self._guard:
            self._listeners = (*self._listeners, listener)

        def end() -> None:
            with self._guard:
                self._listeners = tuple(other for other in self._listeners if other is not listener)

        return end

    # --- inside -----------------------------------------------------------------------------------------------------

    def _topic(self, name: str) -> TopicState:
        topic = self._topics.get(name)
        if topic is None:
            known = ", ".join(sorted(self._topics)) or "none"
            raise TransportError(f"topic {name!r} is not in {self.path} (topics: {known}); create it first")
        return topic

    def _partition(self, topic: str, number: int) -> PartitionState:
        partitions = self._topic(topic).partitions
        if not 0 <= number < len(partitions):
            raise TransportError(
                f"topic {topic!r} in {self.path} has partitions 0 to {len(partitions) - 1}; there is no {number}"
            )
        return partitions[number]

    def _place(self, message: Outgoing, grown: dict[tuple[str, int], PartitionState]) -> tuple[int, PartitionState]:
        """Where a message goes: the number and a private copy of its partition, made current after the commit."""
        topic = self._topic(message.topic)
        number = message.partition
        if number is None:
            total = len(topic.partitions)
            number = next(topic.turns) % total if message.key is None else partition_of_key(message.key, total)
        partition = grown.get((message.topic, number))
        if partition is None:
            now = self._partition(message.topic, number)
            partition = PartitionState(now.id, now.start, now.end, now.written, now.newest_ms)
            grown[message.topic, number] = partition
        return number, partition

    def _trim(self, execute: Callable[..., sqlite3.Cursor], partition: PartitionState, retention: LogRetention) -> None:
        newest = partition.rowid(partition.end - 1)
        keep = partition.rowid(partition.start)
        for column, limit in (
            ("timestamp_ms", None if retention.max_age_ms is None else partition.newest_ms - retention.max_age_ms),
            ("written", None if retention.max_bytes is None else partition.written - retention.max_bytes),
        ):
            if limit is not None:
                # Scans what it is about to delete and one message more.
                query = f"SELECT id FROM message WHERE id BETWEEN ? AND ? AND {column} >= ? ORDER BY id LIMIT 1"
                found = execute(query, (keep, newest, limit)).fetchone()
                keep = newest if found is None else found[0]
        start = keep & OFFSET_MASK
        if start > partition.start:
            execute("DELETE FROM message WHERE id BETWEEN ? AND ?", (partition.rowid(partition.start), keep - 1))
            partition.start = start

    def _connect(self) -> sqlite3.Connection:
        with self._errors("open"):
            owned_file(self.path)
            connection = sqlite3.connect(self.path, check_same_thread=False, isolation_level=None)
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = NORMAL")
            connection.execute("PRAGMA cache_size = -65536")
            return connection

    def _prepare(self) -> None:
        with self._errors("open"):
            version = self._writer.execute("PRAGMA user_version").fetchone()[0]
            tables = self._writer.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
            if version == 0 and tables == 0:
                self._writer.executescript(f"BEGIN; {SCHEMA} PRAGMA user_version = {FORMAT}; COMMIT;")
            elif version != FORMAT:
                raise TransportError(
                    f"{self.path} is not an embedded log of format {FORMAT} (found {version}); "
                    "give another path, or read it with the version of Dovetail that wrote it"
                )
        self._load()

    def _load(self) -> None:
        with self._guard, self._errors("read"):
            topics: dict[str, TopicState] = {}
            for name, max_age, max_bytes in self._writer.execute("SELECT name, max_age_ms, max_bytes FROM topic"):
                known = self._topics.get(name)
                topics[name] = TopicState([], LogRetention(max_age, max_bytes), known.turns if known else count())
            query = 'SELECT topic, id, start, "end", written, newest_ms FROM partition ORDER BY topic, number'
            for topic, *state in self._writer.execute(query):
                topics[topic].partitions.append(PartitionState(*state))
            self._topics = topics

    @contextmanager
    def _transaction(self) -> Iterator[Callable[..., sqlite3.Cursor]]:
        with self._errors("write"):
            self._writer.execute("BEGIN IMMEDIATE")
            try:
                yield self._writer.execute
                self._writer.execute("COMMIT")
            except BaseException:
                self._writer.execute("ROLLBACK")
                raise

    @contextmanager
    def _errors(self, act: str) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise TransportError(f"cannot {act} the embedded log {self.path}: {error}") from error


def _within(rows: Iterable[tuple[Any, ...]], max_bytes: int) -> list[tuple[Any, ...]]:
    """The rows that fit the budget, the first one in any case. Column 2 counts the bytes written before a row."""
    kept: list[tuple[Any, ...]] = []
    floor = None
    for row in rows:
        if floor is None:
            floor = row[2] + max_bytes
        elif row[2] + len(row[3] or b"") + len(row[4] or b"") > floor:
            break
        kept.append(row)
    return kept
