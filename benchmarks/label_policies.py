"""What label policies and step sizes do to a model in a drifting shop: numbers against the oracle, and plots.

The shop is the simulator that ``dovetail demo`` replays, and no claim about any real one: tastes move in a straight
line, the quality of items in a random walk. Every policy sees the same exposures; each prediction is made at the
exposure, with what had arrived by then, and judged by the oracle: whether a click ever came. Two tempers: clicks as
fast as the demo's, and clicks that take hours. Configurations and seeds are fixed, so the numbers are the same every
time. Run: ``python benchmarks/label_policies.py [FOLDER]``; with a folder, the plots are written there.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from dovetail.demo.logs.recorded import (
    HOUR_US,
    MINUTE_US,
    SECOND_US,
    RecordedLog,
)
from dovetail.demo.logs.simulator import SimulatorConfig, simulate
from dovetail.joiners.policies.fast_emit import fnw_weight
from dovetail.trainer.arithmetic import Float32
from dovetail.trainer.metrics.charts import Chart, reliability, windows_charts
from dovetail.trainer.metrics.measures import Metrics
from dovetail.trainer.metrics.plots import write_plots
from dovetail.trainer.metrics.progressive import Evaluation
from dovetail.trainer.optimizers import Ftrl
from dovetail.trainer.samples.encoding import Encoded, Encoder, InputSpec

Int64 = npt.NDArray[np.int64]

DAYS = 7
SIZE = SimulatorConfig(seed=5, days=DAYS, users=2_000, items=400, requests=40_000, candidates=20)
#: Name, median time to a click, label window: as in the demo, seconds and a quarter of an hour; hours and a day.
TEMPERS = (("fast", 40 * SECOND_US, 15 * MINUTE_US), ("slow", 3 * HOUR_US, 24 * HOUR_US))
#: The model is looked at, and samples that are due are trained on, so often.
STEP_US = 5 * MINUTE_US
BITS = 18
ALPHAS = (0.025, 0.05, 0.1, 0.2, 0.4, 0.8)
POLICIES = ("oracle", "delayed", "fast emit", "fast emit + FNW", "fast emit + FNC")
INPUTS = [
    *(InputSpec(name) for name in ("item_id", "category", "brand", "segment", "channel", "user_id")),
    InputSpec("position", "bucketed", tuple(float(position) for position in range(1, 11))),
    InputSpec("affinity", "bucketed", tuple(step / 2 for step in range(-6, 7))),
    InputSpec(kind="cross", columns=("segment", "category")),
    InputSpec(kind="cross", columns=("segment", "item_id")),
]


@dataclass(frozen=True)
class Shop:
    """Exposures in order of event time; times in microseconds."""

    encoded: Encoded
    shown_at: Int64
    clicked: Float32
    #: When the click's message arrived, -1 where there is none.
    click_at: Int64
    window_us: int


def shop(median_us: int, window_us: int) -> Shop:
    """The exposures of the simulator's log, each with its own click."""
    log = simulate(replace(SIZE, click_delay_us=median_us, label_window_us=window_us))
    keys = ["request_id", "item_id"]
    # A message that was sent twice counts once, when it first arrived.
    times = {
        kind: log.labels[kind].group_by(keys).aggregate([("event_time", "min"), ("arrival_time", "min")])
        for kind in ("exposure", "click")
    }
    clicks = times["click"].select([*keys, "arrival_time_min"]).rename_columns([*keys, "click_at"])
    table = times["exposure"].join(candidates(log), keys).join(clicks, keys)
    table = table.join(log.items.group_by("item_id").aggregate([("category", "min"), ("brand", "min")]), "item_id")
    table = table.rename_columns([name.removesuffix("_min") for name in table.column_names]).sort_by(
        [("event_time", "ascending"), ("request_id", "ascending"), ("item_id", "ascending")]
    )
    click_at = table.column("click_at").cast(pa.int64()).fill_null(-1).to_numpy()
    return Shop(
        Encoder(INPUTS, BITS).encode(table),
        table.column("event_time").cast(pa.int64()).to_numpy(),
        (click_at >= 0).astype(np.float32),
        click_at,
        window_us,
    )


