from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from dovetail.demo.logs.jd import LABEL_WINDOW_US, is_jd, load_jd
from dovetail.demo.logs.recorded import RecordedLog
from dovetail.platform.errors import ConfigError, WireError

START = datetime(2016, 2, 1, 12, 0)  # noqa: DTZ001 - the log's times are UTC without a zone


def at(minutes: float) -> datetime:
    return START + timedelta(minutes=minutes)


def action(minutes: float, pair: str, type_: str) -> dict[str, Any]:
    return {"ingestionTime": at(minutes), "pair_id": pair, "type": type_, "cate": "8", "br": "214"}


def asked(minutes: float, user: str, sku: str) -> dict[str, Any]:
    return {"reqId": f"{user}_{sku}_{minutes}", "eventTime": at(minutes), "user_id": user, "sku_id": sku}


def write(folder: Path, name: str, rows: list[dict[str, Any]]) -> None:
    pq.write_table(pa.Table.from_pylist(rows), folder / f"{name}.parquet")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """User 1 asks for item 7 twice and for item 9; user 2, whose age nobody knows, asks for item 7 at the end."""
    write(
        tmp_path,
        "bo_action",
        [
            action(200, "1_7", "4"),
            action(0, "1_7", "2"),
            action(5, "1_7", "2"),
            action(6, "1_9", "6"),
            action(300, "1_7", "5"),
        ],
    )
    write(
        tmp_path,
        "flattenRequest_clean",
        [asked(290, "2", "7"), asked(0, "1", "7"), asked(1, "1", "9"), asked(190, "1", "7")],
    )
    users = [("1", "26-35岁", "0", "3"), ("2", "-1", "2", "1")]
    write(
        tmp_path, "bo_user", [dict(zip(("user_id", "age", "sex", "user_lv_cd"), user, strict=True)) for user in users]
    )
    write(tmp_path, "bo_product", [{"sku_id": "11", "cate": "8", "br": "30"}])
    comments = [(at(600), "7", 3, 0.25), (at(600), "9", 0, 0.0)]
    names = ("ingestionTime", "sku_id", "comment_num", "bad_comment_rate")
    write(tmp_path, "bo_comment", [dict(zip(names, comment, strict=True)) for comment in comments])
    return tmp_path


def labels(log: RecordedLog, kind: str) -> list[tuple[str, datetime]]:
    return [(row["request_id"], row["event_time"]) for row in log.labels[kind].to_pylist()]


def test_actions_are_put_in_order_of_time_and_named(folder: Path) -> None:
    events = load_jd(folder).events
    assert events["action"].to_pylist() == ["cart", "cart", "click", "order", "follow"]
    assert events["event_time"].to_pylist() == [at(0), at(5), at(6), at(200), at(300)]
    assert events["item_id"].to_pylist() == [7, 7, 9, 7, 7]


def test_action_is_a_label_of_the_last_request_strictly_before_it(folder: Path) -> None:
    log = load_jd(folder)
    assert labels(log, "click") == [("1_7_0", at(5)), ("1_7_190", at(200)), ("1_7_190", at(300))]
    assert labels(log, "conversion") == [("1_7_190", at(200))]


def test_request_whose_outcome_is_not_recorded_in_full_is_not_exposed(folder: Path) -> None:
    log = load_jd(folder)
    assert [request for request, _ in labels(log, "exposure")] == ["1_7_0", "1_9_1", "1_7_190"]
    assert log.requests.num_rows == 4


def test_segment_is_age_sex_and_level(folder: Path) -> None:
    requests = load_jd(folder).requests
    assert requests["segment"].to_pylist() == ["26-35|0|3", "26-35|0|3", "26-35|0|3", "-1|2|1"]
    assert requests["candidates"][0].as_py() == [{"item_id": 7, "position": None, "affinity": None}]


def test_items_start_without_score_and_get_one_with_comments(folder: Path) -> None:
    items = load_jd(folder).items
    day = at(-12 * 60)
    assert items.to_pylist() == [
        {"item_id": 7, "available_at": day, "category": "8", "brand": "214", "score": None},
        {"item_id": 9, "available_at": day, "category": "8", "brand": "214", "score": None},
        {"item_id": 11, "available_at": day, "category": "8", "brand": "30", "score": None},
        {"item_id": 7, "available_at": at(600), "category": "8", "brand": "214", "score": 0.75},
        {"item_id": 9, "available_at": at(600), "category": "8", "brand": "214", "score": None},
    ]


def test_missing_files_are_named(folder: Path) -> None:
    (folder / "bo_user.parquet").unlink()
    assert is_jd(folder)
    with pytest.raises(ConfigError, match=r"lacks bo_user\.parquet;"):
        load_jd(folder)


def test_missing_column_is_named(folder: Path) -> None:
    write(folder, "bo_user", [{"user_id": "1"}])
    with pytest.raises(WireError, match=r"columns \['age', 'sex', 'user_lv_cd'\] are missing"):
        load_jd(folder)


def test_file_that_is_not_parquet_is_refused(folder: Path) -> None:
    (folder / "bo_user.parquet").write_text("user_id\n1\n")
    with pytest.raises(WireError, match="not readable as Parquet"):
        load_jd(folder)


def test_unknown_action_type_is_refused(folder: Path) -> None:
    write(folder, "bo_action", [action(0, "1_7", "9")])
    with pytest.raises(WireError, match=r"action types \['9'\] are unknown"):
        load_jd(folder)


def test_data_set_has_the_counts_of_its_source(jd: RecordedLog) -> None:
    assert jd.counts == {
        "events": 89_187,
        "requests": 13_916,
        "snapshot_rows": 13_916,
        "exposure": 12_752,
        "click": 1_467,
        "conversion": 98,
    }
    by_action = {row["values"]: row["counts"] for row in pc.value_counts(jd.events["action"]).to_pylist()}
    assert by_action == {"click": 62_976, "browse": 23_875, "cart": 1_390, "uncart": 595, "follow": 253, "order": 98}
    assert len(pc.unique(jd.events["user_id"])) == 8_514
    assert len(pc.unique(jd.events["item_id"])) == 3_511


def test_positives_of_the_data_set_within_the_window(jd: RecordedLog) -> None:
    joined = jd.labels["click"].join(jd.labels["exposure"], ["request_id", "item_id"], right_suffix="_of_request")
    after = pc.subtract(joined["event_time"], joined["event_time_of_request"]).cast(pa.int64())
    within = joined.filter(pc.less_equal(after, LABEL_WINDOW_US))
    assert len(pc.unique(within["request_id"])) == 756


def test_request_times_are_utc_and_agree_with_the_actions(jd_folder: Path, jd: RecordedLog) -> None:
    raw = pq.read_table(jd_folder / "flattenRequest_clean.parquet")
    beijing = pc.strptime(raw["time1"], format="%Y-%m-%d %H:%M:%S", unit="us")
    hours = pc.divide(pc.subtract(beijing, raw["eventTime"]).cast(pa.int64()), 3_600_000_000)
    assert pc.unique(hours).to_pylist() == [8]
    # Every request until the last action has an action of its user in the same second: one clock, no offset.
    acted = {(r["user_id"], r["event_time"]) for r in jd.events.select(["user_id", "event_time"]).to_pylist()}
    last = pc.max(jd.events["event_time"]).as_py()
    seen = jd.requests.select(["user_id", "request_time"]).to_pylist()
    assert all((r["user_id"], r["request_time"]) in acted for r in seen if r["request_time"] <= last)
