"""Positions, and dropping what was seen before."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from dovetail.platform.rows.positions import SourceFilter, lacking, with_own_positions, with_source_positions


def derived(positions: list[tuple[int, int, int]], messages: list[int] | None = None) -> pa.Table:
    """Rows made from ``positions``, each published in the message of that number (all in one by default)."""
    columns = list(zip(*positions, strict=True)) if positions else [(), (), ()]
    table = pa.table({"_offset": pa.array(columns[1], pa.int64()), "_row": pa.array(columns[2], pa.int32())})
    table = table.add_column(0, "_partition", pa.array(columns[0], pa.int32()))
    own = np.array(messages or [0] * len(positions), dtype=np.int64)
    return with_own_positions(with_source_positions(table), 0, own, np.arange(len(own), dtype=np.int32))


def test_own_positions_become_source_positions_of_what_is_derived() -> None:
    table = with_own_positions(pa.table({"x": [1, 2]}), 3, np.array([7, 7]), np.array([0, 1], dtype=np.int32))
    assert table.column_names == ["x", "_partition", "_offset", "_row"]
    again = with_own_positions(with_source_positions(table), 0, np.array([9, 9]), np.array([0, 1], dtype=np.int32))
    assert again.column_names[-3:] == ["_partition", "_offset", "_row"]
    assert again.column("_source_offset").to_pylist() == [7, 7]
    assert again.column("_offset").to_pylist() == [9, 9]


def test_rows_of_one_source_position_pass_together() -> None:
    mask = SourceFilter().admit(derived([(0, 1, 0), (0, 1, 0), (0, 1, 1), (1, 0, 0)]))
    assert mask.tolist() == [True, True, True, True]


def test_a_run_published_again_in_the_same_table_is_dropped() -> None:
    positions = [(0, 5, 0), (0, 5, 0), (0, 6, 0), (0, 5, 0), (0, 5, 0), (0, 6, 0), (0, 7, 0)]
    assert SourceFilter().admit(derived(positions, [0, 0, 1, 2, 2, 3, 4])).tolist() == [
        True,
        True,
        True,
        False,
        False,
        False,
        True,
    ]


@given(
    source=st.lists(st.tuples(st.integers(0, 2), st.integers(1, 3)), max_size=30),
    crashes=st.lists(st.tuples(st.integers(0, 60), st.integers(0, 10)), max_size=4),
    cuts=st.sets(st.integers(0, 200), max_size=8),
    data=st.data(),
)
def test_each_source_position_passes_once_whatever_is_published_again(
    source: list[tuple[int, int]], crashes: list[tuple[int, int]], cuts: set[int], data: st.DataObject
) -> None:
    """A producer that goes back after crashes, read in any pieces by a reader that restarts from its state."""
    log: list[tuple[int, int, int]] = []
    for offset, (partition, candidates) in enumerate(source):
        log += [(partition, offset, 0)] * candidates
    groups = [[row for row in log if row[1] == offset] for offset in range(len(source))]
    published = list(groups)
    for at, back in crashes:
        at = min(at, len(published))
        done = published[:at]
        upto = len({group[0][1] for group in done})
        published = done + groups[max(0, upto - back) :]
    rows = [row for group in published for row in group]
    messages = [number for number, group in enumerate(published) for _ in group]
    boundaries = sorted({0, len(rows), *(c for c in cuts if c <= len(rows))})
    boundaries = [b for b in boundaries if b in (0, len(rows)) or messages[b] != messages[b - 1]]
    passed: list[tuple[int, int, int]] = []
    filter_ = SourceFilter()
    for start, end in pairwise(boundaries):
        part = rows[start:end]
        mask = filter_.admit(derived(part, messages[start:end]))
        passed += [row for row, new in zip(part, mask, strict=True) if new]
        if data.draw(st.booleans()):
            filter_ = SourceFilter(filter_.state)
    assert passed == log


def test_a_file_without_positions_is_refused_with_what_to_write() -> None:
    assert str(lacking("f.parquet", "price", ["a", "b"])) == "f.parquet: no column 'price'; it has a, b"
    said = str(lacking("f.parquet", "_partition", ["a"]))
    assert said.startswith(
        "f.parquet: no column '_partition'; it has a. _partition, _offset, _row say where a row stood"
    )
    assert "bootstrap VIEW --events" in said
