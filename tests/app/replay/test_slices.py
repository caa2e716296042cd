"""Slices: as long as they may be, and what is sent first in one changes nothing for any request."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dovetail.app.doors.door import doors
from dovetail.app.replay.arriving import Lateness, Source
from dovetail.app.replay.prepared import ARRIVAL_US
from dovetail.app.replay.slices import next_end
from dovetail.features import load
from tests.app.doors.news import write_project


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("news") / "project"
    write_project(folder)
    return folder


def write(file: Path, rows: list[tuple[int, int]], columns: dict[str, tuple[object, pa.DataType]], time: str) -> None:
    """A prepared file of ``rows``, (arrival, event time)."""
    n = len(rows)
    times = pa.array([t for _, t in rows], pa.int64()).cast(pa.timestamp("us"))
    fixed = {name: pa.array([value] * n, kind) for name, (value, kind) in columns.items()}
    pq.write_table(pa.table({**fixed, time: times, ARRIVAL_US: pa.array([a for a, _ in rows], pa.int64())}), file)


def slices_of(
    folder: Path, events: list[tuple[int, int]], asked: list[tuple[int, int]], *, slice_us: int, late: int, most: int
) -> list[tuple[list[tuple[int, int]], list[tuple[int, int]]]]:
    known = doors(load(folder))
    text = pa.string()
    write(folder / "e.parquet", events, {"user_id": ("u", text), "item_id": ("i", text)}, "event_time")
    candidates = pa.list_(pa.struct([("item_id", text)]))
    write(folder / "r.parquet", asked, {"request_id": ("r", text), "candidates": ([], candidates)}, "request_time")
    streams, requests = (
        Source(folder / "e.parquet", known["reads"], late),
        Source(folder / "r.parquet", known["requests"], 0),
    )
    found = []
    while (end := next_end([streams], [requests], [], slice_us=slice_us, most=most)) is not None:
        taken = [source.take(end) for source in (streams, requests)]
        assert sum(each.rows.num_rows for each in taken)
        pairs = [list(zip(each.arrival.tolist(), each.times.tolist(), strict=True)) for each in taken]
        assert all(arrival < end for each in pairs for arrival, _ in each)
        found.append((pairs[0], pairs[1]))
    streams.close()
    requests.close()
    return found


def arrived(rows: list[tuple[int, int]]) -> list[tuple[int, int]]:
    return sorted((time + late, time) for time, late in rows)


Rows = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 25)), max_size=25).map(arrived)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    events=Rows,
    asked=Rows,
    slice_us=st.integers(1, 40),
    late=st.integers(0, 20),
    most=st.integers(1, 8),
)
def test_a_request_sees_and_is_answered_as_in_the_order_of_arrival(
    folder: Path, events: list[tuple[int, int]], asked: list[tuple[int, int]], slice_us: int, late: int, most: int
) -> None:
    slices = slices_of(folder, events, asked, slice_us=slice_us, late=late, most=most)
    assert [row for some, _ in slices for row in some] == events
    assert [row for _, some in slices for row in some] == asked
    sent: list[tuple[int, int]] = []
    for some, requests in slices:
        sent += some
        for arrival, time in requests:
            before = [row for row in events if row[0] <= arrival]
            assert sorted(row for row in sent if row[1] <= time) == sorted(row for row in before if row[1] <= time)
            now, then = (max((t for _, t in rows), default=None) for rows in (sent, before))
            answerable = [newest is None or time >= newest - late for newest in (now, then)]
            assert answerable[0] == answerable[1]


def test_what_is_in_order_and_near_is_one_slice(folder: Path) -> None:
    events, asked = [(1, 1), (3, 3), (5, 5)], [(2, 2), (4, 4)]
    assert len(slices_of(folder, events, asked, slice_us=10, late=10, most=100)) == 1
    assert len(slices_of(folder, events, asked, slice_us=10, late=0, most=100)) == 3


def test_what_came_late_is_counted() -> None:
    lateness = Lateness(5)
    lateness.add(np.array([10, 8, 20]))
    lateness.add(np.array([14, 20, 21]))
    assert (lateness.rows, lateness.out_of_order, lateness.beyond, lateness.most_us) == (6, 2, 1, 6)
