"""Batch views: versions, what one may see, lookups."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dovetail.features import Project
from dovetail.features.batch.views import VersionIndex, run_batch_view, versions
from dovetail.features.plan.definitions import BatchView, Table
from dovetail.platform.errors import DefinitionError, WireError

HOUR = 3_600_000_000
ITEMS = pa.schema({"item_id": pa.int64(), "category": pa.string(), "available_at": pa.timestamp("us")})


def items(*rows: tuple[int | None, str, int]) -> Callable[[Table], pa.Table]:
    dicts = [dict(zip(ITEMS.names, row, strict=True)) for row in rows]
    return lambda _: pa.Table.from_pylist(dicts, schema=ITEMS)


def test_a_version_is_the_last_multiple_of_the_period(project: Project) -> None:
    times = np.array([0, HOUR - 1, HOUR, 5 * HOUR + 7, -1])
    assert versions(project.batch_views["profile"], times).tolist() == [0, 0, HOUR, 5 * HOUR, -HOUR]


def test_a_version_sees_what_was_known_by_then(project: Project) -> None:
    view = project.batch_views["profile"]
    load = items((1, "a", 10), (1, "b", 20), (2, "c", 21), (None, "d", 5))
    assert run_batch_view(view, 20, load).to_pylist() == [{"item_id": 1, "category": "b", "versions": 2}]
    assert run_batch_view(view, 9, load).num_rows == 0
    assert run_batch_view(view, 21, load).num_rows == 2


def test_two_rows_of_one_key_are_refused(write_project: Callable[[dict[str, str]], Project]) -> None:
    view = write_project({}).batch_views["profile"]
    with pytest.raises(
        DefinitionError, match=r"profile.sql:1: batch view profile as of 9 us has 2 rows for item_id = 7;"
    ):
        run_batch_view(view, 9, items((7, "a", 1), (7, "b", 2), (3, "x", 3)))


def test_a_table_without_a_declared_column_is_refused(project: Project) -> None:
    with pytest.raises(WireError, match=r"table items has no column 'category', which .*schemas.sql declares"):
        run_batch_view(project.batch_views["profile"], 9, lambda _: items()(_).drop_columns(["category"]))


def test_a_view_that_fails_on_its_rows_says_so(write_project: Callable[[dict[str, str]], Project]) -> None:
    view = write_project({"profile": "SELECT item_id, 7 // item_id AS c FROM items"}).batch_views["profile"]
    with pytest.raises(WireError, match=r"profile.sql:1: profile as of 9 us has no value: .*Division by zero"):
        run_batch_view(view, 9, items((0, "a", 1)))


KEY = st.tuples(st.none() | st.integers(-3, 3), st.none() | st.sampled_from(["", "a", "b"]))


@given(stored=st.lists(KEY, max_size=8, unique=True), wanted=st.lists(KEY, max_size=12))
def test_lookup_aligns_with_the_keys(stored: list[tuple[Any, Any]], wanted: list[tuple[Any, Any]]) -> None:
    types = {"a": pa.int64(), "b": pa.string()}
    view = BatchView("v", "v.sql", 1, "", (), ("a", "b"), 1, pa.schema({"v": pa.int64()}), tuple(types.values()))
    rows = [{"a": a, "b": b, "v": i} for i, (a, b) in enumerate(stored) if a is not None and b is not None]
    result = pa.Table.from_pylist(rows, schema=pa.schema({**types, "v": pa.int64()}))
    keys = pa.Table.from_pylist(
        [{"b": b, "a": a} for a, b in wanted], schema=pa.schema({"b": types["b"], "a": types["a"]})
    )
    found = {(row["a"], row["b"]): row["v"] for row in rows}
    looked_up = VersionIndex(view, result).lookup(keys)
    assert looked_up.column("v").to_pylist() == [found.get(key) for key in wanted]
    assert looked_up.schema == view.output_schema


WHOLE = st.integers(-3, 3) | st.sampled_from([-(2**31), 2**31 - 1])


@given(stored=st.lists(WHOLE, max_size=8, unique=True), wanted=st.lists(st.none() | WHOLE, max_size=12))
def test_one_integer_as_key_is_looked_up_alike(stored: list[int], wanted: list[int | None]) -> None:
    view = BatchView("v", "v.sql", 1, "", (), ("a",), 1, pa.schema({"v": pa.string()}), (pa.int32(),))
    result = pa.table({"a": pa.array(stored, pa.int32()), "v": pa.array([str(key) for key in stored], pa.string())})
    looked_up = VersionIndex(view, result).lookup(pa.table({"a": pa.array(wanted, pa.int32())}))
    assert looked_up.column("v").to_pylist() == [str(key) if key in stored else None for key in wanted]
    assert looked_up.schema == view.output_schema
