"""Items that no label could name or some store could not hold are dead letters, with the reason."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from dovetail.app.datasets import label_intake, request_intake
from dovetail.cli.main import app
from dovetail.platform.rows.intake import LONGEST_ITEM, repeated_candidates, unfit_items
from dovetail.platform.stage import Outgoing
from dovetail.platform.testing import MemoryLog
from tests.app.small_project import request, run, write_project
from tests.features.stored.stored_world import FILES, World

NOON = 1_704_110_400_000

LONG = "\u4e00" * (LONGEST_ITEM // 3 + 1)


def test_an_item_of_any_row_is_measured_in_bytes() -> None:
    table = pa.table({"item_id": ["x" * LONGEST_ITEM, LONG, None, "\0"], "request_id": ["r" * 9_000] * 4})
    assert unfit_items(table) == {1: "item_id has 1026 bytes, more than the 1024 that every store holds"}


def test_a_request_is_refused_for_any_of_its_candidates() -> None:
    type_ = pa.list_(pa.struct([("item_id", pa.string())]))
    nested = pa.array([[{"item_id": "a"}], [], None, [{"item_id": "b"}, {"item_id": LONG}]], type_)
    assert list(unfit_items(pa.table({"candidates": nested}))) == [3]
    assert list(unfit_items(pa.table({"candidates": nested}).slice(1))) == [2]


@pytest.mark.parametrize("type_", [pa.string(), pa.int64()])
def test_a_candidate_that_is_null_is_told_by_its_place_and_one_of_no_item_is_ranked(type_: pa.DataType) -> None:
    a, b = ("a", "b") if type_ == pa.string() else (1, 2)
    type_ = pa.list_(pa.struct([("item_id", type_), ("position", pa.int32())]))
    rows = [
        [{"item_id": a}, None, None], [], None, [{"item_id": b}, {"position": 1}], [None], [{"item_id": a}],
    ]  # fmt: skip
    nested = pa.array(rows, type_)
    assert unfit_items(pa.table({"candidates": nested})) == {
        0: "candidate 1 (from 0) is NULL; leave it out",
        4: "candidate 0 (from 0) is NULL; leave it out",
    }
    assert list(unfit_items(pa.table({"candidates": nested}).slice(1))) == [3]


def test_what_has_no_item_is_ranked_and_audited(tmp_path: Path) -> None:
    asked = request("n", "u", [1], 10)
    asked["candidates"].append({"item_id": None})
    write_project(tmp_path, messages={"behaviour": [], "requests": [asked], "exposure": [], "click": []})
    run(tmp_path)
    result = CliRunner().invoke(app, ["audit", "-p", str(tmp_path)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert "n/1, n/NULL" in result.output
    assert "audit holds" in result.output


@given(
    st.lists(st.none() | st.lists(st.none() | st.sampled_from([{"item_id": n} for n in (1, 2, 3, None)]))),
    st.integers(0, 2),
    st.sampled_from([pa.int64(), pa.string(), pa.decimal128(21, 2)]),
)
def test_the_first_item_that_comes_again_is_told_by_its_place(
    requests: list[list[dict[str, int | None] | None] | None], skipped: int, type_: pa.DataType
) -> None:
    nested = pa.array(requests, pa.list_(pa.struct([("item_id", pa.int64())])))
    nested = nested.cast(pa.list_(pa.struct([("item_id", type_)]))).slice(skipped)
    expected = {}
    for row, candidates in enumerate(nested.to_pylist()):
        items = [None if one is None else one["item_id"] for one in candidates or []]
        again = [place for place, item in enumerate(items) if item is not None and item in items[:place]]
        if again:
            expected[row] = f"candidate {again[0]} (from 0) has item_id {items[again[0]]!r}, as another before it"
    found = repeated_candidates(pa.table({"candidates": nested}))
    assert {row: reason.split(";")[0] for row, reason in found.items()} == expected


def test_items_that_are_no_text_have_no_length() -> None:
    assert unfit_items(pa.table({"item_id": [1, 2]})) == {}
    assert unfit_items(pa.table({"user_id": ["x" * 9_000]})) == {}


def test_the_intakes_of_requests_and_labels_turn_them_away(tmp_path: Path) -> None:
    files = {**FILES, "schemas": FILES["schemas"].replace("item_id BIGINT", "item_id VARCHAR")}
    project = World(tmp_path / "shop", files=files).project
    request = {"request_id": "r\0", "user_id": "u", "request_time": "2024-01-01", "candidates": [{"item_id": LONG}]}
    label = {"request_id": "r" * 5_000, "item_id": LONG, "event_time": "2024-01-01"}
    for intake, row in ((request_intake(project), request), (label_intake(project, "click"), label)):
        short = {**row, **({"item_id": "1"} if "item_id" in row else {"candidates": [{"item_id": "1"}]})}
        log = MemoryLog({"t": 1})
        log.append([Outgoing("t", json.dumps(one).encode(), partition=0, timestamp_ms=NOON) for one in (row, short)])
        poll = log.poll("t", 0, 0)
        assert poll is not None
        received = intake.read(poll)
        assert [letter.reason for letter in received.dead] == [
            "item_id has 1026 bytes, more than the 1024 that every store holds"
        ]
        assert received.table.column("request_id").to_pylist() == [row["request_id"]]
