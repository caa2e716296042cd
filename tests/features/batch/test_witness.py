"""The independent witness agrees with both engines, and with neither of them when both are wrong."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dovetail.features import Project
from dovetail.features.batch.witness import Witness, Witnessed, alike
from dovetail.features.stream.rerun import with_positions
from tests.generated import tries

ACTS = """SELECT user_id,
       last(kind) OVER day AS latest, first(price IGNORE NULLS) OVER day AS earliest,
       arg_max(item_id, event_time, 3) FILTER (WHERE kind = 'a') OVER day AS items,
       arg_min(item_id, price) OVER ever AS cheapest, last_distinct(list(kind) OVER day, 2) AS kinds,
       count(DISTINCT kind) OVER day AS distinct_kinds, histogram(kind) OVER ever AS counts,
       top_k(histogram(kind) OVER ever, 1) AS usual, sum_by(list({'k': kind, 'v': price}) OVER day) AS spent,
       max(kind) OVER hour AS greatest, stddev(price) OVER day AS spread, avg(price) OVER few AS recent,
       count(*) FILTER (WHERE kind = 'a') OVER day / nullif(count(*) OVER day, 0) AS share,
       entropy(kind) OVER ever AS mixed, skewness(price + 1000000) OVER day AS skewed
FROM events AS e WHERE e.n IS DISTINCT FROM 3
WINDOW hour AS (PARTITION BY user_id ORDER BY event_time RANGE BETWEEN INTERVAL 4 SECOND PRECEDING AND CURRENT ROW),
       day AS (PARTITION BY user_id ORDER BY event_time
               RANGE BETWEEN hop(event_time, INTERVAL 9 SECOND, INTERVAL 2 SECOND) PRECEDING AND CURRENT ROW),
       ever AS (PARTITION BY user_id ORDER BY event_time RANGE BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW),
       few AS (PARTITION BY user_id ORDER BY event_time ROWS BETWEEN 2 PRECEDING AND CURRENT ROW)"""
DOUBLED = """SELECT user_id, sum(m) OVER w AS total
FROM (SELECT user_id, n * 2 AS m, event_time FROM events WHERE n > 0)
WINDOW w AS (PARTITION BY user_id ORDER BY event_time RANGE BETWEEN INTERVAL 5 SECOND PRECEDING AND CURRENT ROW)"""
NAMES = (
    *("latest", "earliest", "items", "cheapest", "kinds", "distinct_kinds", "counts", "usual", "spent", "greatest"),
    *("spread", "recent", "share", "mixed", "skewed"),
)
RANKING = (
    f"SELECT request_id, item_id, {', '.join(f'acts.{name}' for name in NAMES)}, coalesce(doubled.total, 0) + 1 AS t, "
    "second(request_time) AS at FROM request LEFT JOIN acts USING (user_id) LEFT JOIN doubled USING (user_id)"
)
EVENT = st.fixed_dictionaries(
    {
        "user_id": st.integers(1, 2), "item_id": st.integers(1, 3), "kind": st.none() | st.sampled_from("abc"),
        "price": st.none() | st.sampled_from([Decimal("1.50"), Decimal("2.25")]), "n": st.none() | st.integers(0, 3),
        "event_time": st.integers(0, 12).map(lambda second: second * 1_000_000),
    }
)  # fmt: skip
#: A user and a second.
ASKED = st.tuples(st.integers(1, 3), st.integers(0, 14))


@pytest.fixture
def project(write_project: Callable[[dict[str, str]], Project]) -> Project:
    return write_project({"acts": ACTS, "doubled": DOUBLED, "ranking": RANKING})


def log_of(project: Project, events: list[dict[str, Any]]) -> pa.Table:
    schema = pa.schema([field.with_nullable(True) for field in project.streams["events"].schema.arrow])
    return with_positions(pa.Table.from_pylist([{"x": None, **event} for event in events], schema=schema))


def requests_at(*asked: tuple[int, int]) -> pa.Table:
    users, seconds = zip(*asked, strict=True)
    times = pa.array([second * 1_000_000 for second in seconds], pa.timestamp("us"))
    columns = [[f"r{i}" for i in range(len(asked))], pa.array(users, pa.int64()), times, [1] * len(asked)]
    return pa.table(columns, names=["request_id", "user_id", "request_time", "item_id"])


def witnessed_for(project: Project, log: pa.Table, requests: pa.Table, served: pa.Table) -> Witnessed:
    def events_of(_: str, until_us: int, keys: Mapping[str, pa.Scalar]) -> pa.Table:
        rows = log.filter(pc.less_equal(log.column("event_time").cast(pa.int64()), until_us))
        for column, key in keys.items():
            rows = rows.filter(pc.equal(rows.column(column), key))
        return rows

    witness = Witness(project.feature_set, project.stream_views, project.batch_views, events_of)
    found = Witnessed()
    for row, values in enumerate(served.to_pylist()):
        seen = {view: [log.num_rows] for view in ("acts", "doubled")}
        found.add(values["request_id"], values, witness.values(requests.slice(row, 1), seen))
    return found


@settings(max_examples=tries(6), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(events=st.lists(EVENT, max_size=25), asked=st.lists(ASKED, min_size=1, max_size=3))
def test_the_witness_agrees(project: Project, events: list[dict[str, Any]], asked: list[tuple[int, int]]) -> None:
    log, requests = log_of(project, events), requests_at(*asked)
    served = project.evaluate(None, requests, {"events": log})
    found = witnessed_for(project, log, requests, served)
    assert found.examples == []
    assert (found.mismatched, found.unwitnessed) == (0, 0)
    assert found.compared == requests.num_rows * served.num_columns


def test_of_a_request_without_a_key_the_witness_says_nothing(project: Project) -> None:
    events = [{"user_id": 1, "item_id": 1, "kind": "a", "price": None, "n": 1, "event_time": 1_000_000}]
    log, requests = log_of(project, events), requests_at((1, 9), (2, 9))
    keys = pa.array([None, 2], pa.int64())
    requests = requests.set_column(1, "user_id", keys)
    served = project.evaluate(None, requests, {"events": log})
    found = witnessed_for(project, log, requests, served)
    assert found.examples == []
    assert found.mismatched == 0
    assert found.unwitnessed > 0
    assert found.compared + found.unwitnessed == 2 * served.num_columns


def test_the_witness_sees_what_both_engines_get_wrong(project: Project) -> None:
    """A plan, which both engines run, has another window than its text: they agree, and the witness does not."""
    events = [
        {"user_id": 1, "item_id": 1, "kind": "a", "price": None, "n": 1, "event_time": second * 1_000_000}
        for second in range(10)
    ]
    log, requests = log_of(project, events), requests_at((1, 9))
    view = project.stream_views["doubled"]
    wrong = replace(view, windows=tuple(replace(window, size_us=2_000_000) for window in view.windows))
    broken = replace(project, stream_views={**project.stream_views, "doubled": wrong})
    batch, stream = (broken.evaluate(None, requests, {"events": log}, engine=e) for e in ("batch", "stream"))
    assert batch.equals(stream)
    found = witnessed_for(broken, log, requests, stream)
    assert found.mismatched == 1
    assert found.examples == ["t of request r0: served Decimal('7'), witnessed Decimal('13')"]


@pytest.mark.parametrize(
    ("served", "witnessed", "same"),
    [
        (0.1 + 0.2, 0.3, True), (0.3, 0.31, False), (None, 0, False), (None, None, True), (1, Decimal("1.00"), True),
        ([1, None], [1, None], True), ([1], [1, 2], False), ([("a", 1), ("b", 2)], {"b": 2, "a": 1}, True),
        ({"a": 1.0}, {"a": 1.0 + 1e-15}, True), (float("nan"), float("nan"), True), ("a", "b", False),
    ],
)  # fmt: skip
def test_alike(served: object, witnessed: object, same: bool) -> None:
    assert alike(served, witnessed) == same
