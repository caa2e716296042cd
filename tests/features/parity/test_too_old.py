"""A request that is too old to be answered has no value in any feature, whatever is written around it."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from dovetail.features import load
from dovetail.features.stream.rerun import replay_view, with_positions
from dovetail.platform.rows.positions import seen_column
from tests.features.parity.test_names import written

HOUR = 3_600_000_000
FRAME = "RANGE BETWEEN INTERVAL 1 HOUR PRECEDING AND CURRENT ROW"


def test_a_request_that_is_too_old_is_null_in_every_feature(tmp_path: Path) -> None:
    project = written(tmp_path, ("x",), FRAME)
    (tmp_path / "sql/act.sql").write_text(
        "SELECT user_id, count(*) OVER w AS n, coalesce(count(*) OVER w, 0) AS m, "
        "arg_max(x, event_time, 2) OVER w AS l "
        f"FROM behaviour WINDOW w AS (PARTITION BY user_id ORDER BY event_time {FRAME})"
    )
    (tmp_path / "sql/ranking.sql").write_text(
        "SELECT request_id, item_id, coalesce(act.n, 0) AS n, act.m, act.l, coalesce(act.l, ['none']) AS k, "
        "{'a': act.n} AS s, MAP {'a': act.n} AS p, 7 AS seven, request.x, act.n IS NULL AS gone FROM request "
        "LEFT JOIN act USING (user_id)"
    )
    project = load(tmp_path)
    # The second event is what makes the first request, which comes before it, too old: it has already arrived.
    events = pa.table(
        {"user_id": ["u", "u"], "event_time": pa.array([5 * HOUR, 0], pa.timestamp("us")), "x": ["a", "b"]}
    )
    requests = pa.table(
        {
            "request_id": ["old", "new"],
            "user_id": ["u", "u"],
            "request_time": pa.array([1, 5 * HOUR], pa.timestamp("us")),
            "x": ["v", "v"],
            "item_id": [1, 2],
        }
    )
    seen = pa.array([[2], [2]], pa.list_(pa.int64()))
    served = requests.append_column(seen_column("act"), seen)
    found = project.evaluate(None, served, {"behaviour": events}, engine="stream", visibility="as_served").to_pylist()
    old, new = found
    assert (old.pop("request_id"), old.pop("item_id")) == ("old", 1)
    assert old == dict.fromkeys(old)
    assert new["n"] == 1
    assert new["seven"] == 7
    replayed = replay_view(project.stream_views["act"], with_positions(events), served, seen_column("act"))
    assert replayed.answerable.tolist() == [False, True]
    assert set(replayed.values.to_pylist()[0].values()) == {None}
