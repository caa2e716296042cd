"""The label agent: feedback in, label rows by key.

A label is stored under ``(request_id, item_id)`` the moment it arrives, whether its snapshot has been seen or not; the
sample agent finds it there when the window has passed. Only a label that names its user instead of its request waits:
for the requests it may belong to (see ``attribution.py``).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from functools import lru_cache, partial

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from dovetail.joiners.attribution import Attribution
from dovetail.joiners.hold import Hold
from dovetail.joiners.values.kind_rules import LabelNeeds
from dovetail.joiners.values.payload import packed
from dovetail.joiners.watermark import known_times_us, progress_after
from dovetail.platform.rows import wire
from dovetail.platform.rows.intake import (
    Intake,
    Received,
    spoken_ms,
    time_us,
)
from dovetail.platform.rows.positions import OWN_COLUMNS, Progress
from dovetail.platform.runtime.computing import compute
from dovetail.platform.runtime.signal import Signal
from dovetail.platform.stage import Outgoing, Poll, Stage, Work
from dovetail.platform.stores.labels import LABEL_EVENTS, LABEL_ROWS, LabelStore
from dovetail.platform.stores.progress_view import ProgressView

__all__ = ["LabelStage", "label_rows", "label_scope"]


def label_scope(kind: str) -> str:
    """Name under which the label store keeps the progress of one label stream."""
    return f"labels.{kind}"


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
        needed: Callable[[], LabelNeeds],
        dead_letter_topic: str,
        moved: Signal,
        attribution: Attribution | None = None,
        on_stored: Callable[[], None] = lambda: None,
        view: ProgressView | None = None,
    ) -> None:
        """``needed`` is asked of each poll when it is there, since settings may change.

        ``attribution`` finds the requests of labels that name a user instead of one. ``on_stored`` is called in the
        committing thread after each commit; ``view`` is told of each.
        """
        self.name = label_scope(kind)
        self.topics = (topic,)
        self._kind = kind
        self._intake = intake
        self.refusals = intake.refusals
        self._store = store
        self._allowed_lateness_us = allowed_lateness_us
        self._needed = needed
        self._dead_letter_topic = dead_letter_topic
        self._moved = moved
        self._attribution = attribution
        self._on_stored = on_stored
        self._view = view or ProgressView(store.progress)
        self._progress: dict[int, Progress] = {}
        #: While labels wait for requests: the event time (µs) that the clocks of these must reach; None otherwise.
        self.blocked_until_us: int | None = None
        # Only while a poll waits for its requests.
        self._hold = Hold(moved)

    def resume(self, topic: str) -> Mapping[int, int]:
        self._view.drop(self.name)
        self._progress = dict(self._store.progress(self.name))
        return {partition: progress.next_offset for partition, progress in self._progress.items()}

    def forget(self, topic: str, partitions: Collection[int]) -> None:
        self._hold.forget(partitions)

    def hurry(self) -> None:
        self._hold.hurry()

    @property
    def waiting(self) -> str | None:
        """Says in words that labels wait for the requests before them; None when they do not."""
        held = self._hold.partition
        return None if held is None else f"requests that {self._kind} labels of partition {held} belong to"

    async def handle(self, poll: Poll) -> AsyncIterator[Work]:
        before = self._progress.get(poll.partition, Progress())
        received = await compute(self._intake.admit, poll)
        effective_us = known_times_us(received, "event_time", before, self._allowed_lateness_us)
        if self._attribution is not None and len(effective_us):
            look = partial(self._look, self._attribution, int(effective_us.max()), spoken_ms(poll, received.refused))
            with self._hold.of(poll.partition):
                try:
                    while announcements := await self._hold.until(look):
                        yield Work(outgoing=announcements)
                finally:
                    self.blocked_until_us = None
                if not self._hold.wanted:
                    return
        rows, whole, late, unattributed = await compute(self._rows, received.table, effective_us)
        after = progress_after(poll, received, "event_time", before)

        def commit() -> None:
            self._store.insert(
                self.name,
                poll.partition,
                expected=before.next_offset,
                progress=after,
                rows=rows.select(LABEL_ROWS.names),
                topic=poll.topic,
                dead=received.dead_rows,
                late=late,
                unattributed=unattributed,
                repeated=received.repeated_rows,
                events=rows if whole else None,
            )
            self._progress[poll.partition] = after
            self._view.moved(self.name, poll.partition, after)
            self._moved.send()
            self._on_stored()

        letters = wire.letters_to_outgoing(self._dead_letter_topic, poll, received.dead, self.name)
        yield Work(outgoing=letters, commit=commit, done=after.next_offset)

    async def _look(
        self, attribution: Attribution, effective_us: int, stamp_ms: int | None
    ) -> Sequence[Outgoing] | None:
        found = await attribution.look(effective_us, stamp_ms)
        self.blocked_until_us = effective_us + 1 if found is None else None
        return found

    def probe(self, poll: Poll) -> None:
        received = self._intake.read(poll)
        before = self._progress.get(poll.partition, Progress())
        self._rows(received.table, known_times_us(received, "event_time", before, self._allowed_lateness_us))

    def _rows(self, table: pa.Table, effective_us: npt.NDArray[np.int64]) -> tuple[pa.Table, bool, int, int]:
        """The rows to store (LABEL_EVENTS), whether each is kept, and how many are too late or of no request."""
        if table.num_rows == 0:
            return LABEL_EVENTS.empty_table(), False, 0, 0
        rule, useful_us = self._needed()
        # A row older than the clock is late; to the join it happened when the stream knew of it.
        event_us = time_us(table, "event_time")
        useful = effective_us <= event_us + useful_us
        late = len(useful) - int(useful.sum())
        if late:
            table, event_us, effective_us = table.filter(pa.array(useful)), event_us[useful], effective_us[useful]
        if self._attribution is None:
            request_ids = _texts(table.column("request_id"))
        else:
            request_ids = self._attribution.request_ids(table, event_us, effective_us)
        columns = [
            request_ids,
            _texts(table.column("item_id")),
            pa.repeat(self._kind, table.num_rows),
            pa.array(effective_us, pa.int64()),
            pa.array(event_us, pa.int64()),
            *(table.column(name) for name in OWN_COLUMNS),
            packed(table, rule.values),
        ]
        if request_ids.null_count == 0:
            return pa.Table.from_arrays(columns, schema=LABEL_EVENTS), rule.whole, late, 0
        rows = pa.table(columns, names=LABEL_EVENTS.names)
        found = rows.filter(pc.is_valid(rows.column("request_id")))
        return found.cast(LABEL_EVENTS), rule.whole, late, rows.num_rows - found.num_rows


def _texts(values: pa.ChunkedArray) -> pa.ChunkedArray:
    return values if values.type == pa.string() else values.cast(pa.string())


@lru_cache(maxsize=256)
def _nullable(schema: pa.Schema) -> pa.Schema:
    return pa.schema([field.with_nullable(True) for field in schema])


def label_rows(received: Received, partition: int) -> pa.Table:
    """The rows that the archive of a label stream keeps: a poll's and, without request, the announced watermarks.

    With them the archive alone says what each partition's clock was at each row.
    """
    nullable = _nullable(received.table.schema)
    table = pa.Table.from_arrays(received.table.columns, schema=nullable)
    if not received.watermarks:
        return table
    offsets, times = np.array(received.watermarks, dtype=np.int64).T
    nothing = np.zeros(len(times), dtype=np.int32)
    said = {"event_time": times.view("datetime64[us]"), "_partition": nothing + np.int32(partition)}
    said |= {"_offset": offsets, "_row": nothing}
    columns = [
        pa.array(said[field.name]).cast(field.type) if field.name in said else pa.nulls(len(times), field.type)
        for field in nullable
    ]
    announced = pa.Table.from_arrays(columns, schema=nullable)
    if table.num_rows == 0:
        return announced
    together = pa.concat_tables([table, announced]).combine_chunks()
    order = np.lexsort((together.column("_row").to_numpy(), together.column("_offset").to_numpy()))
    return together if (order[1:] > order[:-1]).all() else together.take(pa.array(order))
