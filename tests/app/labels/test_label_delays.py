"""How long labels take is found again in the simulator, whose delays are configured."""

from __future__ import annotations

import math

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from dovetail.app.reports.label_delay_report import KindDelays, LabelDelays, measured_delays
from dovetail.demo.logs.recorded import ARRIVAL, MINUTE_US, SECOND_US
from dovetail.demo.logs.simulator import SimulatorConfig, simulate
from dovetail.features import Project, load
from dovetail.platform.errors import ConfigError
from tests.places import ROOT

SIMULATED = SimulatorConfig(requests=30_000, candidates=10, items=60, users=500)
Archive = tuple[Project, pa.Table, dict[str, pa.Table]]


@pytest.fixture(scope="module")
def archive() -> Archive:
    """A simulated shop's snapshots and label logs as a worker archives them, in order of arrival."""
    log = simulate(SIMULATED)
    requests = log.requests
    counts = pc.list_value_length(requests.column("candidates"))
    rows = np.repeat(np.arange(requests.num_rows), counts.to_numpy())
    candidates = pc.list_flatten(requests.column("candidates")).combine_chunks()
    snapshots = requests.select(["request_id", "request_time", "channel"]).take(pa.array(rows))
    snapshots = snapshots.append_column("item_id", pc.struct_field(candidates, "item_id"))
    logs = {}
    for kind, labels in log.labels.items():
        arrived = labels.sort_by(ARRIVAL)
        at = np.arange(arrived.num_rows)
        places = {"_partition": at % 2, "_offset": at // 2, "_row": at * 0}
        for name, values in places.items():
            arrived = arrived.append_column(name, pa.array(values, pa.int64()))
        logs[kind] = arrived
    return load(ROOT), snapshots, logs


def of(found: LabelDelays, kind: str, name: str = "") -> KindDelays:
    return next(each for each in found.kinds if (each.kind, each.slice) == (kind, name))


def share_within(us: int) -> float:
    """The share of clicks that the simulator lets come within so long after the impression."""
    z = math.log(us / SIMULATED.click_delay_us) / SIMULATED.click_delay_sigma
    return 0.5 * (1 + math.erf(z / math.sqrt(2)))


def test_the_configured_delay_is_found(archive: Archive) -> None:
    window = 15 * MINUTE_US
    click = of(measured_delays(*archive, since="exposure", windows_us=[window]), "click")
    assert click.quantiles[0.5] == pytest.approx(SIMULATED.click_delay_us, rel=0.05)
    cost = next(each for each in click.windows if each.window_us == window)
    assert cost.caught == pytest.approx(share_within(window), abs=0.005)
    # Labels that come late count late, which the simulator's curve leaves out and the interval does not.
    assert cost.low < cost.caught < cost.high < cost.low + 0.01
    assert (cost.wait_us, click.recommended_us) == (None, None)
    assert click.share == pytest.approx(SIMULATED.click_rate, rel=0.05)


def test_young_requests_do_not_shorten_the_delay(archive: Archive) -> None:
    """Of the first minutes alone most rows are young, and a count of labels over rows is too low."""
    project, snapshots, logs = archive
    first = pc.min(snapshots.column("request_time")).cast(pa.int64()).as_py()
    cut = pa.scalar(first + 20 * MINUTE_US, pa.timestamp("us"))
    young = snapshots.filter(pc.less(snapshots.column("request_time"), cut))
    known = {kind: log.filter(pc.less(log.column("event_time"), cut)) for kind, log in logs.items()}
    assert 500 < young.num_rows < 5_000
    found = of(measured_delays(project, young, known, horizon_us=10 * MINUTE_US), "click")
    naive = known["click"].num_rows / known["exposure"].num_rows
    assert found.share > naive
    later = of(measured_delays(project, snapshots, logs, horizon_us=10 * MINUTE_US), "click")
    assert later.labels > 5_000
    assert found.labels < 300


def test_a_window_is_recommended_and_costs_what_the_clocks_say(archive: Archive) -> None:
    project = archive[0]
    found = measured_delays(*archive, wanted=0.9)
    click = of(found, "click")
    assert click.needed_us is not None
    assert 2 * MINUTE_US < click.needed_us <= 10 * MINUTE_US
    assert click.recommended_us == 10 * MINUTE_US
    costs = {cost.window_us: cost for cost in click.windows}
    assert {click.recommended_us, *project.config.labels.horizons_us} <= costs.keys()
    caught = [costs[window].caught for window in sorted(costs)]
    assert caught == sorted(caught)
    assert costs[click.recommended_us].caught >= 0.9
    for window, cost in costs.items():
        assert cost.wait_us is not None
        assert cost.wait_95_us is not None
        least = window + project.config.labels.allowed_lateness
        # Orders are rare, so their partitions' clocks are behind; at night they are spoken for.
        assert least <= cost.wait_us <= cost.wait_95_us <= least + project.config.labels.idle_timeout


def test_slices_are_the_rows_of_their_value(archive: Archive) -> None:
    project, snapshots, logs = archive
    found = measured_delays(*archive, slices=["channel"], since="exposure")
    sliced = [each for each in found.kinds if each.kind == "click" and each.slice]
    assert [each.slice for each in sliced] == ["channel=app", "channel=web", "channel=mail"]
    whole = of(found, "click")
    assert sum(each.rows for each in sliced) == whole.rows
    assert sum(each.labels for each in sliced) == whole.labels
    mail = snapshots.filter(pc.equal(snapshots.column("channel"), "mail"))
    alone = of(measured_delays(project, mail, logs, since="exposure", horizon_us=whole.horizon_us), "click")
    by_slice = of(found, "click", "channel=mail")
    assert (alone.rows, alone.labels, alone.quantiles) == (by_slice.rows, by_slice.labels, by_slice.quantiles)


def test_an_order_is_measured_from_its_click(archive: Archive) -> None:
    conversion = of(measured_delays(*archive, since="click"), "conversion")
    assert conversion.share == pytest.approx(SIMULATED.conversion_rate, abs=0.02)
    assert conversion.quantiles[0.5] == pytest.approx(20 * MINUTE_US, rel=0.1)
    exposed = of(measured_delays(*archive), "exposure")
    assert exposed.rows <= archive[1].num_rows
    assert exposed.quantiles[0.5] < 2 * SECOND_US


def test_refusals(archive: Archive) -> None:
    project, snapshots, logs = archive
    with pytest.raises(ConfigError, match=r"--share 1\.5: write the share of labels to catch"):
        measured_delays(*archive, wanted=1.5)
    with pytest.raises(ConfigError, match="--horizon: give a duration above 0"):
        measured_delays(*archive, horizon_us=0)
    with pytest.raises(ConfigError, match="--since view: no such kind of label; write request, or one of exposure, cl"):
        measured_delays(*archive, since="view")
    with pytest.raises(ConfigError, match="--slice brand: snapshots have no such column"):
        measured_delays(*archive, slices=["brand"])
    with pytest.raises(ConfigError, match="--slice item_id: nearly every row has another"):
        measured_delays(*archive, slices=["item_id"])
    with pytest.raises(ConfigError, match="no snapshot is archived yet"):
        measured_delays(project, snapshots.slice(0, 0), logs)
