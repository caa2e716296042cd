from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from dovetail.demo.logs.obd import (
    CLICK_DELAY_US,
    EXPOSURE_DELAY_US,
    is_obd,
    load_obd,
)
from dovetail.demo.logs.recorded import RecordedLog
from dovetail.platform.errors import ConfigError, WireError

USER = ["aa", "bb", "cc", "dd"]
HEADER = (
    ",timestamp,item_id,position,click,propensity_score,"
    + ",".join(f"user_feature_{i}" for i in range(4))
    + "".join(f",user-item_affinity_{i}" for i in range(4))
)
CONTEXT = ",item_id,item_feature_0,item_feature_1,item_feature_2,item_feature_3\n" + "".join(
    f"{i},{i},0.{i},cat{i},brand{i},x\n" for i in range(4)
)


def row(second: float, item: int, position: int, click: int = 0, user: str = "aa") -> str:
    stamp = f"2019-11-24 00:00:{second:09.6f}+00:00"
    return ",".join(
        ["0", stamp, str(item), str(position), str(click), "0.25", user, *USER[1:], "0.0", "1.5", "0.0", "2.5"]
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A data set of four items: two rows of one page and a later click in each file."""
    for policy in ("bts", "random"):
        for campaign in ("men", "women"):
            part = tmp_path / policy / campaign
            part.mkdir(parents=True)
            rows = [row(3, 1, 3), row(1, 2, 2), row(1, 0, 1), row(2, 3, 1, click=1)]
            (part / f"{campaign}.csv").write_text("\n".join([HEADER, *rows]) + "\n")
            (part / "item_context.csv").write_text(CONTEXT)
    return tmp_path


def request(log: RecordedLog, request_id: str) -> dict[str, object]:
    found: list[dict[str, object]] = log.requests.filter(pc.equal(log.requests["request_id"], request_id)).to_pylist()
    assert len(found) == 1
    return found[0]


def test_impressions_of_one_user_at_one_instant_are_one_page(folder: Path) -> None:
    log = load_obd(folder, candidates=None)
    assert log.counts == {
        "events": 20,
        "requests": 12,
        "snapshot_rows": 48,
        "exposure": 16,
        "click": 4,
        "conversion": 0,
    }
    assert request(log, "random-women-00000")["candidates"] == [
        {"item_id": 1000, "position": 1, "affinity": 0.0},
        {"item_id": 1001, "position": None, "affinity": 1.5},
        {"item_id": 1002, "position": 2, "affinity": 0.0},
        {"item_id": 1003, "position": None, "affinity": 2.5},
    ]


def test_policy_campaign_and_user_features_describe_the_request(folder: Path) -> None:
    found = request(load_obd(folder), "bts-men-00002")
    assert found["channel"] == "bts"
    assert found["segment"] == "men|aa|bb"
    assert len(str(found["user_id"])) == 16


def test_exposure_and_click_have_the_documented_times(folder: Path) -> None:
    log = load_obd(folder)
    for kind, delay in (("exposure", EXPOSURE_DELAY_US), ("click", CLICK_DELAY_US)):
        joined = log.labels[kind].join(log.requests.select(["request_id", "request_time"]), "request_id")
        after = pc.subtract(joined["event_time"], joined["request_time"]).cast(pa.int64())
        assert set(after.to_pylist()) == {delay}


def test_sample_of_candidates_keeps_what_was_shown_and_follows_the_seed(folder: Path) -> None:
    logs = [load_obd(folder, candidates=3, seed=seed) for seed in (1, 1, 2, 3, 4)]
    assert logs[0] == logs[1]
    assert any(other != logs[0] for other in logs[2:])
    for log in logs:
        candidates = request(log, "bts-men-00000")["candidates"]
        assert isinstance(candidates, list)
        assert len(candidates) == 3
        assert {c["item_id"] for c in candidates if c["position"]} == {0, 2}


def test_fewer_candidates_than_a_page_shows_are_refused(folder: Path) -> None:
    with pytest.raises(ConfigError, match="candidates is 2; a page shows up to 3"):
        load_obd(folder, candidates=2)


def test_missing_files_are_named(folder: Path) -> None:
    (folder / "random" / "men" / "men.csv").unlink()
    assert is_obd(folder)
    with pytest.raises(ConfigError, match=r"lacks random/men/men\.csv;"):
        load_obd(folder)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("timestamp,item_id\n2019-11-24 00:00:00+00:00,1\n", r"columns \['position'.*are missing"),
        (HEADER.replace("position", "timestamp") + "\nyesterday\n", "not readable as the Open Bandit data"),
        (HEADER + "\n" + row(1, 4, 1) + "\n", "row 0: item_id 4, but the file has affinities of 4 items"),
    ],
)
def test_file_that_is_something_else_is_refused(folder: Path, text: str, message: str) -> None:
    (folder / "bts" / "men" / "men.csv").write_text(text)
    with pytest.raises(WireError, match=message):
        load_obd(folder)


def test_data_set_has_the_counts_of_its_source(obd: RecordedLog) -> None:
    assert obd.counts == {
        "events": 40_207,
        "requests": 39_983,
        "snapshot_rows": 399_830,
        "exposure": 40_000,
        "click": 69 + 46 + 46 + 46,
        "conversion": 0,
    }
    assert obd.items.num_rows == 34 + 46
    assert str(obd.requests["request_time"][0])[:10] == "2019-11-24"
    assert str(obd.requests["request_time"][-1])[:10] == "2019-11-30"


def test_all_candidates_of_a_campaign_can_be_kept(obd_folder: Path) -> None:
    log = load_obd(obd_folder, candidates=None)
    lengths = pc.list_value_length(log.requests["candidates"])
    assert set(pc.unique(lengths).to_pylist()) == {34, 46}
