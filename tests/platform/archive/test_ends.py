"""The first and the last time of an archive are those of its rows, and only the days at its ends are read for them."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dovetail.platform.archive.dayfiles import DAY_US, NEVER_US, DayFile, DayFiles, day_of
from dovetail.platform.stores.offline import OfflineStore


def days(folder: Path, refused: list[tuple[int, int]] | None = None) -> DayFiles:
    """Four days of two rows each, at 1 and 23 o'clock; offset is the day's number."""
    hour, named = DAY_US // 24, []
    for day in range(4):
        times = pa.array([day * DAY_US + hour, day * DAY_US + 23 * hour], pa.int64()).cast(pa.timestamp("us"))
        positions = {"_partition": pa.array([0, 0], pa.int32()), "_offset": pa.array([day, day], pa.int64())}
        pq.write_table(pa.table({"at": times, **positions}), folder / f"{day}.parquet")
        named.append(DayFile(f"{day}.parquet", {day_of(day * DAY_US): 2}, ""))
    return DayFiles(OfflineStore(str(folder)), named, "at", refused or [])


@pytest.mark.parametrize(
    ("low", "high", "refused", "ends"),
    [
        (None, NEVER_US, [], (1, 95)),
        (2 * 3_600_000_000, 3 * DAY_US, [], (23, 71)),
        (None, NEVER_US, [(0, 0), (0, 3)], (25, 71)),
        (None, NEVER_US, [(0, day) for day in range(4)], None),
        (5 * DAY_US, NEVER_US, [], None),
    ],
)
def test_ends_are_those_of_the_rows_that_are_read(
    tmp_path: Path, low: int | None, high: int, refused: list[tuple[int, int]], ends: tuple[int, int] | None
) -> None:
    found = days(tmp_path, refused).ends_us(low, high)
    assert found == (None if ends is None else tuple(hour * DAY_US // 24 for hour in ends))


def test_days_between_the_ends_are_not_read(tmp_path: Path) -> None:
    there = days(tmp_path)
    for day in (1, 2):
        (tmp_path / f"{day}.parquet").unlink()
    assert there.ends_us(None, NEVER_US) == (DAY_US // 24, 95 * DAY_US // 24)
