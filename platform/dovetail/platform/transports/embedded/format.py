"""How the embedded log lies in its SQLite file, and the part of it that is kept in memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

__all__ = ["FORMAT", "OFFSET_MASK", "SCHEMA", "LogRetention", "PartitionState", "TopicState"]

# A message's rowid is its partition's number and its offset: appending to a partition and reading a run of it touch
# neighbouring rows of one B-tree, without a second index. Offsets below 2**43, as in positions.pack.
_OFFSET_BITS = 43
OFFSET_MASK = (1 << _OFFSET_BITS) - 1
FORMAT = 1

SCHEMA = """
CREATE TABLE topic (name TEXT PRIMARY KEY, partitions INTEGER NOT NULL, max_age_ms INTEGER, max_bytes INTEGER);
CREATE TABLE partition (
    id INTEGER PRIMARY KEY, topic TEXT NOT NULL REFERENCES topic(name), number INTEGER NOT NULL,
    start INTEGER NOT NULL, "end" INTEGER NOT NULL, written INTEGER NOT NULL, newest_ms INTEGER NOT NULL,
    UNIQUE (topic, number));
CREATE TABLE message (
    id INTEGER PRIMARY KEY, timestamp_ms INTEGER NOT NULL, written INTEGER NOT NULL,
    key BLOB, value BLOB, headers BLOB);
CREATE TABLE committed (
    consumer_group TEXT, topic TEXT, partition INTEGER, "offset" INTEGER NOT NULL,
    PRIMARY KEY (consumer_group, topic, partition)) WITHOUT ROWID;
"""


@dataclass(frozen=True, slots=True)
class LogRetention:
    """Bounds of a topic's age and size; None keeps everything.

    A message goes when it is older than ``max_age_ms`` measured against the newest timestamp of its partition (not
    against the wall clock, which would trim a replayed backlog before it is read), or when newer messages of its
    partition hold ``max_bytes`` (keys and values) without it. Only a prefix goes: a late message with an old
    timestamp waits for those before it. The newest message always stays.
    """

    max_age_ms: int | None = None
    max_bytes: int | None = None


@dataclass(slots=True)
class PartitionState:
    """Mirror of a row of ``partition``, so that finding nothing new costs no query."""

    id: int
    start: int
    end: int
    written: int  # bytes of keys and values ever appended
    newest_ms: int

    def rowid(self, offset: int) -> int:
        """Where the message with ``offset`` is."""
        return (self.id << _OFFSET_BITS) | offset


@dataclass(slots=True)
class TopicState:
    """A topic as the log keeps it in memory."""

    partitions: list[PartitionState]
    retention: LogRetention
    turns: Iterator[int]
