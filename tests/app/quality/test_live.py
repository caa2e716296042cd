"""The worker judges each window when it is over: by the archive's sketches, once, whoever died in between."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from dovetail.app.datasets import datasets
from dovetail.app.quality.alert_metrics import AlertMetrics
from dovetail.app.quality.alerts import Alert
from dovetail.app.quality.live import TABLES, LiveQuality, sketched
from dovetail.app.quality.profiles import profiles_of
from dovetail.app.quality.sketches import SMALLEST, merged_sketches, profiles_of_sketches, sketches_by_window
from dovetail.features import load
from dovetail.platform.errors import StaleCommit
from dovetail.platform.rows.positions import Progress
from dovetail.platform.stores.registry.store import Registry
from dovetail.platform.testing import ManualClock
from tests.app.quality.test_alerts import BROKEN, DAY_US, DAYS, FAULTS, START_US, Week, week, with_column
from tests.app.small_project import TOML, run, stores_of, write_project
from tests.places import ROOT

GRACE_US = 600_000_000
SETTINGS = {"live": True, "least_rows": 50}


class Life:
    """A worker's archive and judge, by the day: rows are archived when their day is over, and then it looks."""

    def __init__(self, folder: Path, lived: Week) -> None:
        items = folder / "item.parquet"
        pq.write_table(lived.item, items)
        self.project = load(ROOT, quality=SETTINGS, tables={"item": {"path": str(items)}})
        self.registry = Registry(f"sqlite:///{folder / 'registry.sqlite'}")
        self.week, self.clock = lived, ManualClock(START_US)
        #: Messages of each partition that the archive does not have yet.
        self.unread = 0
        self.live = self.judge()

    def judge(self) -> LiveQuality:
        archived = [sketched(self.project, dataset) for dataset in datasets(self.project)]
        return LiveQuality(self.project, self.registry, archived, self.clock, lambda: self.end)

    def end(self, topic: str, partition: int) -> int:
        """Where topics end."""
        name = next(each.name for each in self.live._datasets.values() if each.topic == topic)
        progress = self.registry.progress(f"archive.{name}").get(partition)
        return self.unread + (0 if progress is None else progress.next_offset)

    def at(self, now_us: int) -> None:
        """It is so late."""
        self.clock.advance(now_us - self.clock.now_us())

    def archive(self, name: str, rows: pa.Table, parts: int = 3) -> None:
        """Archive rows in some commits."""
        sketch = self.live._datasets[name].sketch
        assert sketch is not None
        scope = f"archive.{name}"
        for part in range(parts):
            start, stop = (at * rows.num_rows // parts for at in (part, part + 1))
            mine = rows.slice(start, stop - start)
            at = self.registry.progress(scope).get(0, Progress()).next_offset
            windows = sketch(0, mine) if mine.num_rows else None
            progress = Progress(at + mine.num_rows)
            self.registry.commit(scope, 0, expected=at, progress=progress, accounts=[], windows=windows)

    def days(self, first: int = 0, last: int = DAYS) -> Iterator[tuple[int, list[Alert]]]:
        """Each day, and the alerts that are given within ``grace`` of its end."""
        for day in range(first, last):
            low, high = START_US + day * DAY_US, START_US + (day + 1) * DAY_US
            for name, (time, rows) in self.week.tables.items():
                times = rows.column(time).cast(pa.int64()).to_numpy()
                self.archive(name, rows.filter(pa.array((times >= low) & (times < high))))
            self.at(high + GRACE_US + 1)
            yield day, [alert for verdict in self.live.look() for alert in verdict.alerts]


@pytest.fixture(scope="module")
def clean() -> Week:
    return week(7)


def said(alerts: list[Alert]) -> list[str]:
    return [alert.text for alert in alerts]


def test_clean_days_alert_in_none(clean: Week, tmp_path: Path) -> None:
    life = Life(tmp_path, clean)
    loud = {day: said(alerts) for day, alerts in life.days() if alerts}
    assert loud == {}
    judged = life.registry.windows.newest_judged()
    assert set(judged) == {*clean.tables, TABLES}
    assert set(judged.values()) == {START_US + (DAYS - 1) * DAY_US}, "every window, as soon as it was over"
    assert life.live.look() == []
    assert life.judge().look() == [], "what another worker has judged is judged"


def test_every_planted_fault_alerts_within_one_window_and_nothing_else_does(clean: Week, tmp_path: Path) -> None:
    harmed = clean
    for fault in FAULTS:
        harmed = fault(harmed)
    life = Life(tmp_path, harmed)
    alerts = dict(life.days(last=BROKEN + 1))
    assert {day: said(each) for day, each in alerts.items() if each and day < BROKEN} == {}
    found = {(alert.dataset, alert.column, alert.measure) for alert in alerts[BROKEN]}
    for fault, planted in FAULTS.items():
        assert planted <= found, (fault.__name__, said(alerts[BROKEN]))
        errors = {(a.dataset, a.column, a.measure) for a in alerts[BROKEN] if a.severity == "error"}
        assert planted & errors, fault.__name__
    columns = {(dataset, column) for planted in FAULTS.values() for dataset, column, _ in planted}
    assert {(alert.dataset, alert.column) for alert in alerts[BROKEN]} == columns, said(alerts[BROKEN])
    metrics = CollectorRegistry()
    metrics.register(AlertMetrics(life.registry, DAY_US))
    kind = {"dataset": "click", "column": "", "measure": "rows", "severity": "error"}
    assert metrics.get_sample_value("dovetail_quality_alerts_total", kind) == 1
    end = metrics.get_sample_value("dovetail_quality_judged_timestamp_seconds", {"dataset": "click"})
    assert end == (START_US + (BROKEN + 1) * DAY_US) / 1e6


def test_when_all_producers_stop_the_clock_ends_the_window(clean: Week, tmp_path: Path) -> None:
    life = Life(tmp_path, clean)
    assert all(not alerts for _, alerts in life.days(last=BROKEN))
    life.at(START_US + (BROKEN + 1) * DAY_US + GRACE_US)
    alerts = [alert for verdict in life.live.look() for alert in verdict.alerts]
    assert {(alert.dataset, alert.measure) for alert in alerts} >= {(name, "rows") for name in clean.tables}


def test_windows_of_a_log_of_the_past_end_by_its_own_time(clean: Week, tmp_path: Path) -> None:
    life = Life(tmp_path, clean)
    for day, _ in life.days(last=3):
        life.at(START_US + 1_000 * DAY_US)
        life.live.look()
        judged = life.registry.windows.newest_judged()
        assert set(judged.values()) <= {START_US + day * DAY_US, START_US + (day - 1) * DAY_US}


def test_a_window_waits_until_the_archive_has_what_the_topic_held(clean: Week, tmp_path: Path) -> None:
    life = Life(tmp_path, clean)
    list(life.days(last=4))
    life.unread = 1
    assert [verdict for _, verdict in life.days(4, 5)] == [[]]
    judged = life.registry.windows.newest_judged()
    assert {each for name, each in judged.items() if name != TABLES} == {START_US + 3 * DAY_US}


def test_what_is_trained_on_is_compared_with_what_was_served(clean: Week, tmp_path: Path) -> None:
    """A share of what is served is trained on, by position: that is usual, and a column that is another is not."""
    served = clean.of("snapshots")
    low = np.flatnonzero(np.asarray(pc.fill_null(pc.less(served.column("position"), 6), False)))
    samples = served.take(pa.array(low)).append_column("label", pa.array(np.zeros(len(low), np.int8)))
    broken = np.asarray(samples.column("request_time").cast(pa.int64()).to_numpy() >= START_US + BROKEN * DAY_US)
    prices = pc.if_else(pa.array(broken), pc.multiply(samples.column("item_price"), 3.0), samples.column("item_price"))
    trained = with_column(samples, "item_price", prices)
    tables = {"snapshots": clean.tables["snapshots"], "samples": ("request_time", trained)}
    life = Life(tmp_path, replace(clean, tables=tables))
    alerts = dict(life.days(last=BROKEN + 2))
    assert {day: said(each) for day, each in alerts.items() if each and day <= BROKEN} == {}
    found = {(alert.dataset, alert.column, alert.measure) for alert in alerts[BROKEN + 1]}
    assert ("samples", "item_price", "skew") in found
    assert {(dataset, column) for dataset, column, _ in found} == {("samples", "item_price")}, said(alerts[BROKEN + 1])


NUMBERS = st.lists(st.one_of(st.none(), st.floats(width=32)), min_size=1, max_size=50)
TEXTS = st.lists(st.one_of(st.none(), st.text(max_size=3)), min_size=1, max_size=50)


@given(numbers=NUMBERS, texts=TEXTS, cut=st.integers(0, 50))
def test_a_sketch_in_parts_is_the_profile_of_the_rows(
    numbers: list[float | None], texts: list[str | None], cut: int
) -> None:
    size = min(len(numbers), len(texts))
    rows = pa.table(
        {"t": pa.array([0] * size, pa.timestamp("us")), "x": pa.array(numbers[:size], pa.float64()), "c": texts[:size]}
    ).cast(pa.schema([("t", pa.timestamp("us")), ("x", pa.float64()), ("c", pa.string())]))
    parts = [part for part in (rows.slice(0, cut), rows.slice(cut)) if part.num_rows]
    sketches = [s for part in parts for s in sketches_by_window(part, ["x", "c"], "t", window_us=10, most_rows=99)]
    assert sum(each.rows for each in sketches) == size
    whole = sketches[0].sketch if len(sketches) == 1 else merged_sketches(*(each.sketch for each in sketches))
    for found in (profiles_of_sketches("d", 0, [whole]), profiles_of_sketches("d", 0, [s.sketch for s in sketches])):
        for mine, exact in zip(found, profiles_of("d", ["x", "c"], rows, 0), strict=True):
            assert (mine.column, mine.kind, mine.rows, mine.null_share) == (
                exact.column, exact.kind, exact.rows, exact.null_share,
            )  # fmt: skip
            assert (mine.low, mine.high) == (exact.low, exact.high)
            assert dict(mine.histogram) == dict(exact.histogram)
            assert mine.distinct <= size


def test_what_is_approximate_is_so_within_what_is_said() -> None:
    rng = np.random.default_rng(5)
    values = np.exp(rng.normal(size=20_000) * 2)
    names = [f"name-{number}" for number in range(20_000)]
    rows = pa.table({"t": pa.array([0] * 20_000, pa.timestamp("us")), "x": values, "c": names})
    (sketch,) = sketches_by_window(rows, ["x", "c"], "t", window_us=10, most_rows=20_000)
    number, text = profiles_of_sketches("d", 0, [sketch.sketch])
    assert number.quantiles is not None
    assert number.quantiles == pytest.approx(np.quantile(values, (0.05, 0.25, 0.5, 0.75, 0.95)).tolist(), rel=0.1)
    for profile in (number, text):
        assert profile.distinct == pytest.approx(20_000, rel=0.4)
    few = pa.table({"t": rows.column("t"), "c": [f"{n % (SMALLEST - 1)}" for n in range(20_000)]})
    (sketch,) = sketches_by_window(few, ["c"], "t", window_us=10, most_rows=1_000)
    (profile,) = profiles_of_sketches("d", 0, [sketch.sketch])
    assert (sketch.rows, profile.rows, profile.distinct) == (20_000, 1_000, SMALLEST - 1)


def test_rows_are_sketched_with_their_files_or_not_at_all(tmp_path: Path, clean: Week) -> None:
    life = Life(tmp_path, clean)
    rows = clean.of("click").slice(0, 100)
    life.archive("click", rows)
    before = life.registry.windows.windows()
    sketch = life.live._datasets["click"].sketch
    assert sketch is not None
    with pytest.raises(StaleCommit):
        life.registry.commit(
            "archive.click", 0, expected=0, progress=Progress(100), accounts=[], windows=sketch(0, rows)
        )
    assert life.registry.windows.windows() == before
    assert sum(count for count, _ in before["click"].values()) == 100


def test_a_worker_sketches_what_it_archives(tmp_path: Path) -> None:
    write_project(tmp_path, TOML + '[quality]\nlive = true\nwindow = "1m"\n')
    run(tmp_path)
    stores = stores_of(tmp_path)
    windows = stores.registry.windows.windows()
    for name in ("behaviour", "requests", "exposure", "click", "snapshots", "samples"):
        archived = sum(file.rows for file in stores.registry.files(name))
        assert sum(rows for rows, _ in windows[name].values()) == archived > 0, name
    stores.close()
