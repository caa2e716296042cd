"""Which requests rows belong to, whether they are of one or of several."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from dovetail.joiners.snapshots.units import among, request_starts, requests_of
from dovetail.platform.rows.positions import OWN_COLUMNS, SOURCE_COLUMNS


def rows_of(runs: list[tuple[int, int, int]], columns: tuple[str, ...]) -> pa.Table:
    """Rows by runs of offset, row and how many, in ascending order, in two chunks."""
    lengths = [length for *_, length in runs]
    offsets = np.repeat(np.array([offset for offset, _, _ in runs], dtype=np.int64), lengths)
    numbers = np.repeat(np.array([row for _, row, _ in runs], dtype=np.int32), lengths)
    values = (pa.array(np.zeros(len(offsets), dtype=np.int32)), pa.array(offsets), pa.array(numbers))
    table = pa.table(dict(zip(columns, values, strict=True)))
    middle = table.num_rows // 2
    return pa.concat_tables([table.slice(0, middle), table.slice(middle)])


requests = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 3)), min_size=1, max_size=5, unique=True).map(sorted)


@given(found=requests, data=st.data())
def test_each_request_is_found_with_its_first_row(found: list[tuple[int, int]], data: st.DataObject) -> None:
    lengths = data.draw(st.lists(st.integers(1, 4), min_size=len(found), max_size=len(found)))
    for columns in (OWN_COLUMNS, SOURCE_COLUMNS):
        rows = rows_of([(*at, length) for at, length in zip(found, lengths, strict=True)], columns)
        assert requests_of(rows, columns) == set(found)
        assert request_starts(rows, columns) == [0, *np.cumsum(lengths)[:-1].tolist()]
        mask = among(rows, found[:1], columns)
        assert mask.tolist() == [True] * lengths[0] + [False] * (sum(lengths) - lengths[0])


def test_no_rows_are_of_no_request_and_none_are_among_none() -> None:
    rows = rows_of([(3, 0, 2)], OWN_COLUMNS)
    assert requests_of(rows.slice(0, 0)) == set()
    assert among(rows, (), OWN_COLUMNS).tolist() == [False, False]
