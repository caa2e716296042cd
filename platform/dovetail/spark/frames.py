"""Frames: the rows that are shuffled. Each carries many rows of Dovetail's, sealed, and where they go.

Whoever shuffles frames sees a destination, an order, and bytes. So no value passes through another engine's types, and
a shuffle of a billion rows is one of some millions of frames.
"""

from __future__ import annotations

import mmap
import pickle
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

__all__ = [
    "ERROR",
    "EVENTS",
    "FRAME",
    "HAPPENED",
    "MARK",
    "PROBES",
    "RESULT",
    "VALUES",
    "Frame",
    "Held",
    "Outbox",
    "batches",
    "opened",
    "rows_of",
    "sealed",
]

#: ``to``: the destination, a partition of the next stage. ``a``, ``b``: the order at the destination. ``kind``: of the
#: payload.
FRAME = pa.schema(
    [
        pa.field("to", pa.int32()),
        pa.field("kind", pa.int32()),
        pa.field("a", pa.int64()),
        pa.field("b", pa.int64()),
        pa.field("payload", pa.binary()),
    ]
)

PROBES, EVENTS, VALUES, HAPPENED, MARK, RESULT, ERROR = range(7)

#: Rows of a frame at most, and bytes of frames that are handed over at once.
_ROWS = 65_536
_BYTES = 16 << 20
#: Rows that are gathered before they are cut into frames: the more, the larger frames are.
_GATHERED = 1 << 20
_ALIGNED = 64


class Frame(NamedTuple):
    """One frame, as in :data:`FRAME`."""

    to: int
    kind: int
    a: int
    b: int
    payload: bytes

    @classmethod
    def of(cls, to: int, kind: int, value: Any, a: int = 0, b: int = 0) -> Frame:
        """A frame that carries any small value."""
        return cls(to, kind, a, b, pickle.dumps(value))

    def value(self) -> Any:
        """The value that :meth:`of` put in. Frames come from this job's own tasks."""
        return pickle.loads(self.payload)  # noqa: S301


def batches(frames: Iterable[Frame]) -> Iterator[pa.RecordBatch]:
    """Frames in record batches of :data:`FRAME`, none much larger than 16 MiB."""
    held: list[Frame] = []
    size = 0
    for frame in frames:
        held.append(frame)
        size += len(frame.payload)
        if size >= _BYTES:
            yield _batch(held)
            held, size = [], 0
    if held:
        yield _batch(held)


def _batch(frames: Sequence[Frame]) -> pa.RecordBatch:
    columns = zip(*frames, strict=True)
    return pa.RecordBatch.from_arrays(
        [pa.array(column, field.type) for column, field in zip(columns, FRAME, strict=True)], schema=FRAME
    )


def opened(given: Iterable[pa.RecordBatch]) -> Iterator[Frame]:
    """The frames of record batches, one by one."""
    for batch in given:
        to, kind, a, b = (batch.column(number).to_pylist() for number in range(4))
        payloads = batch.column(4)
        for row in range(batch.num_rows):
            # Copied, because a slice of a column may begin anywhere, and Arrow's buffers are aligned.
            yield Frame(to[row], kind[row], a[row], b[row], payloads[row].as_py())


def sealed(rows: pa.Table) -> Iterator[bytes]:
    """Rows as payloads, without their schema, which both sides know."""
    for batch in rows.combine_chunks().to_batches(max_chunksize=_ROWS):
        yield batch.serialize().to_pybytes()


class Outbox:
    """Gathers rows of one schema and sends them in frames, those of one destination together, in the order given."""

    def __init__(self, kind: int, a: int) -> None:
        self._kind, self._a, self._b = kind, a, 0
        self._rows: list[pa.Table] = []
        self._to: list[npt.NDArray[np.int64]] = []
        self._count = 0

    def put(self, rows: pa.Table, to: npt.NDArray[np.int64]) -> Iterator[Frame]:
        """Take rows and their destinations; gives frames when there is enough."""
        self._rows.append(rows)
        self._to.append(to)
        self._count += rows.num_rows
        if self._count >= _GATHERED:
            yield from self.rest()

    def rest(self) -> Iterator[Frame]:
        """The frames of all that was taken since."""
        if not self._count:
            return
        to = np.concatenate(self._to)
        order = np.argsort(to, kind="stable")
        rows = pa.concat_tables(self._rows).take(pa.array(order))
        targets, starts = np.unique(to[order], return_index=True)
        self._rows, self._to, self._count = [], [], 0
        for target, start, end in zip(targets.tolist(), starts, [*starts[1:], len(to)], strict=True):
            for payload in sealed(rows.slice(int(start), int(end - start))):
                yield Frame(target, self._kind, self._a, self._b, payload)
                self._b += 1


class Held:
    """Holds the frames of one destination in a file, and gives the rows of a kind back in order, mapped into memory."""

    def __init__(self, folder: Path) -> None:
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115
        self._places: list[tuple[int, int, int, int, int]] = []
        self._end = 0

    def put(self, frame: Frame) -> None:
        """Take a frame."""
        size = len(frame.payload)
        self._file.write(frame.payload)
        self._places.append((frame.kind, frame.a, frame.b, self._end, size))
        padding = -size % _ALIGNED
        self._file.write(b"\0" * padding)
        self._end += size + padding

    def rows(self, kind: int, schema: pa.Schema) -> pa.Table:
        """All rows of ``kind``, by ``(a, b)``; a frame that came twice counts once."""
        self._file.flush()
        places = {(a, b): (at, size) for k, a, b, at, size in self._places if k == kind}
        if not places:
            return schema.empty_table()
        mapped = pa.py_buffer(mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ))
        parts = [pa.ipc.read_record_batch(mapped.slice(at, size), schema) for _, (at, size) in sorted(places.items())]
        return pa.Table.from_batches(parts, schema)

    def close(self) -> None:
        """Give the file back."""
        self._file.close()


def rows_of(frame: Frame, schema: pa.Schema) -> pa.Table:
    """The rows that a frame carries."""
    return pa.Table.from_batches([pa.ipc.read_record_batch(pa.py_buffer(frame.payload), schema)], schema)
