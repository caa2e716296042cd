"""A view's value is what its sentence says, whatever arrived when."""

from __future__ import annotations

import math
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dovetail.features import Project
from dovetail.features.batch.streaming import evaluate_view
from dovetail.features.plan.definitions import StreamView
from dovetail.platform.errors import WireError

#: Within time_bucket's first buckets on both sides of its origin, and in half seconds.
ORIGIN = 946_857_600_000_000
SECOND = 1_000_000
TIMES = st.integers(-40, 40).map(lambda half: ORIGIN + half * SECOND // 2)
KEYS = st.sampled_from([None, 1, 2])

EVENT = st.fixed_dictionaries(
    {
        "user_id": KEYS,
        "item_id": KEYS,
        "kind": st.sampled_from(["a", "b", "z", None]),
        "price": st.none() | st.integers(-(10**9) + 1, 10**9 - 1).map(lambda v: Decimal(v).scaleb(-2)),
        "n": st.none() | st.integers(-(2**63), 2**63 - 1) | st.integers(-3, 3),
        "x": st.none() | st.floats() | st.sampled_from([0.0, -0.0]),
        "event_time": TIMES,
        "_partition": st.integers(0, 2),
    }
)
PROBE = st.fixed_dictionaries(
    {
        "user_id": KEYS,
        "item_id": KEYS,
        "request_time": TIMES,
        "seen": st.none() | st.lists(st.none() | st.integers(0, 8), max_size=4),
    }
)


def events_table(view: StreamView, rows: list[dict[str, Any]]) -> pa.Table:
    """Offsets count up within each partition."""
    schema = [*view.stream.schema.arrow, pa.field("_partition", pa.int32()), pa.field("_offset", pa.int64())]
    counts: dict[int, int] = {}
    numbered = []
    for row in rows:
        offset = counts.get(row["_partition"], 0)
        counts[row["_partition"]] = offset + 1
        numbered.append({**row, "_offset": offset})
    return pa.Table.from_pylist(numbered, schema=pa.schema(schema))


def probes_table(rows: list[dict[str, Any]]) -> pa.Table:
    schema = {"user_id": pa.int64(), "item_id": pa.int64(), "request_time": pa.timestamp("us")}
    return pa.Table.from_pylist(rows, schema=pa.schema({**schema, "seen": pa.list_(pa.int64())}))


def order(value: float) -> tuple[bool, float]:
    return math.isnan(value), value


def extreme(pick: Callable[..., float], values: list[float]) -> float | str | None:
    if not values:
        return None
    found = pick(values, key=order)
    return "nan" if math.isnan(found) else found + 0.0


def mean(values: list[Any]) -> float | None:
    return float(sum(map(Fraction, values)) / len(values)) if values else None


def meaning(rows: list[dict[str, Any]], probe: dict[str, Any], *, as_served: bool) -> dict[str, Any]:
    """The view ``acts`` at one probe, in plain Python."""
    time, key = probe["request_time"], (probe["user_id"], probe["item_id"])
    seen = dict(enumerate(probe["seen"] or []))
    visible = [
        row
        for row in rows
        if (row["user_id"], row["item_id"]) == key
        and None not in key
        and row["kind"] != "z"
        and row["event_time"] <= time
        and (not as_served or row["_offset"] < (seen.get(row["_partition"]) or 0))
    ]

    def values(column: str, low: int, keep: Callable[[dict[str, Any]], bool] = lambda _: True) -> list[Any]:
        return [r[column] for r in visible if r["event_time"] >= low and r[column] is not None and keep(r)]

    def bucket(size: int, step: int) -> int:
        return int(time - size * SECOND - ORIGIN) // (step * SECOND) * step * SECOND + ORIGIN

    near, far, hop = time - 3 * SECOND, bucket(10, 4), bucket(7, 2)
    sums = {name: values(column, low) for name, column, low in (("spent", "price", far), ("total", "n", hop))}
    return {
        "n": len(values("event_time", near)),
        "priced": len(values("price", near, lambda r: r["kind"] == "a")),
        "spent": sum(sums["spent"]) if sums["spent"] else None,
        "mean": mean(values("n", far)),
        "mean_price": mean(values("price", near, lambda r: r["kind"] not in ("b", None))),
        "low": extreme(min, values("x", far)),
        "high": extreme(max, values("x", near, lambda r: r["x"] is not None and (r["x"] > 0 or math.isnan(r["x"])))),
        "total": sum(sums["total"]) if sums["total"] else None,
    }


def plain(table: pa.Table) -> list[dict[str, Any]]:
    return [
        {k: "nan" if isinstance(v, float) and math.isnan(v) else v for k, v in row.items()} for row in table.to_pylist()
    ]


def exactly(rows: list[dict[str, Any]]) -> list[dict[str, str]]:
    """Floats by all their digits, so that -0.0 is not 0.0."""
    return [{k: repr(v) if isinstance(v, float) else str(v) for k, v in row.items()} for row in rows]


@given(rows=st.lists(EVENT, max_size=24), probes=st.lists(PROBE, max_size=8))
def test_a_value_is_the_window_of_a_probe_at_its_time(
    project: Project, rows: list[dict[str, Any]], probes: list[dict[str, Any]]
) -> None:
    view = project.stream_views["acts"]
    events = events_table(view, rows)
    found = evaluate_view(view, events, probes_table(probes))
    numbered = events.to_pylist()
    numbered = [{**row, **given_row, "_offset": row["_offset"]} for row, given_row in zip(numbered, rows, strict=True)]
    assert found.values.schema == view.output_schema
    assert exactly(plain(found.values)) == exactly([meaning(numbered, p, as_served=False) for p in probes])
    assert not found.late.any()


@given(rows=st.lists(EVENT, max_size=24), probes=st.lists(PROBE, max_size=8))
def test_as_served_holds_only_what_had_been_applied(
    project: Project, rows: list[dict[str, Any]], probes: list[dict[str, Any]]
) -> None:
    view = project.stream_views["acts"]
    events = events_table(view, rows)
    numbered = [{**r, "_offset": o} for r, o in zip(rows, events.column("_offset").to_pylist(), strict=True)]
    served = evaluate_view(view, events, probes_table(probes), visibility="as_served")
    wanted = [meaning(numbered, p, as_served=True) for p in probes]
    assert exactly(plain(served.values)) == exactly(wanted)
    everything = evaluate_view(view, events, probes_table(probes))
    for now, then, late in zip(
        exactly(plain(everything.values)), exactly(plain(served.values)), served.late, strict=True
    ):
        assert late or now == then, "a difference that late data does not explain"
    assert exactly(plain(served.happened)) == exactly(plain(everything.values.filter(pa.array(served.late))))
    assert served.happened.schema == view.output_schema


def test_the_probe_itself_contributes_nothing_and_ties_are_in(project: Project) -> None:
    view = project.stream_views["users"]
    at = ORIGIN + 60 * SECOND
    row = {"user_id": 1, "item_id": 1, "kind": "z", "price": None, "n": None, "x": None, "_partition": 0}
    times = [at - 5 * SECOND - 1, at - 5 * SECOND, at, at, at + 1]
    events = events_table(view, [{**row, "event_time": time} for time in times])
    probe = {"user_id": 1, "item_id": 1, "request_time": at, "seen": None}
    found = evaluate_view(view, events, probes_table([probe, probe, {**probe, "user_id": 9}]))
    assert found.values.column("n").to_pylist() == [3, 3, 0]
    assert found.values.column("latest").cast(pa.int64()).to_pylist() == [at, at, None]


def test_late_marks_only_windows_that_hold_an_unseen_event(project: Project) -> None:
    view = project.stream_views["users"]
    row = {"item_id": 1, "kind": "a", "price": None, "n": None, "x": None, "_partition": 1}
    at = [ORIGIN + s * SECOND for s in (0, 1, 100)]
    events = events_table(view, [{**row, "user_id": 1, "event_time": time} for time in at])
    probe = {"user_id": 1, "item_id": 1, "request_time": ORIGIN + 3 * SECOND}
    probes = [
        {**probe, "seen": [0, 3]},
        {**probe, "seen": [7, 1]},
        {**probe, "seen": [0]},
        {**probe, "seen": [0, 1], "user_id": 2},
        {**probe, "seen": [0, 1], "request_time": ORIGIN + 50 * SECOND},
    ]
    served = evaluate_view(view, events, probes_table(probes), visibility="as_served")
    assert served.late.tolist() == [False, True, True, False, False]
    assert served.values.column("n").to_pylist() == [2, 1, 0, 0, 0]


def test_missing_columns_are_named(project: Project) -> None:
    view = project.stream_views["users"]
    events, probes = events_table(view, []), probes_table([])
    with pytest.raises(WireError, match="events have no column 'kind'"):
        evaluate_view(view, events.drop_columns(["kind"]), probes)
    with pytest.raises(WireError, match="events have no column '_offset'"):
        evaluate_view(view, events.drop_columns(["_offset"]), probes, visibility="as_served")
    with pytest.raises(WireError, match="probes have no column 'moment'"):
        evaluate_view(view, events, probes, time_column="moment")
    with pytest.raises(WireError, match="probes have no column 'seen'"):
        evaluate_view(view, events, probes.drop_columns(["seen"]), visibility="as_served")


def test_an_expression_without_value_is_an_error(write_project: Callable[[dict[str, str]], Project]) -> None:
    over = "PARTITION BY user_id ORDER BY event_time RANGE BETWEEN INTERVAL 5 SECOND PRECEDING AND CURRENT ROW"
    sql = f"-- a view\nSELECT user_id, sum(1000 // n) OVER ({over}) AS s FROM events"
    view = write_project({"quotients": sql}).stream_views["quotients"]
    row = {"user_id": 1, "item_id": 1, "kind": "a", "price": None, "n": 0, "x": None, "_partition": 0}
    events = events_table(view, [{**row, "event_time": ORIGIN}])
    with pytest.raises(WireError, match=r"quotients.sql:2: quotients has no value: .*Division by zero"):
        evaluate_view(view, events, probes_table([]))
