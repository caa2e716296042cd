from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from dovetail.demo.logs.recorded import MINUTE_US, SECOND_US, RecordedLog
from dovetail.demo.logs.simulator import SimulatorConfig, simulate
from dovetail.platform.errors import ConfigError

SMALL = SimulatorConfig(users=50, items=60, requests=200, candidates=20)


def delays(table: pa.Table) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Arrival minus event time, microseconds."""
    late = pc.subtract(table["arrival_time"], table["event_time"]).cast(pa.int64())
    result: np.ndarray[Any, np.dtype[np.int64]] = late.to_numpy()
    return result


def test_same_seed_gives_the_same_log() -> None:
    one, two, other = simulate(SMALL), simulate(SMALL), simulate(replace(SMALL, seed=8))
    assert one == two
    assert one.events != other.events


def test_default_has_the_size_the_demo_is_made_for(simulated: RecordedLog) -> None:
    counts = simulated.counts
    assert counts["requests"] == 4_000
    assert counts["snapshot_rows"] == 400_000
    assert 30_000 <= counts["exposure"] <= 40_000
    assert 0.055 <= counts["click"] / counts["exposure"] <= 0.075
    assert counts["conversion"] > 100


@pytest.mark.parametrize("stream", ["events", "exposure"])
def test_lateness_and_doubles_are_as_configured(simulated: RecordedLog, stream: str) -> None:
    config = SimulatorConfig()
    table = simulated.events if stream == "events" else simulated.labels[stream]
    late = delays(table)
    assert (late > config.allowed_lateness_us).mean() == pytest.approx(config.too_late, abs=0.0005)
    assert ((late >= MINUTE_US) & (late <= 31 * MINUTE_US)).mean() == pytest.approx(config.late, rel=0.4)
    distinct = table.drop_columns(["arrival_time"]).group_by(table.column_names[:-1]).aggregate([]).num_rows
    assert (table.num_rows - distinct) / table.num_rows == pytest.approx(config.duplicates, rel=0.4)


def test_punctual_shop_sends_each_message_once_and_soon() -> None:
    log = simulate(replace(SMALL, late=0.0, too_late=0.0, duplicates=0.0))
    assert delays(log.events).max() < 10 * SECOND_US
    assert log.events.num_rows == sum(table.num_rows for table in log.labels.values())


def test_impression_follows_its_request_within_seconds(simulated: RecordedLog) -> None:
    times = simulated.requests.select(["request_id", "request_time"])
    joined = simulated.labels["exposure"].join(times, "request_id")
    after = pc.subtract(joined["event_time"], joined["request_time"]).cast(pa.int64()).to_numpy()
    assert 0 < after.min() < after.max() < 2 * SECOND_US


def test_some_clicks_come_after_the_label_window(simulated: RecordedLog) -> None:
    times = simulated.requests.select(["request_id", "request_time"])
    joined = simulated.labels["click"].join(times, "request_id")
    after = pc.subtract(joined["event_time"], joined["request_time"]).cast(pa.int64()).to_numpy()
    assert 0.005 < (after > simulated.label_window_us).mean() < 0.06


def test_every_item_has_a_version_per_day(simulated: RecordedLog) -> None:
    assert simulated.items.num_rows == SimulatorConfig().items * SimulatorConfig().days
    scores = simulated.items.group_by("item_id").aggregate([("score", "count_distinct"), ("brand", "count_distinct")])
    assert pc.min(scores["score_count_distinct"]).as_py() > 1
    assert pc.max(scores["brand_count_distinct"]).as_py() == 1


def test_what_the_caller_knows_predicts_clicks_but_does_not_settle_them(simulated: RecordedLog) -> None:
    from sklearn.metrics import roc_auc_score

    candidates = simulated.requests["candidates"].combine_chunks()
    flat, parent = candidates.flatten(), pc.list_parent_indices(candidates)
    rows = pa.table(
        {
            "request_id": simulated.requests["request_id"].take(parent),
            "item_id": flat.field("item_id"),
            "affinity": flat.field("affinity"),
        }
    )
    key = ["request_id", "item_id"]
    shown = simulated.labels["exposure"].group_by(key).aggregate([]).join(rows, key)
    clicks = simulated.labels["click"].group_by(key).aggregate([("event_time", "count")])
    joined = shown.join(clicks, key)
    clicked = pc.is_valid(joined["event_time_count"]).to_numpy()
    assert 0.65 < roc_auc_score(clicked, joined["affinity"].to_numpy()) < 0.85


def test_prices_are_whole_cents_and_change_by_day(simulated: RecordedLog) -> None:
    by_item = simulated.events.group_by("item_id").aggregate([("price", "count_distinct"), ("price", "min")])
    assert pc.max(by_item["price_count_distinct"]).as_py() == SimulatorConfig().days
    assert pc.min(by_item["price_min"]).as_py() > 0


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"users": 0}, "users is 0; use 1 or more"),
        ({"candidates": 5}, "candidates is 5; use at least 10"),
        ({"candidates": 61}, "at most items = 60"),
        ({"late": 1.5}, "late is 1.5; use a share"),
        ({"click_rate": 0.0}, "click_rate is 0"),
    ],
)
def test_impossible_shop_is_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        replace(SMALL, **wrong)
