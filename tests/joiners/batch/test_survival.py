"""The product-limit estimate gives the numbers that are published for it, and the plain shares where all is known."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dovetail.joiners.batch.label_delays import sample_waits
from dovetail.joiners.batch.survival import kaplan_meier
from tests.generated import tries

# Weeks of remission with 6-mercaptopurine (Freireich et al. 1963), negative where it went on when last seen; the
# estimates are those of Cox and Oakes, "Analysis of Survival Data" (1984).
REMISSION = np.array([6, 6, 6, -6, 7, -9, 10, -10, -11, 13, 16, -17, -19, -20, 22, 23, -25, -32, -32, -34, -35])
PUBLISHED = {
    6: (0.857, 0.0764), 7: (0.807, 0.0869), 10: (0.753, 0.0963), 13: (0.690, 0.1068),
    16: (0.627, 0.1141), 22: (0.538, 0.1282), 23: (0.448, 0.1346),
}  # fmt: skip


def test_published_numbers() -> None:
    weeks, ended = np.abs(REMISSION), REMISSION > 0
    curve = kaplan_meier(np.where(ended, weeks, -1), np.where(ended, 40, weeks), 40)
    assert curve.times.tolist() == list(PUBLISHED)
    assert curve.at_risk.tolist() == [21, 17, 15, 12, 11, 7, 6]
    deviations = curve.survival * np.sqrt(curve.greenwood)
    for number, (survival, deviation) in enumerate(PUBLISHED.values()):
        assert curve.survival[number] == pytest.approx(survival, abs=5e-4)
        assert deviations[number] == pytest.approx(deviation, abs=5e-5)


@settings(max_examples=tries(25), deadline=None)
@given(st.lists(st.one_of(st.just(-1), st.integers(0, 60)), min_size=1, max_size=80), st.integers(1, 50))
def test_without_young_rows_it_is_counting(delays: list[int], horizon: int) -> None:
    rows = np.array(delays)
    curve = kaplan_meier(rows, np.full(len(rows), 100), horizon)
    known = rows[(rows >= 0) & (rows <= horizon)]
    assert curve.happened == pytest.approx(len(known) / len(rows))
    assert curve.events.sum() == len(known)
    if not len(known):
        assert (curve.caught(5), curve.caught_interval(5), curve.within(0.5)) == (None, None, None)
        return
    for time in (0, 5, horizon):
        share = (known <= time).mean()
        assert curve.caught(time) == pytest.approx(share)
        interval = curve.caught_interval(time)
        assert interval is not None
        assert interval[0] - 1e-9 <= share <= interval[1] + 1e-9
    assert curve.within(0.5) == np.quantile(known, 0.5, method="inverted_cdf")


def test_a_sample_waits_for_the_slowest_partition_and_for_no_silent_one() -> None:
    """Partition 0 has an event every 10, partition 1 none after 100 until 1,000; it is spoken for after 50."""
    times = [*range(0, 1001, 10), 0, 50, 100, 1000]
    log = pa.table(
        {
            "event_time": pa.array(times, pa.timestamp("us")),
            "_partition": pa.array([0] * 101 + [1] * 4, pa.int32()),
        }
    )
    asked = np.array([0, 33, 75, 300, 990])
    waits = sample_waits(asked, 20, {"click": log}, allowed_lateness_us=5, idle_timeout_us=50)
    # Due at 25, 58, 100, 325 and 1015, after the last label; the log has 50, 100, 100, and 330 in partition 0.
    assert waits.tolist() == [50, 67, 25, 30]
