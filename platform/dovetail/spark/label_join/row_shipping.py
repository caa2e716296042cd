"""The first stages of a join: keys of snapshots and labels go to the task of their request.

Labels that name no request go to the task of their user and item first, where the requests of those go, too.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from dovetail.features.plan.request import flatten_requests
from dovetail.joiners.batch.attributed import UNATTRIBUTED, attribute_labels
from dovetail.joiners.batch.clock_rows import SETTER_COLUMNS, setter_fields, with_setter_rows, with_setters
from dovetail.joiners.meanings.known import marks_of
from dovetail.platform.rows.positions import OWN_COLUMNS
from dovetail.spark.frames import ERROR, MARK, Frame, Held, Outbox, opened
from dovetail.spark.label_join.join_survey import positions_of
from dovetail.spark.label_join.join_work import MEANING, JoinPlan, LogPart, SnapshotFile, key_hashes
from dovetail.spark.sent import items_of, task_folder, told

__all__ = ["KEYS", "LABELS", "Attribute", "Item", "ShipByPair", "ShipByRequest"]

#: Kinds of frames: keys of snapshots, candidates of requests, and from ``LABELS`` on those of each log.
KEYS, ASKED, LABELS = 16, 17, 32

Item = SnapshotFile | LogPart


@dataclass(frozen=True, slots=True)
class ShipByRequest:
    """Reads files and sends keys of snapshots, and labels, to the task of their request."""

    plan: JoinPlan
    items: Sequence[Item]

    def __call__(self, given: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        yield from told(1, self._frames(given))

    def _frames(self, given: Iterator[pa.RecordBatch]) -> Iterator[Frame]:
        for place, item in items_of(given, self.items):
            yield from _by_request(self.plan, item, place)


@dataclass(frozen=True, slots=True)
class ShipByPair:
    """Reads requests, and labels that name none, and sends them to the task of their user and item.

    All other items are read there: they are handed on by their number.
    """

    plan: JoinPlan
    items: Sequence[Item]

    def __call__(self, given: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        yield from told(1, self._frames(given))

    def _frames(self, given: Iterator[pa.RecordBatch]) -> Iterator[Frame]:
        for place, item in items_of(given, self.items):
            log = self.plan.work.logs[item.log] if isinstance(item, LogPart) else None
            if isinstance(item, LogPart) and log is not None and (not log.name or log.within_us is not None):
                yield from self._by_pair(item, place)
            else:
                yield Frame(place % self.plan.tasks, MARK, place, 0, b"")

    def _by_pair(self, item: LogPart, place: int) -> Iterator[Frame]:
        work, log = self.plan.work, self.plan.work.logs[item.log]
        lateness = work.allowed_lateness_us if log.name else work.request_lateness_us
        rows = with_setters(work.rows_of(item), log.time, lateness, item.before)
        if log.name:
            rows = rows.filter(rows.column("user_id").is_valid())
            kind = LABELS + item.log
        else:
            rows, kind = _asked(rows), ASKED
        out = Outbox(kind, place)
        to = key_hashes([rows.column("user_id"), rows.column("item_id")]) % np.uint64(self.plan.tasks)
        yield from out.put(rows, to.astype(np.int64))
        yield from out.rest()


@dataclass(frozen=True, slots=True)
class Attribute:
    """Finds the requests of labels that name none, and sends all rows on to the task of their request."""

    plan: JoinPlan
    items: Sequence[Item]

    def __call__(self, given: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        yield from told(2, self._frames(opened(given)))

    def _frames(self, frames: Iterator[Frame]) -> Iterator[Frame]:
        held: dict[int, Held] = {}
        with task_folder() as folder, self.plan.work.within(folder):
            for frame in frames:
                if frame.kind == ERROR:
                    yield frame
                elif frame.kind == MARK:
                    yield from _by_request(self.plan, self.items[frame.a], frame.a)
                else:
                    if frame.to not in held:
                        held[frame.to] = Held(folder)
                    held[frame.to].put(frame)
            for task, rows in sorted(held.items()):
                yield from self._attributed(task, rows)
                rows.close()

    def _attributed(self, task: int, held: Held) -> Iterator[Frame]:
        work = self.plan.work
        (asked_log,) = (log for log in work.logs if not log.name)
        asked = held.rows(ASKED, _asked(_with_nulls(asked_log.columns)).schema)
        once = asked.select([asked_log.time, *OWN_COLUMNS, *SETTER_COLUMNS])
        once = once.group_by(once.column_names, use_threads=False).aggregate([])
        request_log = with_setter_rows(once, asked_log.time)
        for number, log in enumerate(work.logs):
            if log.within_us is None:
                continue
            labels = held.rows(LABELS + number, _with_nulls(log.columns).schema)
            if not labels.num_rows:
                continue
            found = attribute_labels(
                with_setter_rows(labels, log.time),
                asked,
                request_log,
                within_us=log.within_us,
                allowed_lateness_us=work.allowed_lateness_us,
                request_lateness_us=work.request_lateness_us,
            )
            found = found.filter(found.column("request_id").is_valid()).drop_columns([UNATTRIBUTED])
            # Behind the items, which are the places of what is sent from files.
            yield from _labels(self.plan, number, found, len(self.items) + task)


def _asked(requests: pa.Table) -> pa.Table:
    names = ["request_id", "user_id", "item_id", "request_time", *OWN_COLUMNS, *SETTER_COLUMNS]
    return flatten_requests(requests).select(names)


def _with_nulls(columns: pa.Schema) -> pa.Table:
    """An empty table of ``columns`` and those of setters."""
    return pa.schema([*columns, *setter_fields()]).empty_table()


def _by_request(plan: JoinPlan, item: Item, place: int) -> Iterator[Frame]:
    """The frames of an item for the tasks of its requests."""
    work = plan.work
    if isinstance(item, LogPart):
        log = work.logs[item.log]
        rows = with_setters(work.rows_of(item), log.time, work.allowed_lateness_us, item.before)
        rows = rows.filter(rows.column("request_id").is_valid())
        yield from _labels(plan, item.log, rows, place)
        return
    rows = work.keys_of(item)
    wanted = positions_of(rows) < work.released_before(item.partition)
    rows = rows.filter(pa.array(wanted))
    numbers = np.array([plan.marks[mark] for mark in marks_of(rows).tolist()], dtype=np.int32)
    rows = rows.select(plan.keys.names[:-1]).cast(pa.schema(list(plan.keys)[:-1]))
    rows = rows.append_column(plan.keys.field(MEANING), pa.array(numbers))
    yield from _sent(plan, Outbox(KEYS, place), rows)


def _labels(plan: JoinPlan, number: int, rows: pa.Table, place: int) -> Iterator[Frame]:
    shipped = plan.work.logs[number].shipped
    yield from _sent(plan, Outbox(LABELS + number, place), rows.select(shipped.names).cast(shipped))


def _sent(plan: JoinPlan, out: Outbox, rows: pa.Table) -> Iterator[Frame]:
    to: npt.NDArray[np.uint64] = key_hashes([rows.column("request_id")]) % np.uint64(plan.tasks)
    yield from out.put(rows, to.astype(np.int64))
    yield from out.rest()