def candidates(log: RecordedLog) -> pa.Table:
    """One row per candidate, with its request's columns."""
    nested = log.requests.column("candidates").combine_chunks()
    of = log.requests.select(["request_id", "user_id", "segment", "channel"]).take(pc.list_parent_indices(nested))
    for name in ("item_id", "position", "affinity"):
        of = of.append_column(name, pc.struct_field(nested.flatten(), name))
    return of


def emitted(which: Shop, policy: str) -> tuple[Int64, Float32, Int64]:
    """Samples in the order they are emitted in: which exposure, its label, and when."""
    every = np.arange(len(which.shown_at))
    if policy == "oracle":
        return every, which.clicked, which.shown_at
    inside = (which.click_at >= 0) & (which.click_at - which.shown_at <= which.window_us)
    if policy == "delayed":
        return every, inside.astype(np.float32), which.shown_at + which.window_us
    late = np.flatnonzero(inside)
    rows = np.concatenate([every, late])
    labels = np.concatenate([np.zeros(len(every), np.float32), np.ones(len(late), np.float32)])
    at = np.concatenate([which.shown_at, which.click_at[late]])
    order = np.argsort(at, kind="stable")
    return rows[order], labels[order], at[order]


def run(which: Shop, policy: str, lr_power: float, alpha: float) -> Float32:
    """The prediction of every exposure by a model of the samples emitted before its step."""
    optimizer = Ftrl(alpha=alpha, lr_power=lr_power)
    records = optimizer.new_records(BITS)
    rows, labels, at = emitted(which, policy)
    slots, values = which.encoded
    predictions = np.empty(len(slots), np.float32)
    steps = np.arange(which.shown_at[0], which.shown_at[-1] + STEP_US, STEP_US)
    seen = np.searchsorted(which.shown_at, steps)
    due = np.searchsorted(at, steps)
    silent = np.zeros(len(slots), np.float32)
    for number in range(len(steps)):
        first, last = seen[number], seen[number + 1] if number + 1 < len(steps) else len(slots)
        part = rows[due[number - 1] if number else 0 : due[number]]
        sample = Encoded(slots[part], values[part])
        label = labels[due[number - 1] if number else 0 : due[number]]
        weights = np.ones(len(part), np.float32)
        if policy.endswith("FNW"):
            weights = fnw_weight(optimizer.train(records, sample, label, silent[: len(part)]), label)
        optimizer.train(records, sample, label, weights)
        none = silent[: last - first]
        predictions[first:last] = optimizer.train(records, Encoded(slots[first:last], values[first:last]), none, none)
    if policy.endswith("FNC"):
        predictions = np.minimum(fnc_calibrated(predictions), np.float32(1 - 2.0**-22))
    return predictions


def fnc_calibrated(biased: Float32) -> Float32:
    """What a model of unweighted fast-emitted samples means, p = b / (1 - b), 1 from b = 1/2 on; float32 [n]."""
    b = np.minimum(biased, np.float32(0.5))
    calibrated: Float32 = (b / (1 - b)).astype(np.float32)
    return calibrated


def judged(which: Shop, predictions: Float32, rows: slice = slice(None)) -> Metrics:
    """By whether a click ever came."""
    evaluation = Evaluation()
    evaluation.add(predictions[rows], which.clicked[rows], np.ones(len(predictions), np.float32)[rows])
    return evaluation.total()


