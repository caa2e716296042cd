"""The whole flow inside a program: rows of any Arrow kind in, what was recorded and made of it out."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from dovetail.features import load
from dovetail.platform.errors import ConfigError, LogLocked, WireError
from dovetail.sdk import EmbeddedFlow
from tests.app.small_project import TOML, at, click, exposure, request, write_project

EVENTS = [{"user_id": "u", "event_time": at(second)} for second in range(5)]


class Frame:
    """A data frame of some other library: all that is known of it is the Arrow PyCapsule interface."""

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self._table = pa.Table.from_pylist(rows)

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        return self._table.__arrow_c_stream__(requested_schema)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_project(tmp_path / "project", messages={})
    return tmp_path / "project"


def test_from_events_to_samples(folder: Path) -> None:
    asked = [request("r0", "u", [1, 2, 3], 4), request("r1", "u", [1], 9)]
    with EmbeddedFlow(folder) as flow:
        assert flow.send("behaviour", Frame(EVENTS)) == 5
        flow.until_idle(release=False)
        looked = flow.features(asked[0])
        ranked = flow.rank(asked)
        assert flow.send("exposure", [exposure("r0", 1, 6), exposure("r0", 2, 6)]) == 2
        assert flow.send("click", pa.Table.from_pylist([click("u", 1, 7)])) == 1
        assert flow.samples().num_rows == 0
        flow.until_idle()
        samples = flow.samples(columns=["request_id", "item_id", "label", "events"])
    assert looked.select(["item_id", "events"]).to_pylist() == [{"item_id": item, "events": 5} for item in (1, 2, 3)]
    assert ranked.select(["request_id", "item_id", "events", "score", "model_version"]).to_pylist() == [
        {"request_id": name, "item_id": item, "events": 5, "score": 0.5, "model_version": 0}
        for name, item in (("r0", 1), ("r0", 2), ("r0", 3), ("r1", 1))
    ]
    assert samples.to_pylist() == [
        {"request_id": "r0", "item_id": 1, "label": 1, "events": 5},
        {"request_id": "r0", "item_id": 2, "label": 0, "events": 5},
    ]
    with EmbeddedFlow(load(folder)) as again:
        assert again.samples(columns=["request_id", "item_id", "label", "events"]).equals(samples)


def test_rows_that_do_not_fit_are_named_and_none_is_sent(folder: Path) -> None:
    with EmbeddedFlow(folder) as flow:
        with pytest.raises(WireError, match=r"behaviour: row 1: .*event_time.* \(1 more rows are refused\)"):
            flow.send("behaviour", [EVENTS[0], {"user_id": "u"}, {"user_id": "v"}])
        with pytest.raises(ConfigError, match=r"no rows are sent to 'behavior'; .*behaviour"):
            flow.send("behavior", EVENTS)
        with pytest.raises(WireError, match="requests: row 0: no candidates"):
            flow.rank(request("empty", "u", [], 1))
        with pytest.raises(WireError, match="the requests have no candidates"):
            flow.features(request("empty", "u", [], 1))
        assert flow.send("behaviour", []) == 0
        assert flow.features(request("r", "u", [1], 10)).column("events").to_pylist() == [0]


def test_what_is_misused_is_told_so_and_harms_nothing(folder: Path) -> None:
    flow = EmbeddedFlow(folder)
    with pytest.raises(ConfigError, match="the flow does not run: use it inside"):
        flow.send("behaviour", EVENTS)
    with flow:
        for other in (flow, EmbeddedFlow(folder)):
            with pytest.raises(LogLocked, match="leave its `with` block first"):
                other.__enter__()
        with pytest.raises(WireError, match="there are no requests to rank"):
            flow.rank([])
        for rows in ("rows", 7, None):
            with pytest.raises(WireError, match="a list of dictionaries, not"):
                flow.send("behaviour", rows)
        with pytest.raises(WireError, match=r"behaviour: row 1: .*user_id"):
            flow.send("behaviour", [EVENTS[0], {**EVENTS[1], "user_id": 1}])
        assert flow.send("behaviour", EVENTS) == 5
    leave = partial(flow.__exit__, None, None, None)
    for use in (flow.until_idle, partial(flow.rank, []), partial(flow.features, []), leave):
        with pytest.raises(ConfigError, match="does not run"):
            use()
    with flow:
        assert flow.send("behaviour", EVENTS[:1]) == 1


def test_rows_that_are_sent_again_with_their_key_are_the_same_events(tmp_path: Path) -> None:
    folder = tmp_path / "project"
    write_project(folder, TOML.replace('key = "user_id"\n', 'key = "user_id"\nunique_within = "1h"\n'), messages={})
    with EmbeddedFlow(folder) as flow:
        assert [flow.send("behaviour", EVENTS, idempotency_key=key) for key in ("a", "a", "b")] == [5, 5, 5]
        with pytest.raises(ConfigError, match=r"click: ids of calls are not looked at .*unique_within"):
            flow.send("click", [click("u", 1, 7)], idempotency_key="a")
        flow.until_idle(release=False)
        assert flow.features(request("r", "u", [1], 10)).column("events").to_pylist() == [10]
