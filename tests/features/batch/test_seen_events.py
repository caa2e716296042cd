"""The events that a value is said to have seen are those that the engine counts, for every kind of window."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pyarrow as pa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dovetail.features import Project
from dovetail.features.batch.seen_events import COUNTED, seen_events
from dovetail.features.stream.rerun import with_positions
from tests.generated import tries

COUNTS = """SELECT user_id,
       count(*) OVER hour AS plain, count(*) FILTER (WHERE kind = 'a') OVER day AS some, count(n) OVER ever AS not_null,
       count(*) OVER few AS latest, count(*) FILTER (WHERE n > 0) OVER earlier AS before
FROM events AS e WHERE e.kind IS DISTINCT FROM 'c'
WINDOW hour AS (PARTITION BY user_id ORDER BY event_time RANGE BETWEEN INTERVAL 4 SECOND PRECEDING AND CURRENT ROW),
       day AS (PARTITION BY user_id ORDER BY event_time
               RANGE BETWEEN hop(event_time, INTERVAL 9 SECOND, INTERVAL 2 SECOND) PRECEDING AND CURRENT ROW),
       ever AS (PARTITION BY user_id ORDER BY event_time RANGE BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW),
       few AS (PARTITION BY user_id ORDER BY event_time ROWS BETWEEN 2 PRECEDING AND CURRENT ROW),
       earlier AS (PARTITION BY user_id ORDER BY event_time
                   RANGE BETWEEN INTERVAL 6 SECOND PRECEDING AND INTERVAL 2 SECOND PRECEDING)"""
#: A UNION ALL, and SELECTs that make the key and remove rows.
DOUBLED = """SELECT user_id, count(*) OVER w AS both
FROM (SELECT item_id AS user_id, event_time FROM events WHERE n > 0
      UNION ALL SELECT user_id, event_time FROM events)
WINDOW w AS (PARTITION BY user_id ORDER BY event_time RANGE BETWEEN INTERVAL 5 SECOND PRECEDING AND CURRENT ROW)"""
NAMES = ("plain", "some", "not_null", "latest", "before")
RANKING = (
    f"SELECT request_id, item_id, {', '.join(f'counts.{name}' for name in NAMES)}, doubled.both "
    "FROM request LEFT JOIN counts USING (user_id) LEFT JOIN doubled USING (user_id)"
)
EVENT = st.fixed_dictionaries(
    {
        "user_id": st.integers(1, 2), "item_id": st.integers(1, 2), "kind": st.none() | st.sampled_from("abc"),
        "n": st.none() | st.integers(0, 3), "event_time": st.integers(0, 12).map(lambda second: second * 1_000_000),
    }
)  # fmt: skip


@settings(max_examples=tries(8), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(events=st.lists(EVENT, max_size=25), second=st.integers(0, 14), seen=st.integers(0, 25))
def test_counts_are_the_events_that_were_seen(
    write_project: Callable[[dict[str, str]], Project], events: list[dict[str, Any]], second: int, seen: int
) -> None:
    project = write_project({"counts": COUNTS, "doubled": DOUBLED, "ranking": RANKING})
    schema = pa.schema([field.with_nullable(True) for field in project.streams["events"].schema.arrow])
    rows = [{"x": None, "price": None, **event} for event in events]
    log = with_positions(pa.Table.from_pylist(rows, schema=schema))
    moment = pa.array([second * 1_000_000], pa.timestamp("us"))
    request = pa.table({"request_id": ["r"], "user_id": pa.array([1], pa.int64()), "request_time": moment})
    request = request.append_column("item_id", pa.array([1], pa.int64()))
    for view, sources in (("counts", 1), ("doubled", 2)):
        told = pa.array([[seen] * sources], pa.list_(pa.int64()))
        request = request.append_column(f"_seen_{view}", told)
    (served,) = project.evaluate(None, request, {"events": log}, visibility="as_served").to_pylist()
    for found_view in project.stream_views.values():
        look = partial(
            seen_events,
            found_view,
            events={"events": log},
            key={"user_id": 1},
            time_us=second * 1_000_000,
            seen=[seen] * len(found_view.reads),
        )
        for aggregate in found_view.aggregates:
            found = look([aggregate])
            assert found.total == served[aggregate.output], aggregate.output
            assert found.events.column(COUNTED).to_pylist() == [[aggregate.output]] * found.total
            times = found.events.column("event_time").to_pylist()
            assert times == sorted(times, reverse=True)
            fewer = look([aggregate], most=1)
            assert (fewer.total, fewer.events.num_rows) == (found.total, min(1, found.total))