def daily(which: Shop) -> str:
    """The share of exposures clicked, by day."""
    day = np.minimum((which.shown_at - SIZE.start_us) // (24 * HOUR_US), DAYS - 1)
    return " ".join(f"{which.clicked[day == number].mean():.3f}" for number in range(DAYS))


def by_day(which: Shop, predictions: Float32) -> list[tuple[str, Metrics]]:
    """Metrics of each day but the first, on which ``delayed`` may have no samples; what is after the last is its."""
    day = np.minimum((which.shown_at - SIZE.start_us) // (24 * HOUR_US), DAYS - 1)
    edges = np.searchsorted(day, np.arange(DAYS + 1))
    return [
        (f"time:day {number + 1}", judged(which, predictions, slice(low, high)))
        for number, (low, high) in enumerate(pairwise(edges))
        if number > 0
    ]


def report(name: str, which: Shop, predictions: Float32) -> None:
    """One line: all days, and the second half of them, in which even ``delayed`` has long had samples."""
    half = int(np.searchsorted(which.shown_at, SIZE.start_us + DAYS * 12 * HOUR_US))
    cells = [
        f"{m.log_loss:.4f}  {m.auc:.4f}  {m.calibration:.3f}"
        for m in (judged(which, predictions), judged(which, predictions, slice(half, None)))
    ]
    print(f"{name:<18} {'   |  '.join(cells)}")


def main() -> None:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else None
    for temper, median_us, window_us in TEMPERS:
        which = shop(median_us, window_us)
        late = ((which.click_at - which.shown_at) > window_us)[which.clicked > 0].mean()
        print(
            f"{temper} clicks: {len(which.clicked):,} exposures in {DAYS} days, {which.clicked.mean():.3f} clicked, "
            f"after {median_us / MINUTE_US:.1f} min in the median, {late:.1%} after the window of "
            f"{window_us / HOUR_US:.2f} h; clicked by day: {daily(which)}"
        )
        print(f"{'':<18} log-loss AUC   Σp/Σy    |  the same in the second half")
        best: dict[float, float] = {}
        for lr_power in (-0.5, 0.0):
            # Each rule with the step size that suits it best, by the oracle's log-loss over all days.
            losses = {a: judged(which, run(which, "oracle", lr_power, a)).log_loss or 9.0 for a in ALPHAS}
            best[lr_power] = min(losses, key=losses.__getitem__)
            print(f"lr_power {lr_power:g}: " + ", ".join(f"alpha {a:g} {loss:.4f}" for a, loss in losses.items()))
        runs: dict[str, Float32] = {}
        for lr_power in (-0.5, 0.0):
            print(f"lr_power {lr_power:g}, alpha {best[lr_power]:g}")
            for policy in POLICIES:
                runs[f"{policy}, {lr_power:g}"] = run(which, policy, lr_power, best[lr_power])
                report(policy, which, runs[f"{policy}, {lr_power:g}"])
        if folder is not None:
            draw(folder, temper, which, runs)


def draw(folder: Path, temper: str, which: Shop, runs: dict[str, Float32]) -> None:
    """The two rules on true labels, which no temper changes; the policies with ``lr_power`` -0.5."""
    rules = [(f"lr_power {power}", by_day(which, runs[f"oracle, {power}"])) for power in ("-0.5", "0")]
    write_plots(folder / "lr-power.svg", "lr_power on true labels, from day 2", windows_charts(rules))
    charts = windows_charts([(policy, by_day(which, runs[f"{policy}, -0.5"])) for policy in POLICIES])
    half = int(np.searchsorted(which.shown_at, SIZE.start_us + DAYS * 12 * HOUR_US))
    ones = np.ones(len(which.clicked) - half, np.float32)
    lines = [reliability(p, runs[f"{p}, -0.5"][half:], which.clicked[half:], ones, groups=10) for p in POLICIES]
    charts.append(Chart("observed rate over mean prediction, second half", lines, diagonal=True))
    write_plots(folder / f"label-policies-{temper}.svg", f"label policies, {temper} clicks, from day 2", charts)


if __name__ == "__main__":
    main()
