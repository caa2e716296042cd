"""Cases at an edge of what a state keeps, which generated logs meet too seldom."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pytest

from dovetail.features.batch.streaming import evaluate_view
from tests.features.parity.replay import bits, polls_of, streamed, values
from tests.features.parity.strategies import ORIGIN, Schema, by_stream, view_of

SCHEMA = Schema({"c0": "BIGINT"})
HOP = "RANGE BETWEEN hop(event_time, INTERVAL 60 SECOND, INTERVAL 5 SECOND) PRECEDING AND CURRENT ROW"
TEN = "RANGE BETWEEN INTERVAL 10 SECOND PRECEDING AND CURRENT ROW"
PAST = "RANGE BETWEEN INTERVAL 30 SECOND PRECEDING AND INTERVAL 10 SECOND PRECEDING"
HOP_PAST = HOP.replace("CURRENT ROW", "INTERVAL 10 SECOND PRECEDING")
ROWS = "ROWS BETWEEN 4 PRECEDING AND 3 PRECEDING"
#: One event a second, of values that rise and fall, and one much later.
STEADY = [*((n, n % 4, 0, n) for n in range(14)), (24, 9, 0, 14)]
ORDERED = """first(c0) OVER w AS f, last(c0) OVER w AS l, arg_max(c0, event_time, 3) OVER w AS k,
             newest(list(c0) OVER w, 2) AS r, nth_value(c0, 2) OVER w AS n"""
ADDED = """count(*) OVER w AS n, sum(c0) OVER w AS s, max(c0) OVER w AS m, histogram(c0) OVER w AS h,
           avg(c0) OVER w AS a, top_k(histogram(c0) OVER w, 2) AS t, sum_by(list({'k': shop, 'v': c0}) OVER w) AS b,
           histogram_each(list([c0, user_id]) OVER w) AS i, sum_each(list(CAST([c0, 1] AS BIGINT[2])) OVER w) AS j,
           entropy(c0) OVER w AS e, skewness(c0) OVER w AS k, kurtosis(c0) OVER w AS u,
           least_by(list({'k': shop, 'v': c0}) OVER w) AS y, greatest_by(list({'k': shop, 'v': c0}) OVER w) AS z"""
MOST, LEAST = 2**63 - 1, -(2**63)

Event = tuple[float, int, int, int]


def seconds(time: float) -> int:
    return ORIGIN + round(time * 1_000_000)


@pytest.mark.parametrize("step", [1, 2, 100])
@pytest.mark.parametrize(
    ("columns", "frame", "lateness", "events", "asked"),
    [
        # Ties: first the partition, then the offset, whatever came first.
        (ORDERED, TEN, 0, [(0, 0, 1, 0), (0, 1, 0, 1), (0, 2, 2, 0), (0, 3, 0, 0)], [0, 1, 10]),
        # Rows that come when the partial, or the merged entry, of their step is there: before and after what it holds.
        (
            ADDED,
            HOP,
            0,
            [(1, 7, 0, 0), (2, 7, 0, 1), (30, 2, 0, 2), (1.5, 7, 0, 3), (0.5, 7, 0, 4), (31, 7, 0, 5), (3, 9, 0, 6)],
            [31, 40, 61],
        ),
        # Sums of more than 64 bits, up and down, of rows, of partials, and of merged entries.
        (
            ADDED,
            HOP,
            0,
            [
                (1, MOST, 0, 0),
                (2, MOST, 0, 1),
                (7, MOST, 0, 2),
                (8, LEAST, 0, 3),
                (9, LEAST, 0, 4),
                (30, MOST, 0, 5),
                (31, -1, 0, 6),
                (32, -1, 0, 7),
                (40, 1, 0, 8),
            ],
            [40, 61, 66, 68],
        ),
        # As often as another: the lesser value is listed.
        (ADDED, HOP, 0, [(1, 3, 0, 0), (2, 1, 0, 1), (7, 2, 0, 2), (8, 5, 0, 3), (9, 5, 0, 4)], [9, 40]),
        # Of two rows on either side of the earliest time that is still answered, both are needed.
        (ORDERED, TEN, 4, [(6, 1, 0, 0), (6.5, 2, 0, 1), (10, 3, 0, 2)], [6, 6.4, 6.5, 16]),
        # What a window that ends before the request still needs, though later events would win against it.
        (ORDERED, PAST, 0, STEADY, [24, 25, 30, 34]),
        (ADDED, PAST, 2, STEADY, [22, 24, 25, 30, 34]),
        (ORDERED, HOP_PAST, 0, STEADY, [24, 25, 30, 34]),
        (ADDED, HOP_PAST, 2, STEADY, [22, 24, 25, 30, 34]),
        (ORDERED, ROWS, 0, STEADY, [24, 25]),
    ],
    ids=[
        "ties across partitions",
        "rows behind what is folded",
        "sums of 128 bits",
        "equal counts",
        "the earliest answer",
        "picked before now",
        "added before now",
        "picked in steps before now",
        "added in steps before now",
        "rows before the last",
    ],
)
def test_the_engines_agree(
    columns: str, frame: str, lateness: int, events: Sequence[Event], asked: Sequence[float], step: int
) -> None:
    """``events`` are ``(seconds, value, partition, offset)`` in order of arrival."""
    sql = f"SELECT user_id, {columns} FROM events WINDOW w AS (PARTITION BY user_id ORDER BY event_time {frame})"
    view = view_of(sql, SCHEMA, lateness * 1_000_000)
    types = {"_partition": pa.int32(), "_offset": pa.int64(), "_row": pa.int32(), "_stream": pa.int8()}
    rows: list[dict[str, Any]] = [
        {
            "user_id": 1,
            "shop": "a",
            "c0": value,
            "event_time": seconds(time),
            "_partition": partition,
            "_offset": offset,
        }
        for time, value, partition, offset in events
    ]
    rows = [{**row, "_row": 0, "_stream": 0} for row in rows]
    log = pa.Table.from_pylist(rows, schema=pa.schema([*SCHEMA.arrow, *(pa.field(*item) for item in types.items())]))
    times = pa.array([seconds(time) for time in asked], pa.timestamp("us"))
    probes = pa.table({"user_id": pa.array([1] * len(asked)), "request_time": times})
    found = values(*streamed(view, polls_of(log, range(step, log.num_rows, step))), probes)
    assert found.answerable.all()
    expected = evaluate_view(view, by_stream(log), probes).values
    for name in expected.column_names:
        assert bits(found.table.column(name)) == bits(expected.column(name)), name
