"""Planted faults alert in the window that they begin in, and a week of the simulator alerts in none."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from dovetail.app.quality.alerts import Alert, Dated, Quality, Source, judge
from dovetail.app.quality.profiles import Profile, plain_columns, profiles_of
from dovetail.app.quality.project_sources import served_of
from dovetail.demo.logs.recorded import ARRIVAL
from dovetail.demo.logs.simulator import SimulatorConfig, simulate
from dovetail.features import load
from dovetail.platform.config.quality.rules import QualityConfig, QualityRule
from tests.places import ROOT

DAYS = 8
DAY_US = 86_400_000_000
START_US = SimulatorConfig.start_us
#: The day that a fault begins on.
BROKEN = 5
CONFIG = QualityConfig(least_rows=50)
#: Further weeks that must be quiet.
CLEAN_WEEKS = int(os.environ.get("DOVETAIL_CLEAN_WEEKS", "0"))


@dataclass(frozen=True)
class Week:
    """What a project archives of a week: rows by dataset, the time column of each, and when its table's rows came."""

    tables: Mapping[str, tuple[str, pa.Table]]
    item: pa.Table

    def of(self, dataset: str) -> pa.Table:
        return self.tables[dataset][1]

    def having(self, dataset: str, rows: pa.Table) -> Week:
        return replace(self, tables={**self.tables, dataset: (self.tables[dataset][0], rows)})

    def judged(self, config: QualityConfig = CONFIG) -> Quality:
        sources = [source(name, time, rows) for name, (time, rows) in self.tables.items()]
        known = np.sort(self.item.column("available_at").cast(pa.int64()).to_numpy())

        def newest(end: int) -> int | None:
            before = known[known <= end]
            return int(before[-1]) if len(before) else None

        last = START_US + DAYS * DAY_US - 1
        return judge(config, sources, [Dated("item", DAY_US, newest)], first_us=START_US, last_us=last)


def source(name: str, time: str, rows: pa.Table) -> Source:
    times = rows.column(time).cast(pa.int64()).to_numpy()
    columns = [each for each in rows.column_names if each not in (time, "request_id", ARRIVAL)]

    def within(low: int, high: int) -> pa.Table:
        return rows.filter(pa.array((times >= low) & (times <= high)))

    def profiles(low: int, high: int, step: int) -> list[Profile]:
        return profiles_of(name, columns, plain_columns(within(low, high).select(columns)[::step]), low)

    return Source(name, lambda low, high: within(low, high).num_rows, profiles, served_of(name))


def week(seed: int) -> Week:
    """A simulated week: its logs, and the features of its requests, point in time."""
    log = simulate(SimulatorConfig(seed=seed, days=DAYS, requests=2_400, candidates=12, items=100, users=150))
    project = load(ROOT)
    events = {"behaviour": log.events.sort_by(ARRIVAL).drop_columns([ARRIVAL])}
    requests = log.requests.drop_columns([ARRIVAL]) if ARRIVAL in log.requests.column_names else log.requests
    features = project.evaluate(None, requests, events, tables={"item": log.items})
    counts = pc.list_value_length(requests.column("candidates")).to_numpy()
    times = np.repeat(requests.column("request_time").cast(pa.int64()).to_numpy(), counts)
    served = features.append_column("request_time", pa.array(times, pa.timestamp("us")))
    served = served.drop_columns(["request_id", "item_id"])
    tables = {"behaviour": ("event_time", events["behaviour"]), "snapshots": ("request_time", served)}
    tables |= {kind: ("event_time", rows) for kind, rows in log.labels.items() if kind != "conversion"}
    return Week(tables, log.items)


@pytest.fixture(scope="module")
def clean() -> Week:
    return week(7)


@pytest.fixture(scope="module")
def unharmed(clean: Week) -> Quality:
    return clean.judged()


def shown(alerts: tuple[Alert, ...]) -> list[str]:
    return [f"{(alert.window_us - START_US) // DAY_US}: {alert.text}" for alert in alerts]


def test_clean_days_alert_in_none(unharmed: Quality) -> None:
    assert len(unharmed.windows) == DAYS
    assert shown(unharmed.alerts) == []
    assert not unharmed.failed


def test_other_clean_weeks_do_neither() -> None:
    """By ``make nightly``; a week takes some seconds."""
    loud = {seed: shown(week(seed).judged().alerts) for seed in range(8, 8 + CLEAN_WEEKS)}
    assert not any(loud.values()), loud


def broken(rows: pa.Table, time: str) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """Rows from the broken day on."""
    return np.asarray(rows.column(time).cast(pa.int64()).to_numpy() >= START_US + BROKEN * DAY_US)


def with_column(rows: pa.Table, name: str, column: pa.Array | pa.ChunkedArray) -> pa.Table:
    return rows.set_column(rows.column_names.index(name), name, column)


def unit_change(clean: Week) -> Week:
    rows = clean.of("behaviour")
    cents = pc.multiply(rows.column("price").cast(pa.float64()), 100.0)
    at = pa.array(broken(rows, "event_time"))
    mixed = pc.if_else(at, cents, rows.column("price").cast(pa.float64()))
    return clean.having("behaviour", with_column(rows, "price", mixed))


