"""Rows found by a value are those that reading everything would find."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from dovetail.platform.archive.dayfiles import DayFile, DayFiles
from dovetail.platform.archive.finding import find_rows
from dovetail.platform.rows.encodings.shared import share
from dovetail.platform.stores.offline import OfflineStore

DAY_US = 86_400_000_000


def table(first: int, rows: int) -> pa.Table:
    """Two rows a request, a request an hour; the rows of a request share a list."""
    number = pa.array(range(first, first + rows), pa.int64())
    requests = pa.array([f"r{n // 2:03d}" for n in range(first, first + rows)])
    lists = pa.array([[n] for n in range(first // 2, (first + rows + 1) // 2)], pa.list_(pa.int64()))
    indices = pa.array([n // 2 - first // 2 for n in range(first, first + rows)], pa.int32())
    shared = pa.DictionaryArray.from_arrays(indices, lists)
    times = pa.array([n // 2 * DAY_US // 24 for n in range(first, first + rows)], pa.int64()).cast(pa.timestamp("us"))
    own = {"_partition": pa.array([0] * rows, pa.int32()), "_offset": number, "_row": pa.array([0] * rows, pa.int32())}
    return pa.table({"number": number, "request_id": requests, "list": shared, "at": times, **own})


def files(folder: Path, refused: list[tuple[int, int]] | None = None) -> DayFiles:
    parts = [share(table(0, 40)), share(table(40, 60))]
    for number, part in enumerate(parts):
        pq.write_table(part, folder / f"{number}.parquet", row_group_size=7)
    named = [DayFile("0.parquet", {"1970-01-01": 40}, ""), DayFile("1.parquet", {"1970-01-02": 60}, "")]
    return DayFiles(OfflineStore(str(folder)), named, "at", refused or [])


def test_rows_are_found_in_every_file_with_what_they_share(tmp_path: Path) -> None:
    found = find_rows(files(tmp_path), "request_id", ["r003", "r010", "r031", "none"])
    assert found.complete
    assert found.rows.column("number").to_pylist() == [6, 7, 20, 21, 62, 63]
    assert found.rows.column("list").to_pylist() == [[3], [3], [10], [10], [31], [31]]
    assert find_rows(files(tmp_path), "number", [20]).rows.column("list").to_pylist() == [[10]]


def test_of_more_rows_than_are_wanted_the_first_come(tmp_path: Path) -> None:
    every = [f"r{n:03d}" for n in range(50)]
    found = find_rows(files(tmp_path), "request_id", every, most=10)
    assert found.rows.column("number").to_pylist() == list(range(10))
    assert not found.complete
    assert find_rows(files(tmp_path), "request_id", every, most=100).complete


def test_files_of_other_days_are_not_read(tmp_path: Path) -> None:
    there = files(tmp_path)
    (tmp_path / "0.parquet").unlink()
    assert find_rows(there, "request_id", ["r031"], low_us=DAY_US).rows.num_rows == 2


def test_rows_of_refused_messages_are_not_found(tmp_path: Path) -> None:
    assert find_rows(files(tmp_path, [(0, 7)]), "request_id", ["r003"]).rows.column("number").to_pylist() == [6]


def test_a_value_or_column_that_no_file_can_have_is_in_none(tmp_path: Path) -> None:
    for column, value in (("number", "no number"), ("request_id", "r999"), ("no column", 1)):
        found = find_rows(files(tmp_path), column, [value])
        assert (found.rows.num_rows, found.complete) == (0, True)
