"""The work as tasks are sent it, without what only the driver has; its items; and errors on their way back."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa

from dovetail.features.batch.pieces import Limits
from dovetail.features.batch.point_in_time import RowAssembly
from dovetail.features.batch.streaming import Visibility
from dovetail.features.plan.definitions import BatchView, FeatureColumn, FeatureSet, StreamView
from dovetail.features.stored.day_engine import DayWork
from dovetail.features.stored.past_requests import RequestLog
from dovetail.platform.archive.dayfiles import DAY_US, DayFiles, day_start_us
from dovetail.platform.duck.hermetic import Resources, resources
from dovetail.platform.errors import DovetailError
from dovetail.spark.frames import ERROR, Frame, batches

__all__ = ["EventPart", "RequestPart", "SentWork", "items_of", "raised", "sent_work", "task_folder", "told"]

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class RequestPart:
    """One split of a day's requests; ``number`` is the day's place in the span."""

    number: int
    day: str
    split: int


@dataclass(frozen=True, slots=True)
class EventPart:
    """Some files, or part of one, of a branch of a view."""

    view: str
    branch: int
    files: DayFiles


@dataclass(frozen=True, slots=True)
class SentWork:
    """A span's work. ``stream`` and ``batch`` are the views that ``columns`` read, ``needed`` their columns read."""

    features: FeatureSet
    columns: Sequence[FeatureColumn]
    stream: Mapping[str, StreamView]
    batch: Mapping[str, BatchView]
    needed: Mapping[str, Sequence[str]]
    requests: RequestLog
    days: Sequence[str]
    visibility: Visibility
    limits: Limits
    both: bool

    @property
    def low_us(self) -> int:
        """The span's first microsecond."""
        return day_start_us(self.days[0])

    @property
    def high_us(self) -> int:
        """The span's last microsecond."""
        return day_start_us(self.days[-1]) + DAY_US - 1

    def assembly(self, table_of: Callable[[str, int], pa.Table]) -> RowAssembly:
        """Puts the columns together, of values and versions."""
        return RowAssembly(self.features, self.columns, self.stream, self.batch, table_of)

    def within(self, folder: Path) -> AbstractContextManager[None]:
        """DuckDB's limits in a task, where it spills into ``folder``; one thread unless more are asked for."""
        return resources(Resources(self.limits.threads or 1, self.limits.memory_bytes, folder / "duckdb"))


@contextmanager
def task_folder() -> Iterator[Path]:
    """A folder of a task, gone when the block ends.

    It is in Spark's local folders, which Spark removes, where a task is killed.
    """
    near = os.environ.get("SPARK_LOCAL_DIRS", "").partition(",")[0]
    folder = Path(tempfile.mkdtemp(prefix="dovetail-", dir=near or None))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def sent_work(work: DayWork, days: Sequence[str]) -> SentWork:
    """The part of ``work`` that tasks need for a span of ``days``."""
    reads = RowAssembly(work.features, work.columns, work.stream_views, work.batch_views, work.versions.table)
    return SentWork(
        work.features,
        work.columns,
        reads.stream,
        reads.batch,
        reads.needed,
        work.requests.portable(),
        days,
        work.visibility,
        work.limits,
        work.both,
    )


def items_of(given: Iterable[pa.RecordBatch], items: Sequence[Item]) -> Iterator[tuple[int, Item]]:
    """The items whose numbers are given, each with its number."""
    for batch in given:
        for number in batch.column(0).to_pylist():
            yield number, items[number]


def told(stage: int, frames: Iterator[Frame]) -> Iterator[pa.RecordBatch]:
    """Frames in batches; an error of Dovetail's is the last one, as it would only come again if a task were retried."""
    yield from batches(_with_error(stage, frames))


def _with_error(stage: int, frames: Iterator[Frame]) -> Iterator[Frame]:
    try:
        yield from frames
    except DovetailError as error:
        yield Frame.of(0, ERROR, (type(error), error.args, dict(error.__dict__)), a=-1, b=stage)


def raised(frame: Frame) -> DovetailError:
    """The error that a frame tells of."""
    kind, args, state = frame.value()
    error: Any = kind.__new__(kind)
    Exception.__init__(error, *args)
    error.__dict__.update(state)
    return error  # type: ignore[no-any-return]