def null_burst(clean: Week) -> Week:
    rows = clean.of("snapshots")
    gone = broken(rows, "request_time") & (np.arange(rows.num_rows) % 3 == 0)
    return clean.having(
        "snapshots", with_column(rows, "price_band", pc.if_else(pa.array(gone), None, rows.column("price_band")))
    )


def frozen_stream(clean: Week) -> Week:
    rows = clean.of("behaviour")
    at = broken(rows, "event_time")
    first = np.where(at, int(np.flatnonzero(at)[0]), np.arange(rows.num_rows))
    return clean.having("behaviour", with_column(rows, "item_id", rows.column("item_id").take(pa.array(first))))


def stale_table(clean: Week) -> Week:
    known = clean.item.column("available_at").cast(pa.int64()).to_numpy()
    return replace(clean, item=clean.item.filter(pa.array(known < START_US + BROKEN * DAY_US)))


def stopped_producer(clean: Week) -> Week:
    rows = clean.of("click")
    return clean.having("click", rows.filter(pa.array(~broken(rows, "event_time"))))


FAULTS: dict[Callable[[Week], Week], set[tuple[str, str, str]]] = {
    unit_change: {("behaviour", "price", "range"), ("behaviour", "price", "psi")},
    null_burst: {("snapshots", "price_band", "null_share")},
    frozen_stream: {("behaviour", "item_id", "distinct")},
    stale_table: {("item", "", "age")},
    stopped_producer: {("click", "", "rows")},
}


@pytest.fixture(scope="module")
def harmed(clean: Week) -> Quality:
    """All faults at once; each is in a column or dataset of its own."""
    for fault in FAULTS:
        clean = fault(clean)
    return clean.judged()


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_alerts_within_one_window(harmed: Quality, fault: Callable[[Week], Week]) -> None:
    first = [alert for alert in harmed.alerts if alert.window_us == START_US + BROKEN * DAY_US]
    found = {(alert.dataset, alert.column, alert.measure) for alert in first}
    assert FAULTS[fault] <= found, shown(harmed.alerts)
    assert any((a.dataset, a.column, a.measure) in FAULTS[fault] and a.severity == "error" for a in first)


def test_nothing_else_alerts(harmed: Quality) -> None:
    assert harmed.failed
    assert min(alert.window_us for alert in harmed.alerts) == START_US + BROKEN * DAY_US
    broken_columns = {(dataset, column) for found in FAULTS.values() for dataset, column, _ in found}
    assert {(alert.dataset, alert.column) for alert in harmed.alerts} == broken_columns, shown(harmed.alerts)


def test_rules_of_the_project_come_first(clean: Week) -> None:
    clicks = replace(clean, tables={"click": clean.tables["click"]}, item=clean.item)
    loud = QualityRule(measure="rows", limit=10, datasets=("cl*",), severity="warning")
    strict = QualityConfig(least_rows=50, rules=(loud,))
    warned = clicks.judged(strict)
    assert {(alert.dataset, alert.measure, alert.severity) for alert in warned.alerts} == {("click", "rows", "warning")}
    assert not warned.failed
    off = QualityRule(measure="null_share", limit=0, columns=("price_*",), severity="off")
    config = QualityConfig(rules=(off,))
    assert config.rule("null_share", "snapshots", "price_band").severity == "off"
    assert config.rule("null_share", "snapshots", "brand").limit == 0.1
    assert config.rule("psi", "snapshots", "price_band").severity == "warning"
    with pytest.raises(ValueError, match="warmup: 9 is more windows than the reference has"):
        QualityConfig(warmup=9)
    with pytest.raises(ValueError, match="window: it is below a minute"):
        QualityConfig(window="1s")  # type: ignore[arg-type]


def test_windows_before_the_first_are_references_only(clean: Week) -> None:
    clicks = stopped_producer(replace(clean, tables={"click": clean.tables["click"]}))
    times = clicks.tables["click"]
    since = START_US + (BROKEN + 1) * DAY_US
    last = START_US + DAYS * DAY_US - 1
    found = judge(CONFIG, [source("click", *times)], [], first_us=START_US, last_us=last, since_us=since)
    assert list(found.windows) == [since, since + DAY_US]
    assert [alert.window_us for alert in found.alerts] == list(found.windows)
    assert found.profiles.num_rows == 0


def test_profiles_are_those_of_the_rows(clean: Week, unharmed: Quality) -> None:
    found = unharmed
    row = next(
        each for each in found.profiles.to_pylist() if (each["dataset"], each["column"]) == ("behaviour", "price")
    )
    rows = clean.of("behaviour")
    mine = rows.filter(pc.less(rows.column("event_time"), pa.scalar(START_US + DAY_US, pa.timestamp("us"))))
    price = mine.column("price").cast(pa.float64())
    known = price.drop_null().to_numpy()
    assert row["rows"] == mine.num_rows
    assert row["null_share"] == price.null_count / mine.num_rows
    assert (row["low"], row["high"]) == (known.min(), known.max())
    assert row["q50"] == pytest.approx(np.quantile(known, 0.5))
    assert row["psi"] is None
    assert row["distinct"] == pytest.approx(len(np.unique(known)), rel=0.1)
    json = found.to_json()
    assert len(json["profiles"]) == found.profiles.num_rows
