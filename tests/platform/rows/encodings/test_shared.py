"""Values that rows share are held once, and every way to read them gives each row its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dovetail.platform.archive import dayfiles
from dovetail.platform.archive.dayfiles import DayFiles
from dovetail.platform.errors import WireError
from dovetail.platform.rows import wire
from dovetail.platform.rows.encodings import shared
from dovetail.platform.rows.encodings.dictionaries import compacted, decoded
from dovetail.platform.rows.encodings.shared import (
    SHARED_BACK,
    Spreader,
    as_dictionaries,
    share,
    shared_names,
    some_rows,
    spread,
    spread_schema,
    stored_as,
)
from dovetail.platform.rows.fitting import fitting
from dovetail.platform.rows.positions import SOURCE_COLUMNS
from dovetail.platform.stage import Outgoing

LIST = pa.list_(pa.struct([("a", pa.string()), ("b", pa.int64())]))


def table(runs: list[tuple[list[tuple[str, int | None]] | None, int]]) -> pa.Table:
    """Rows of requests with a list and a number each: ``(list, candidates)``."""
    counts = [count for _, count in runs]
    index = pa.array(np.repeat(np.arange(len(runs)), counts).astype(np.int32))
    lists = pa.array([None if one is None else [{"a": a, "b": b} for a, b in one] for one, _ in runs], LIST)
    others = pa.array([[("k", number)] for number in range(len(runs))], pa.map_(pa.string(), pa.int64()))
    rows = sum(counts)
    return pa.table(
        {
            "at": pa.array(np.arange(rows), pa.int64()),
            "history": pa.DictionaryArray.from_arrays(index, lists),
            "number": pa.array(np.arange(rows) * 2),
            "others": pa.DictionaryArray.from_arrays(index, others),
        }
    )


element = st.tuples(st.sampled_from(("x", "y")), st.none() | st.integers(0, 3))
requests = st.lists(st.tuples(st.none() | st.lists(element, max_size=3), st.integers(1, 4)), min_size=1, max_size=6)


@given(runs=requests, data=st.data())
def test_rows_have_their_values_again_however_they_travel(runs: Any, data: st.DataObject) -> None:
    flat = decoded(table(runs))
    held = share(table(runs))
    assert held.column("_shared.history").null_count >= held.num_rows - len(runs)
    assert spread(held).equals(flat)
    assert spread(wire.rows_of(wire.encode(held))).equals(flat)
    sink = pa.BufferOutputStream()
    pq.write_table(held, sink)
    assert spread(pq.read_table(pa.BufferReader(sink.getvalue()))).equals(flat)
    dictionaries = as_dictionaries(held)
    assert decoded(dictionaries).equals(flat)
    assert all(len(dictionaries.column(name).chunk(0).dictionary) == len(runs) for name in ("history", "others"))
    assert spread_schema(held.schema).equals(flat.schema)
    order = data.draw(st.permutations(range(held.num_rows)))
    shuffled = dictionaries.take(pa.array(order)).slice(0, data.draw(st.integers(1, held.num_rows)))
    small = compacted(shuffled.combine_chunks())
    assert decoded(small).equals(flat.take(pa.array(order[: shuffled.num_rows], pa.int64())))
    of_run = np.repeat(np.arange(len(runs)), [count for _, count in runs])
    held_once = sum(len(chunk.dictionary) for chunk in small.column("history").chunks)
    assert held_once == len(set(of_run[order[: shuffled.num_rows]].tolist()))
    assert spread(share(small)).equals(decoded(small))
    # Some rows of them, and some of those.
    rows = np.array(sorted(data.draw(st.sets(st.integers(0, held.num_rows - 1)))), dtype=np.int64)
    some = some_rows(held, rows)
    assert spread(some).equals(flat.take(pa.array(rows)))
    again = np.flatnonzero(rows % 2)
    assert spread(some_rows(some, again)).equals(flat.take(pa.array(rows[again])))
    # Cut anywhere.
    cut = data.draw(st.integers(1, held.num_rows))
    parts = [held.slice(start, cut) for start in range(0, held.num_rows, cut)]
    spreader = Spreader()
    found = [each for part in parts for each in spreader.parts(part.combine_chunks())]
    assert pa.concat_tables(found).combine_chunks().equals(flat)


@given(runs=requests, others=requests, after=st.integers(0, 1))
def test_rows_that_share_nothing_go_with_them(runs: Any, others: Any, after: int) -> None:
    plain, held = decoded(table(others)), share(table(runs))
    both = pa.concat_tables([plain, held, plain][after:], promote_options="permissive").combine_chunks()
    expected = pa.concat_tables([plain, decoded(table(runs)), plain][after:]).combine_chunks()
    assert spread(both).select(expected.column_names).equals(expected)
    rows = np.arange(0, both.num_rows, 2)
    assert spread(some_rows(both, rows)).select(expected.column_names).equals(expected.take(pa.array(rows)))
    assert decoded(as_dictionaries(both)).select(expected.column_names).equals(expected)
    (whole,) = Spreader().parts(both)
    assert whole.select(expected.column_names).equals(expected)


def test_rows_of_before_a_column_was_wider_go_with_later_ones() -> None:
    narrow = pa.table({"history": pa.array([[1], None], pa.list_(pa.int32()))})
    lists = pa.array([[2**40], [3, 4]], pa.list_(pa.int64()))
    later = share(pa.table({"history": pa.DictionaryArray.from_arrays(pa.array([0, 0, 1], pa.int32()), lists)}))
    for parts in ([narrow, later], [later, narrow]):
        both = pa.concat_tables(parts, promote_options="permissive").combine_chunks()
        old, new = [[1], None], [[2**40], [2**40], [3, 4]]
        expected = pa.array([*old, *new] if parts[0] is narrow else [*new, *old], lists.type)
        assert spread(both).column("history").combine_chunks().equals(expected)
        assert decoded(as_dictionaries(both)).column("history").combine_chunks().equals(expected)


def test_what_shares_nothing_is_left_as_it_is() -> None:
    plain = pa.table({"a": [1, 2, 3]})
    assert share(plain) is plain
    assert spread(plain) is plain
    assert some_rows(plain, np.array([2])).to_pylist() == [{"a": 3}]
    assert list(Spreader().parts(plain)) == [plain]


def test_the_names_of_shared_columns() -> None:
    held = share(table([(None, 2)]))
    assert held.column_names == ["at", "_shared.history", "number", "_shared.others", SHARED_BACK]
    assert shared_names(held.column_names) == ["history", "others"]
    assert stored_as(["number", "others"], held.column_names) == ["number", "_shared.others", SHARED_BACK]
    assert stored_as(["number"], held.column_names) == ["number"]


def test_large_values_are_spread_a_few_rows_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared, "_BYTES_AT_ONCE", 1_000)
    runs: Any = [([("x" * 100, n)] * 3, 7) for n in range(5)]
    parts = list(Spreader().parts(share(table(runs))))
    assert len(parts) > 5
    assert pa.concat_tables(parts).combine_chunks().equals(decoded(table(runs)))


@pytest.mark.parametrize("at_once", [1, 3, 1_000])
def test_files_are_read_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_once: int) -> None:
    monkeypatch.setattr(dayfiles, "_ROWS_AT_ONCE", at_once)
    runs: Any = [([("x", 1)], 4), (None, 3), ([("y", None)] * 2, 5)]
    flat = decoded(table(runs))
    held = share(table(runs))
    times = pa.array(np.arange(flat.num_rows), pa.timestamp("us"))
    pq.write_table(held.append_column("time", times), tmp_path / "a.parquet")
    files = DayFiles.at(tmp_path, "time")
    assert pa.concat_tables(files.read(None, None, 1_000)).drop_columns(["time"]).combine_chunks().equals(flat)
    later = pa.concat_tables(files.read(["others", "history"], 5, 10)).select(["others", "history"]).combine_chunks()
    assert later.equals(flat.select(["others", "history"]).slice(5, 6).combine_chunks())
    there = pa.concat_tables(files.read((), 5, 10, optional=["other", "history"]))
    assert there.column_names == ["history", "time"]
    assert there.column("history").combine_chunks().equals(later.column("history").combine_chunks())
    with pytest.raises(WireError, match="no column 'other'"):
        list(files.read(["other"], None, 1_000))


def test_a_message_that_is_too_large_is_cut_inside_a_run() -> None:
    runs: Any = [([("x" * 50, n) for n in range(4)], 900)]
    held = share(table(runs))
    numbers = pa.array(np.random.default_rng(7).permutation(held.num_rows), pa.int64())
    for name in SOURCE_COLUMNS:
        held = held.append_column(name, numbers)
    message = Outgoing("held", wire.encode(held))
    parts = fitting([message], len(message.value) // 4 * 3)
    assert len(parts) > 1
    rows = [spread(wire.rows_of(part.value)) for part in parts]
    assert pa.concat_tables(rows).combine_chunks().drop_columns(list(SOURCE_COLUMNS)).equals(decoded(table(runs)))
