from __future__ import annotations

from dataclasses import replace

import pyarrow as pa
import pytest

from dovetail.demo.logs.recorded import (
    ARRIVAL,
    BEHAVIOUR_SCHEMA,
    ITEM_SCHEMA,
    LABEL_KINDS,
    LABEL_SCHEMA,
    REQUEST_SCHEMA,
    RecordedLog,
    arrival_sorted,
)
from dovetail.platform.errors import WireError

EVENT = {"user_id": "u", "item_id": 1, "event_time": 5, "action": "click", "price": None, "arrival_time": 6}


def events(*rows: dict[str, object]) -> pa.Table:
    return pa.Table.from_pylist([EVENT | row for row in rows], schema=BEHAVIOUR_SCHEMA)


@pytest.fixture
def empty() -> RecordedLog:
    return RecordedLog(
        name="test",
        events=BEHAVIOUR_SCHEMA.empty_table(),
        requests=REQUEST_SCHEMA.empty_table(),
        labels={kind: LABEL_SCHEMA.empty_table() for kind in LABEL_KINDS},
        items=ITEM_SCHEMA.empty_table(),
        label_window_us=1,
        slice_us=10,
        notes="",
    )


def test_empty_log_is_valid_and_takes_no_slices(empty: RecordedLog) -> None:
    assert empty.check().slices == 0
    assert set(empty.counts.values()) == {0}


def test_slices_cover_first_to_last_arrival(empty: RecordedLog) -> None:
    log = replace(empty, events=events({"arrival_time": 6}, {"arrival_time": 15}, {"arrival_time": 16}))
    assert log.slices == 2


def test_missing_label_kind_is_refused(empty: RecordedLog) -> None:
    with pytest.raises(WireError, match=r"label tables are \['click'\].*empty table"):
        replace(empty, labels={"click": LABEL_SCHEMA.empty_table()}).check()


def test_wrong_type_is_refused_with_both_types(empty: RecordedLog) -> None:
    wrong = events({}).set_column(1, pa.field("item_id", pa.int32(), nullable=False), pa.array([1], pa.int32()))
    with pytest.raises(WireError, match=r"events, column 1: found .*int32.*need .*int64"):
        replace(empty, events=wrong).check()


def test_missing_column_is_refused(empty: RecordedLog) -> None:
    with pytest.raises(WireError, match=r"column 5: found nothing, need .*arrival_time"):
        replace(empty, events=events({}).drop_columns([ARRIVAL])).check()


def test_unknown_column_is_refused(empty: RecordedLog) -> None:
    extra = events({}).append_column("colour", pa.array(["red"]))
    with pytest.raises(WireError, match=r"unknown columns \['colour'\]"):
        replace(empty, events=extra).check()


def test_null_in_required_column_is_refused(empty: RecordedLog) -> None:
    with pytest.raises(WireError, match="1 NULLs in user_id"):
        replace(empty, events=events({"user_id": None}, {})).check()


def test_unsorted_arrival_is_refused_with_its_row(empty: RecordedLog) -> None:
    unsorted = events({"arrival_time": 7}, {"arrival_time": 8}, {"arrival_time": 6})
    with pytest.raises(WireError, match="events, row 2: arrives before"):
        replace(empty, events=unsorted).check()
    replace(empty, events=arrival_sorted(unsorted)).check()


def test_two_versions_of_an_item_at_one_time_are_refused(empty: RecordedLog) -> None:
    row = {"item_id": 1, "available_at": 5, "category": None, "brand": None, "score": 0.5}
    items = pa.Table.from_pylist([row, row | {"score": 0.7}], schema=ITEM_SCHEMA)
    with pytest.raises(WireError, match="1 rows share item_id and available_at"):
        replace(empty, items=items).check()


def test_messages_that_arrive_together_keep_their_order() -> None:
    table = arrival_sorted(events({"item_id": 1}, {"item_id": 2, "arrival_time": 3}, {"item_id": 3}))
    assert table["item_id"].to_pylist() == [2, 1, 3]
