"""The label agent: feedback in, label rows by key.

It does not wait for anything. A label is stored under ``(request_id, item_id)`` the moment it arrives, whether its
snapshot has been seen or not; the sample agent finds it there when the window has passed.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping

import numpy as np
import pyarrow as pa

from dovetail.joiners.watermark import clocks_before
from dovetail.platform import wire
from dovetail.platform.intake import Intake, Received, spoken_ms, time_us
from dovetail.platform.positions import pack
from dovetail.platform.signal import Signal
from dovetail.platform.stage import Poll, Stage, Work
from dovetail.platform.stores.labels import LABEL_ROWS, LabelStore
from dovetail.platform.stores.ledger import Progress

__all__ = ["LabelStage", "label_rows", "label_scope"]


def label_scope(kind: str) -> str:
    """Name under which the label store keeps the progress of one label stream."""
    return f"labels.{kind}"


def _log_times(received: Received) -> tuple[np.ndarray, np.ndarray]:
    """Rows and announced watermarks in log order: their times (int64 µs), and which of them are rows (bool)."""
    rows = time_us(received.table, "event_time")
    order = pack(received.table.column("_offset").to_numpy(), received.table.column("_row").to_numpy())
    announced = np.array([time for _, time in received.watermarks], dtype=np.int64)
    announced_at = np.array([offset for offset, _ in received.watermarks], dtype=np.int64) * (1 << 20)
    by_log = np.argsort(np.concatenate((order, announced_at)), kind="stable")
    is_row = np.concatenate((np.ones(len(rows), dtype=np.bool_), np.zeros(len(announced), dtype=np.bool_)))
    return np.concatenate((rows, announced))[by_log], is_row[by_log]


class LabelStage(Stage):
    """Reads one label topic into the label store."""

    def __init__(
        self,
        kind: str,
        topic: str,
        intake: Intake,
        store: LabelStore,
        *,
        allowed_lateness_us: int,
        useful_us: int,
        dead_letter_topic: str,
        moved: Signal,
    ) -> None:
        """``useful_us``: a label that the stream knew of this long after its event time is late for every snapshot."""
        self.name = label_scope(kind)
        self.topics = (topic,)
        self._kind = kind
        self._intake = intake
        self._store = store
        self._allowed_lateness_us = allowed_lateness_us
        self._useful_us = useful_us
        self._dead_letter_topic = dead_letter_topic
        self._moved = moved
        self._progress: dict[int, Progress] = {}

    def resume(self, topic: str) -> Mapping[int, int]:
        self._progress = dict(self._store.progress(self.name))
        return {partition: progress.next_offset for partition, progress in self._progress.items()}

    async def handle(self, poll: Poll) -> AsyncIterator[Work]:
        before = self._progress.get(poll.partition, Progress())
        received, rows, late, after = await asyncio.to_thread(self._rows, poll, before)

        def commit() -> None:
            self._store.insert(
                self.name,
                poll.partition,
                expected=before.next_offset,
                progress=after,
                rows=rows,
                topic=poll.topic,
                dead=received.dead_rows,
                late=late,
            )
            self._progress[poll.partition] = after
            self._moved.send()

        letters = wire.letters_to_outgoing(self._dead_letter_topic, poll, received.dead, self.name)
        yield Work(outgoing=letters, commit=commit, done=after.next_offset)

    def _rows(self, poll: Poll, before: Progress) -> tuple[Received, pa.Table, int, Progress]:
        received = self._intake.read(poll)
        times, is_row = _log_times(received)
        newest_before = clocks_before(times, before.watermark_us)[is_row]
        table = received.table
        event_time = times[is_row]
        # A row older than the clock is late; to the join it happened when the stream knew of it.
        no_clock = newest_before == np.iinfo(np.int64).min
        clock = np.where(no_clock, newest_before, newest_before - self._allowed_lateness_us)
        columns = [
            table.column("request_id").cast(pa.string()),
            table.column("item_id").cast(pa.string()),
            pa.array([self._kind], pa.string()).take(pa.array(np.zeros(table.num_rows, dtype=np.int64))),
            np.maximum(event_time, clock),
            event_time,
            *(table.column(name) for name in ("_partition", "_offset", "_row")),
        ]
        rows = pa.Table.from_arrays(
            [c if isinstance(c, pa.ChunkedArray | pa.Array) else pa.array(c, pa.int64()) for c in columns],
            names=LABEL_ROWS.names,
        ).cast(LABEL_ROWS)
        late = np.maximum(event_time, clock) > event_time + self._useful_us
        rows = rows.filter(pa.array(~late)) if late.any() else rows
        known = [] if before.watermark_us is None else [before.watermark_us]
        after = Progress(
            poll.last + 1,
            watermark_us=max([*known, *([int(times.max())] if len(times) else [])], default=None),
            timestamp_ms=max(
                (stamp for stamp in (before.timestamp_ms, spoken_ms(poll)) if stamp is not None), default=None
            ),
        )
        return received, rows, int(late.sum()), after


def label_rows(received: Received, partition: int) -> pa.Table:
    """What the archive of a label stream keeps of a poll: its rows and, as rows without request, announced watermarks.

    With them the archive alone says what each partition's clock was at each row.
    """
    table = received.table
    nullable = table.cast(pa.schema([field.with_nullable(True) for field in table.schema]))
    if not received.watermarks:
        return nullable
    announced = pa.table(
        {
            "event_time": pa.array([time for _, time in received.watermarks], pa.int64()).cast(pa.timestamp("us")),
            "_partition": pa.array([partition] * len(received.watermarks), pa.int32()),
            "_offset": pa.array([offset for offset, _ in received.watermarks], pa.int64()),
            "_row": pa.array([0] * len(received.watermarks), pa.int32()),
        }
    )
    merged = pa.concat_tables([nullable, announced], promote_options="default").sort_by(
        [("_offset", "ascending"), ("_row", "ascending")]
    )
    return merged.select(table.column_names)
