"""States with collections: damaged or foreign ones are refused, and what the rules let go is gone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from dovetail.features.batch.streaming import evaluate_view
from dovetail.features.plan.definitions import StreamView
from dovetail.features.stream.collections.entries import decode_states
from dovetail.features.stream.engine import StreamEngine
from dovetail.features.stream.prepare import NO_WATERMARK
from dovetail.features.stream.rerun import ViewReplay, with_positions
from dovetail.platform.errors import StateError, WireError
from tests.features.parity.strategies import ORIGIN, Schema, view_of

SECOND = 1_000_000
SCHEMA = Schema({"c0": "BIGINT", "c1": "VARCHAR"})
RANGE = "RANGE BETWEEN {} PRECEDING AND CURRENT ROW"
HOUR = RANGE.format("INTERVAL 1 HOUR")
HOP = RANGE.format("hop(event_time, INTERVAL 1 HOUR, INTERVAL 1 MINUTE)")
EVER = RANGE.format("UNBOUNDED")


def view(aggregate: str, frame: str) -> StreamView:
    window = f"WINDOW w AS (PARTITION BY user_id ORDER BY event_time {frame})"
    return view_of(f"SELECT user_id, {aggregate} AS f FROM events {window}", SCHEMA)


def events(times: list[int], values: list[int], texts: list[str] | None = None) -> pa.Table:
    rows = [
        {"user_id": 1, "shop": "a", "c0": value, "c1": text, "event_time": ORIGIN + time * SECOND}
        for time, value, text in zip(times, values, texts or ["x"] * len(times), strict=True)
    ]
    return with_positions(pa.Table.from_pylist(rows, schema=SCHEMA.arrow))


def state(wanted: StreamView, rows: pa.Table) -> bytes:
    replay = ViewReplay(wanted)
    replay.apply(rows)
    ((blob,),) = [list(found.values()) for found in replay._states.values()]
    return blob


def kept(wanted: StreamView, rows: pa.Table) -> int:
    engine = StreamEngine(wanted)
    return len(decode_states(engine.collections, [state(wanted, rows)]).entries[0].owners)


@pytest.mark.parametrize(
    ("aggregate", "frame", "entries"),
    [
        ("last(c0)", HOUR, 1),
        ("last(c0)", EVER, 1),
        ("arg_max(c0, event_time, 3)", HOUR, 3),
        ("max(c1)", HOUR, 1),
        ("arg_max(c1, c0)", HOUR, 1),
        ("arg_min(c1, c0)", HOUR, 100),
        ("arg_min(c1, c0)", HOP, 2),
        ("arg_min(c1, c0)", EVER, 1),
        ("count(DISTINCT c0)", HOUR, 100),
        ("count(DISTINCT c1)", HOUR, 1),
        ("last_distinct(list(c0) OVER w, 4)", HOUR, 4),
        ("first_distinct(list(c1) OVER w, 4)", HOP, 2),
        ("histogram(c1)", HOUR, 100),
        ("histogram(c1)", HOP, 41),
        ("histogram(c1)", EVER, 2),
        ("entropy(c1)", EVER, 2),
        ("histogram_each(list([c1, c1, 'z']) OVER w)", HOUR, 300),
        ("histogram_each(list([c1, c1, 'z']) OVER w)", EVER, 5),
        ("skewness(c0)", EVER, 100),
        ("sum(c0)", "ROWS BETWEEN 7 PRECEDING AND CURRENT ROW", 7),
    ],
)
def test_only_what_can_still_matter_is_kept(aggregate: str, frame: str, entries: int) -> None:
    over = aggregate if "OVER" in aggregate else f"{aggregate} OVER w"
    # 100 events, one a second, each greater than the one before, across the edge of a minute.
    assert kept(view(over, frame), events(list(range(100)), list(range(100)))) == entries


def test_what_left_the_window_leaves_the_state() -> None:
    assert kept(view("histogram(c1) OVER w", HOUR), events([0, 1, 4000], [1, 2, 3])) == 1
    wanted = view("histogram(c1) OVER w", HOUR)
    replay = ViewReplay(wanted)
    replay.apply(events([4000], [1]))
    replay.apply(events([1], [1]))
    asked = pa.table({"user_id": [1], "request_time": pa.array([ORIGIN + 4000 * SECOND], pa.timestamp("us"))})
    assert replay.values(asked).values["f"].to_pylist() == [[("x", 1)]]


WANTED = view("last(c1) OVER w", HOUR)
BLOB = state(WANTED, events([0, 1], [1, 2], ["eins", "zwei"]))


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (lambda blob: blob[:-1], "is damaged: 103 bytes"),
        (lambda blob: blob[:16], "is damaged: 16 bytes"),
        (lambda blob: blob[:-8], "its length and its counts disagree"),
        (lambda blob: b"OTHERXX" + blob[7:], r"is not a version-2 feature state \(it begins with b'OTHERXX"),
        (lambda blob: blob[:8] + bytes(8) + blob[16:], "was kept for another definition of the view"),
    ],
)
def test_states_that_are_not_the_views_are_refused(damage: Any, why: str) -> None:
    nobody = np.zeros(1, dtype=np.int32)
    engine = StreamEngine(WANTED)
    with pytest.raises(StateError, match=f"view view: state 0 of the batch .*{why}|{why}"):
        engine.values([damage(BLOB)], nobody, nobody, np.array([ORIGIN]), NO_WATERMARK)


def test_a_request_behind_the_lateness_is_not_answered() -> None:
    nobody = np.zeros(2, dtype=np.int32)
    times = np.array([ORIGIN + SECOND, ORIGIN + SECOND - 1])
    got = StreamEngine(WANTED).values([BLOB], nobody[:1], nobody, times, NO_WATERMARK)
    assert got.answerable.tolist() == [True, False]
    assert got.table["f"].to_pylist() == ["zwei", None]


def test_an_expression_without_value_names_view_and_row() -> None:
    wanted = view("count(*) OVER w * 9223372036854775807", HOUR)
    rows = events([0, 1], [1, 2])
    asked = pa.table({"user_id": [1], "request_time": pa.array([ORIGIN + SECOND]).cast(pa.timestamp("us"))})
    with pytest.raises(WireError, match=r"sql/view.sql:1: view has no value: Out of Range Error"):
        evaluate_view(wanted, rows, asked)
    replay = ViewReplay(wanted)
    replay.apply(rows)
    with pytest.raises(WireError, match=r"sql/view.sql:1: view.f: row 0: Out of Range Error"):
        replay.values(asked)


def test_events_without_positions_are_refused_where_ties_must_be_decided() -> None:
    asked = pa.table({"user_id": [1], "request_time": pa.array([ORIGIN]).cast(pa.timestamp("us"))})
    with pytest.raises(WireError, match="events have no column '_partition'"):
        evaluate_view(WANTED, events([0], [1]).drop_columns(["_partition"]), asked)
