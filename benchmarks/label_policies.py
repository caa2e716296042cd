"""What label policies and step sizes do to a model in a drifting world: numbers against the oracle, and a plot.

A simulated world, no claim about any real one: 200 items whose click rates drift, clicks that come after an exponential
delay. Every policy sees the same exposures; each prediction is made at the exposure, with what was known by then, and
judged by the oracle: whether a click ever came. Ids, seeds and sizes are fixed.
Run: ``python benchmarks/label_policies.py [plot.html]``.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from dovetail.trainer.delayed_labels import fnc_calibrated, fnw_weights
from dovetail.trainer.encoding import Encoded
from dovetail.trainer.evaluation import Evaluation
from dovetail.trainer.kernels import Float32
from dovetail.trainer.optimizers import Ftrl
from dovetail.trainer.plots import page, windows_charts

SEED = 5
EXPOSURES, ITEMS, CONTEXTS = 240_000, 200, 10
#: In exposures: label window, mean delay of a click, period of the drift, rows between two looks at the model.
WINDOW, DELAY, DRIFT, STEP = 12_000, 3_000, 120_000, 100
BITS = 9
ALPHAS = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4)


class World(NamedTuple):
    """Exposures in order; ``click_at`` is when the click comes, in exposures, or -1."""

    encoded: Encoded
    clicked: npt.NDArray[np.bool_]
    click_at: npt.NDArray[np.int64]


def world() -> World:
    """Each item's log-odds swing with a phase of its own; contexts shift them."""
    rng = np.random.default_rng(SEED)
    item, context = rng.integers(0, ITEMS, EXPOSURES), rng.integers(0, CONTEXTS, EXPOSURES)
    phase, level = rng.uniform(0, 2 * np.pi, ITEMS), rng.normal(-2.2, 0.6, ITEMS)
    swing = 1.2 * np.sin(2 * np.pi * np.arange(EXPOSURES) / DRIFT + phase[item])
    odds = level[item] + rng.normal(0, 0.4, CONTEXTS)[context] + swing
    clicked = rng.random(EXPOSURES) < 1 / (1 + np.exp(-odds))
    at = np.where(clicked, np.arange(EXPOSURES) + 1 + rng.exponential(DELAY, EXPOSURES).astype(np.int64), -1)
    slots = np.stack([item, ITEMS + context, np.full(EXPOSURES, (1 << BITS) - 1)], axis=1).astype(np.uint32)
    return World(Encoded(slots, np.ones(slots.shape, np.float32)), clicked, at)


class Sample(NamedTuple):
    """Samples of one policy: which exposure, its label, and when it is emitted, ascending."""

    row: npt.NDArray[np.int64]
    label: Float32
    at: npt.NDArray[np.int64]


def emitted(which: World, policy: str) -> Sample:
    """``oracle``: at once and right. ``delayed``: after the window. ``fast``: a negative at once, a positive later."""
    every = np.arange(EXPOSURES)
    clicked = which.clicked.astype(np.float32)
    if policy == "oracle":
        return Sample(every, clicked, every + 1)
    inside = which.clicked & (which.click_at - every <= WINDOW)
    if policy == "delayed":
        return Sample(every, inside.astype(np.float32), every + WINDOW)
    late = np.flatnonzero(inside)
    row = np.concatenate([every, late])
    label = np.concatenate([np.zeros(EXPOSURES, np.float32), np.ones(len(late), np.float32)])
    at = np.concatenate([every + 1, which.click_at[late]])
    order = np.argsort(at, kind="stable")
    return Sample(row[order], label[order], at[order])


def run(which: World, policy: str, lr_power: float, alpha: float) -> Evaluation:
    """Predict every exposure with the samples emitted before it, in steps of ``STEP``; judge by the oracle."""
    optimizer = Ftrl(alpha=alpha, lr_power=lr_power)
    records = optimizer.new_records(BITS)
    samples = emitted(which, policy.partition("+")[0])
    slots, values = which.encoded
    evaluation = Evaluation(20_000, 12)
    done = 0
    for start in range(0, EXPOSURES, STEP):
        due = int(np.searchsorted(samples.at, start, side="right"))
        rows, labels = samples.row[done:due], samples.label[done:due]
        done = due
        part = Encoded(np.ascontiguousarray(slots[rows]), np.ascontiguousarray(values[rows]))
        weights = np.ones(len(rows), np.float32)
        if policy.endswith("+fnw"):
            weights = fnw_weights(optimizer.train(records, part, labels, weights * 0), labels)
        optimizer.train(records, part, labels, weights)
        now = slice(start, start + STEP)
        truth = which.clicked[now].astype(np.float32)
        silent = np.zeros(STEP, np.float32)
        predictions = optimizer.train(records, Encoded(slots[now], values[now]), truth, silent)
        if policy.endswith("+fnc"):
            predictions = np.minimum(fnc_calibrated(predictions), np.float32(1 - 2.0**-22))
        evaluation.add(predictions, truth, silent + 1)
    return evaluation


def main() -> None:
    which = world()
    print(f"{EXPOSURES:,} exposures, {which.clicked.mean():.3f} clicked; window {WINDOW:,}, mean delay {DELAY:,}")
    print(
        f"{'policy':<10} {'lr_power':>8} {'log-loss':>9} {'AUC':>7} {'Σp/Σy':>7}   last quarter: log-loss, AUC, Σp/Σy"
    )
    series = []
    for lr_power in (-0.5, 0.0):
        # Each step rule with the step size that suits it best, by the oracle's total log-loss.
        alpha = min(ALPHAS, key=lambda a: run(which, "oracle", lr_power, a).total().log_loss or 9.0)
        print(f"lr_power {lr_power:g}: alpha {alpha:g}")
        for policy in ("oracle", "delayed", "fast", "fast+fnw", "fast+fnc"):
            evaluation = run(which, policy, lr_power, alpha)
            total, tail = evaluation.total(), evaluation.recent()[-3:]
            loss, auc, ratio = (
                sum(getattr(m, name) for m in tail) / len(tail) for name in ("log_loss", "auc", "calibration")
            )
            print(
                f"{policy:<10} {lr_power:>8} {total.log_loss:>9.4f} {total.auc:>7.4f} {total.calibration:>7.3f}   "
                f"{loss:.4f}, {auc:.4f}, {ratio:.3f}"
            )
            if policy in ("oracle", "delayed", "fast+fnw"):
                windows = [(f"time:{20 * n + 20:03d} k", m) for n, m in enumerate(evaluation.recent())]
                series.append((f"{policy} {lr_power:g}", windows))
    if len(sys.argv) > 1:
        Path(sys.argv[1]).write_text(page("label policies and lr_power under drift", windows_charts(series)), "utf-8")


if __name__ == "__main__":
    main()
