"""What holds for every log, whoever makes it."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dovetail.demo.logs.recorded import RecordedLog


def exploded(log: RecordedLog) -> pa.Table:
    """One row per request and candidate."""
    candidates = log.requests["candidates"].combine_chunks()
    parent = pc.list_parent_indices(candidates)
    flat = candidates.flatten()
    return pa.table(
        {
            "request_id": log.requests["request_id"].take(parent),
            "request_time": log.requests["request_time"].take(parent),
            "item_id": flat.field("item_id"),
        }
    )


def test_log_is_what_it_promises(log: RecordedLog) -> None:
    assert log.check() is log
    assert log.notes
    assert log.requests.num_rows == len(pc.unique(log.requests["request_id"]))


def test_no_message_arrives_before_what_it_reports(log: RecordedLog) -> None:
    for table, time in [(log.events, "event_time"), (log.requests, "request_time")] + [
        (labels, "event_time") for labels in log.labels.values()
    ]:
        assert pc.all(pc.greater_equal(table["arrival_time"], table[time])).as_py() in (True, None)


def test_candidates_of_a_request_are_distinct_and_named(log: RecordedLog) -> None:
    rows = exploded(log)
    assert rows["item_id"].null_count == 0
    assert rows.group_by(["request_id", "item_id"]).aggregate([]).num_rows == rows.num_rows
    assert rows.num_rows == log.counts["snapshot_rows"]


def test_labels_name_a_candidate_of_an_earlier_request(log: RecordedLog) -> None:
    rows = exploded(log)
    for labels in log.labels.values():
        joined = labels.join(rows, ["request_id", "item_id"], join_type="left outer")
        assert joined.num_rows == labels.num_rows
        assert joined["request_time"].null_count == 0
        assert pc.all(pc.greater_equal(joined["event_time"], joined["request_time"])).as_py() in (True, None)


def test_clicks_come_after_the_request_and_not_with_it(log: RecordedLog) -> None:
    joined = log.labels["click"].join(exploded(log), ["request_id", "item_id"])
    assert pc.all(pc.greater(joined["event_time"], joined["request_time"])).as_py()


def test_items_are_known_when_the_log_starts(log: RecordedLog) -> None:
    first = pc.min(log.requests["request_time"])
    known = log.items.filter(pc.less_equal(log.items["available_at"], first))
    assert known.num_rows > 0
    midnight = pc.floor_temporal(known["available_at"], unit="day")
    assert pc.all(pc.equal(midnight, known["available_at"])).as_py(), "a daily version at that midnight must see them"


def test_replay_takes_a_few_hundred_slices(log: RecordedLog) -> None:
    assert 200 <= log.slices <= 600
    assert log.label_window_us > 0


def test_both_outcomes_occur_within_the_window(log: RecordedLog) -> None:
    times = log.requests.select(["request_id", "request_time"])
    joined = log.labels["click"].join(times, "request_id")
    delay = pc.subtract(joined["event_time"], joined["request_time"]).cast(pa.int64()).to_numpy()
    positives = np.count_nonzero(delay <= log.label_window_us)
    assert 0 < positives < log.labels["exposure"].num_rows
