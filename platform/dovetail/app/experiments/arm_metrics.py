"""The arms of an experiment on the archived samples: what each came to, and how it differs from the control."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dovetail.app.storage import Stores
from dovetail.platform.config.served.experiments import ExperimentConfig
from dovetail.trainer.arithmetic import Float64, Int64
from dovetail.trainer.metrics.sequences import half_width, rate_of, sums_of

__all__ = ["METRICS", "ArmTotals", "Difference", "ExperimentReport", "experiment_report", "report_of", "request_aucs"]

#: The metrics of an arm: positives per sample, log-loss of the scores that were served, and AUC by request.
METRICS = ("click_rate", "log_loss", "gauc")
_READ = ("experiment", "arm", "arm_draw", "request_id", "score", "label", "weight", "model_version")
#: A probability of exactly 0 or 1 has no log-loss.
_LEAST = 1e-7


class ArmTotals(NamedTuple):
    """One arm: how much there is of it, the versions that scored it, and its metrics; None where there is none."""

    arm: str
    users: int
    requests: int
    samples: int
    versions: Sequence[int]
    metrics: dict[str, float | None]


class Difference(NamedTuple):
    """An arm's metric less the control's, with the bounds of its confidence sequence.

    ``verdict`` is ``better``, ``worse``, ``undecided``, or ``too few users`` with no bounds.
    """

    arm: str
    metric: str
    difference: float | None
    low: float | None
    high: float | None
    verdict: str


class ExperimentReport(NamedTuple):
    """An experiment: ``metric`` is what the verdict is about, at ``level``, the chance of a wrong one for each arm.

    ``moved`` is the number of users that were in more than one arm.
    """

    name: str
    metric: str
    level: float
    control: str
    moved: int
    arms: Sequence[ArmTotals]
    differences: Sequence[Difference]

    def to_json(self) -> dict[str, Any]:
        """All of it, as the command prints it."""
        arms = [arm._asdict() for arm in self.arms]
        return {**self._asdict(), "arms": arms, "differences": [each._asdict() for each in self.differences]}

    @property
    def decided(self) -> bool:
        """Whether some arm is better or worse than the control."""
        return any(self.verdict(arm.arm) in ("better", "worse") for arm in self.arms)

    def verdict(self, arm: str) -> str:
        """The verdict on ``arm`` by the metric that it is about."""
        return next((d.verdict for d in self.differences if (d.arm, d.metric) == (arm, self.metric)), "undecided")


def experiment_report(stores: Stores, name: str, declared: ExperimentConfig) -> ExperimentReport:
    """Measure the arms that the archived samples bear; a sample counts in the arm that was recorded.

    A user is a draw. Rates are sums over sums, weights included; their variances go by users. The sequences are at
    ``alpha`` over the number of arms beside the control. Samples of the experiment are held in memory.

    Raises:
        StoreError: a registered file is gone or cannot be read.
    """
    return report_of(_samples(stores, name), name, declared)


def report_of(samples: pa.Table, name: str, declared: ExperimentConfig) -> ExperimentReport:
    """:func:`experiment_report` of the samples of the experiment."""
    found = samples.column("arm").to_numpy(zero_copy_only=False)
    users = samples.column("arm_draw").to_numpy()
    arms = list(dict.fromkeys([*declared.arms, *sorted({*found.tolist()} - {*declared.arms})]))
    totals, sums, seen = [], {}, 0
    for arm in arms:
        mine = samples.filter(pa.array(found == arm))
        sums[arm] = _sums(mine)
        there = len(np.unique(users[found == arm]))
        seen += there
        rates = {metric: float(rate_of(each)[0]) for metric, each in sums[arm].items()}
        totals.append(
            ArmTotals(
                arm,
                there,
                pc.count_distinct(mine.column("request_id")).as_py(),
                mine.num_rows,
                sorted(pc.unique(mine.column("model_version")).to_pylist()),
                {metric: rate if np.isfinite(rate) else None for metric, rate in rates.items()},
            )
        )
    control, *others = declared.arms
    level = declared.alpha / len(others)
    differences = [
        _difference(arm, metric, sums[control][metric], sums[arm][metric], declared, level)
        for arm in others
        for metric in METRICS
    ]
    return ExperimentReport(
        name, declared.metric, level, control, seen - len(np.unique(users)), totals, differences
    )  # fmt: skip


def _difference(
    arm: str, metric: str, control: Float64, treated: Float64, declared: ExperimentConfig, level: float
) -> Difference:
    (before, after), (noise, more) = rate_of(np.stack([control, treated]))
    if min(control[0], treated[0]) < declared.min_users or not noise + more > 0:
        apart = float(after - before)
        return Difference(arm, metric, apart if np.isfinite(apart) else None, None, None, "too few users")
    together = float(rate_of(control + treated)[0])
    apart, half = float(after - before), float(half_width(noise + more, declared.effect * together, level))
    low, high = apart - half, apart + half
    better, worse = (high < 0, low > 0) if metric == "log_loss" else (low > 0, high < 0)
    return Difference(arm, metric, apart, low, high, "better" if better else "worse" if worse else "undecided")


def _sums(samples: pa.Table) -> dict[str, Float64]:
    label, weight, score = (samples.column(c).to_numpy().astype(np.float64) for c in ("label", "weight", "score"))
    _, user = np.unique(samples.column("arm_draw").to_numpy(), return_inverse=True)
    p = np.clip(score, _LEAST, 1 - _LEAST)
    request = samples.column("request_id").combine_chunks().dictionary_encode().indices.to_numpy().astype(np.int64)
    auc, size, first = request_aucs(request, score, label > 0)
    loss = -np.where(label > 0, np.log(p), np.log1p(-p))
    return {
        "click_rate": _of_users(user, weight * (label > 0), weight),
        "log_loss": _of_users(user, weight * loss, weight),
        "gauc": _of_users(user[first], auc * size, size),
    }


def _of_users(user: Int64, over: Float64, under: Float64) -> Float64:
    y, n = (np.bincount(user, values) if len(user) else np.zeros(0) for values in (over, under))
    return sums_of(y[n > 0], n[n > 0])


def request_aucs(request: Int64, score: Float64, positive: np.ndarray) -> tuple[Float64, Float64, Int64]:
    """AUC, samples and first row of each request that has both classes; a tied pair counts half.

    ``request`` int64 [n] names the rows' requests, ``score`` float64 [n], ``positive`` bool [n].
    """
    order = np.lexsort((score, request))
    of, s, y = request[order], score[order], positive[order].astype(np.float64)
    rows = np.arange(len(of))
    begins = np.r_[True, of[1:] != of[:-1]][: len(of)]
    ties = begins | np.r_[True, s[1:] != s[:-1]][: len(of)]
    starts, steps = np.flatnonzero(begins), np.flatnonzero(ties)
    group, step = np.cumsum(begins) - 1, np.cumsum(ties) - 1
    middle = (steps + np.r_[steps[1:], len(of)][: len(steps)] - 1) / 2
    rank = middle[step] - starts[group] + 1 if len(of) else rows.astype(np.float64)
    size = np.bincount(group, minlength=len(starts)).astype(np.float64)
    positives = np.bincount(group, y, minlength=len(starts))
    ranks = np.bincount(group, y * rank, minlength=len(starts))
    both = (positives > 0) & (positives < size)
    pairs = positives * (size - positives)
    auc = (ranks[both] - positives[both] * (positives[both] + 1) / 2) / pairs[both]
    return auc, size[both], order[starts[both]]


def _samples(stores: Stores, name: str) -> pa.Table:
    parts = []
    for file in stores.registry.files("samples"):
        with stores.offline.open(file.path) as parquet:
            if {*_READ} <= {*parquet.schema_arrow.names}:
                rows = parquet.read(list(_READ))
                parts.append(rows.filter(pc.fill_null(pc.equal(rows.column("experiment"), name), False)))
    if not parts:
        return pa.table({
            **{column: pa.array([], pa.string()) for column in ("experiment", "arm", "request_id")},
            **{column: pa.array([], pa.float64()) for column in ("arm_draw", "score", "label", "weight")},
            "model_version": pa.array([], pa.int64()),
        })  # fmt: skip
    return pa.concat_tables(parts, promote_options="permissive")
