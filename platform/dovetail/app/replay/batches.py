"""Messages of a slice: rows by partition, numbered, so that a topic's end tells how far a replay has come."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dovetail.app.doors.checking import key_of
from dovetail.app.doors.door import Door
from dovetail.app.replay.arriving import Arrived
from dovetail.platform.rows import wire
from dovetail.platform.rows.intake import WATERMARK_HEADER
from dovetail.platform.stage import Outgoing
from dovetail.platform.transports.partitioning import partition_of_key

__all__ = ["REPLAY_HEADER", "Numbered", "number_of"]

#: Header of a replayed message: the replay's identity, and the message's number in its partition.
REPLAY_HEADER = "dovetail-replay"
_MOST_ROWS = 1_000
_MOST_REQUESTS = 64
#: Of memory, before compression: far below what any broker takes.
_MOST_BYTES = 512 << 10


def number_of(headers: Sequence[tuple[str, bytes]], identity: str) -> int | None:
    """The number of a message of the replay ``identity``; None of any other message."""
    for name, value in headers:
        if name == REPLAY_HEADER:
            said, _, number = value.partition(b"/")
            return int(number) if said == identity.encode() else None
    return None


class Numbered:
    """Makes the messages of one replay, in the order in which they are sent.

    They are a function of the log: each time the same, with the same numbers. ``sent`` are those, by topic and
    partition, that the topics have already: so many of each are left out.
    """

    def __init__(self, identity: str, sent: dict[tuple[str, int], int]) -> None:
        self._identity = identity
        self._sent = sent
        self._made: Counter[tuple[str, int]] = Counter()

    def rows(self, door: Door, arrived: Arrived) -> list[Outgoing]:
        """Messages of rows that arrived, as Arrow: those of one key in order, in the key's partition."""
        table = arrived.rows
        if table.num_rows == 0:
            return []
        partitions = _partitions(table.column(door.key), door.partitions)
        messages = []
        for number in np.unique(partitions).tolist():
            mine = np.flatnonzero(partitions == number)
            rows = table.take(pa.array(mine)).combine_chunks()
            for start, stop in _parts(rows, _MOST_REQUESTS if door.kind == "requests" else _MOST_ROWS):
                if (mark := self._next(door.topic, number)) is not None:
                    stamp_ms = int(arrived.arrival[mine[start:stop]].max()) // 1_000
                    value = wire.encode(rows.slice(start, stop - start))
                    messages.append(Outgoing(door.topic, value, None, number, stamp_ms, (mark,)))
        return messages

    def watermarks(self, door: Door, time_us: int, end_us: int) -> list[Outgoing]:
        """The announcement to each partition that nothing older than ``time_us`` follows, stamped ``end_us``."""
        header = (WATERMARK_HEADER, str(max(time_us, 0)).encode())
        marks = [(number, self._next(door.topic, number)) for number in range(door.partitions)]
        return [
            Outgoing(door.topic, b"", None, number, end_us // 1_000, (header, mark))
            for number, mark in marks
            if mark is not None
        ]

    def _next(self, topic: str, partition: int) -> tuple[str, bytes] | None:
        """The header of the next message of a partition; None when the topic has it already."""
        number = self._made[topic, partition]
        self._made[topic, partition] += 1
        if number < self._sent.get((topic, partition), 0):
            return None
        return REPLAY_HEADER, f"{self._identity}/{number}".encode()


def _partitions(keys: pa.ChunkedArray, total: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """The partition of each row by its key; rows without key go to the first."""
    encoded = pc.dictionary_encode(keys.combine_chunks())
    encoded = encoded if isinstance(encoded, pa.DictionaryArray) else encoded.combine_chunks()
    of_key = [partition_of_key(key_of(key) or b"", total) for key in encoded.dictionary.to_pylist()]
    codes = encoded.indices.fill_null(len(of_key)).to_numpy(zero_copy_only=False)
    found: np.ndarray[tuple[int], np.dtype[np.int64]] = np.array([*of_key, 0], dtype=np.int64)[codes]
    return found


def _parts(rows: pa.Table, most: int) -> Iterator[tuple[int, int]]:
    each = max(1, min(most, int(_MOST_BYTES // max(1, rows.nbytes / rows.num_rows))))
    for start in range(0, rows.num_rows, each):
        yield start, min(start + each, rows.num_rows)
