"""The stream's values are DuckDB's and plain Python's, however the events came and however they were cut."""

from __future__ import annotations

import random
from decimal import Decimal

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from dovetail.features.plan.definitions import AggregateFunction, Input, Window
from tests.features.stream.harness import Probe, Row, Store, bits, duckdb_values, reference
from tests.features.stream.strategies import INT64_MAX, INT64_MIN, SCHEMA, Case, cases, view_of
from tests.generated import tries

_SETTINGS = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])


def _run(case: Case) -> tuple[Store, list[Row]]:
    store = Store(case.view)
    rows: list[Row] = []
    for partition, poll in case.arrivals:
        store.apply(partition, poll)
        rows += poll
    return store, rows


def _probes(case: Case, store: Store) -> list[Probe]:
    earliest = 0 if not store.watermarks else store.watermark - case.view.stream.allowed_lateness_us
    return [(entity, earliest + lag) for entity, lag in case.probes]


@given(cases())
@settings(_SETTINGS, max_examples=tries(300))
def test_values_are_those_of_plain_python_after_every_poll(case: Case) -> None:
    store, rows = Store(case.view), []
    for partition, poll in case.arrivals:
        store.apply(partition, poll)
        rows += poll
        probes = _probes(case, store)
        values = store.values(probes)
        assert values.answerable.all()
        assert bits(values.table) == bits(reference(case.view, rows, probes))


@given(cases())
@settings(_SETTINGS, max_examples=tries(150))
def test_values_are_those_of_duckdb(case: Case) -> None:
    store, rows = _run(case)
    probes = _probes(case, store)
    assert bits(store.values(probes).table) == bits(duckdb_values(case.view, rows, probes))


@given(cases())
@settings(_SETTINGS, max_examples=tries(100))
def test_any_cut_into_polls_leaves_the_same_bytes_and_counts(case: Case) -> None:
    whole = Store(case.view)
    for partition in {partition for partition, _ in case.arrivals}:
        whole.apply(partition, [row for p, poll in case.arrivals for row in poll if p == partition])
    cut, _ = _run(case)
    assert whole.states == cut.states
    assert whole.outcomes == cut.outcomes
    assert whole.watermarks == cut.watermarks


@given(cases(), st.randoms(use_true_random=False))
@settings(_SETTINGS, max_examples=tries(100))
def test_any_order_of_arrival_within_the_lateness_gives_the_same_values(case: Case, chance: random.Random) -> None:
    in_order, shuffled = Store(case.view), Store(case.view)
    lateness = case.view.stream.allowed_lateness_us
    rows = sorted((row for _, poll in case.arrivals for row in poll), key=lambda row: row["event_time"])
    assume(rows)
    in_order.apply(0, rows)
    for row in sorted(rows, key=lambda row: row["event_time"] + chance.randint(0, lateness)):
        shuffled.apply(0, [row])
    assert shuffled.outcomes == in_order.outcomes
    probes = _probes(case, in_order)
    assert bits(shuffled.values(probes).table) == bits(in_order.values(probes).table)


@given(cases())
@settings(_SETTINGS, max_examples=tries(100))
def test_expired_rows_are_those_no_answerable_request_can_see(case: Case) -> None:
    store, _ = _run(case)
    expired, watermarks = 0, dict[int, int]()
    for partition, poll in case.arrivals:
        for row in poll:
            before = watermarks.get(partition)
            known = all(row[column] is not None for column in case.view.entity)
            where = case.view.where is None or row["small"] != 3
            if before is not None and known and where:
                floor = before - case.view.stream.allowed_lateness_us
                expired += row["event_time"] < min(window.lower_bound(floor) for window in case.view.windows)
            watermarks[partition] = max(row["event_time"], before if before is not None else row["event_time"])
    assert store.outcomes[1] == expired


@pytest.mark.parametrize("seed", range(4))
def test_a_long_log_with_many_partials_agrees_with_duckdb(seed: int) -> None:
    chance = random.Random(seed)
    hour = 3_600_000_000
    windows = [
        Window("plain", 2 * hour, None),
        Window("day", 24 * hour, hour),
        Window("week", 168 * hour, hour),
        Window("coarse", 100 * hour, 7 * hour),
    ]
    inputs = [
        Input(None, None, pa.int64()),
        Input("big", "flag", pa.int64()),
        Input("price", None, SCHEMA.field("price").type),
        Input("score", "small > 0", pa.float64()),
    ]
    functions: list[tuple[AggregateFunction, int]] = [
        ("count", 0), ("sum", 1), ("avg", 2), ("min", 3), ("max", 2), ("avg", 1), ("max", 3), ("min", 1),
    ]  # fmt: skip
    view = view_of(windows, [(f, inputs[i], w) for w in range(4) for f, i in functions], lateness_us=3 * hour)
    rows = [
        {
            "user_id": chance.choice((1, 1, 2, 3)),
            "event_time": 1_700_000_000_000_000 + int((i / 10 - chance.expovariate(0.3)) * hour),
            "big": chance.choice((None, INT64_MIN, INT64_MAX, chance.getrandbits(60))),
            "small": chance.randint(-3, 3),
            "price": Decimal(chance.randint(-(10**11), 10**11)).scaleb(-2),
            "score": chance.choice((None, chance.gauss(0, 1))),
            "flag": chance.choice((None, True, False)),
        }
        for i in range(4000)
    ]
    store = Store(view)
    at = 0
    while at < len(rows):
        length = chance.choice((1, 10, 500))
        store.apply(
            chance.randint(0, 1), [{name: row.get(name) for name in SCHEMA.names} for row in rows[at:][:length]]
        )
        at += length
    probes = [((chance.randint(1, 4),), store.watermark + int(chance.uniform(-3, 200) * hour)) for _ in range(60)]
    full = [{name: row.get(name) for name in SCHEMA.names} for row in rows]
    assert store.outcomes[1] == 0
    assert bits(store.values(probes).table) == bits(duckdb_values(view, full, probes))
