"""``dovetail evaluate``: a stored model on stored samples; nothing is trained."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from dovetail.app.jobs import day_engine
from dovetail.cli.models.report import metrics_dict, print_metrics
from dovetail.cli.models.samples import find_model, find_samples, label_of, project_config
from dovetail.cli.output import print_json, terminal
from dovetail.features.plan.reserved import OF_EXPERIMENTS
from dovetail.platform.config.features import BatchConfig
from dovetail.trainer.arithmetic import Float32, Float64
from dovetail.trainer.metrics.charts import Chart, reliability, windows_charts
from dovetail.trainer.metrics.groups import Groups
from dovetail.trainer.metrics.measures import Metrics, exact_auc
from dovetail.trainer.metrics.plots import write_plots
from dovetail.trainer.metrics.progressive import Evaluation
from dovetail.trainer.metrics.rankings import RankingPolicy, Rankings, scoped_metrics
from dovetail.trainer.models.scorer import predict_with
from dovetail.trainer.samples.encoding import Encoder
from dovetail.trainer.samples.holdout import COLUMN as HELD_OUT
from dovetail.trainer.samples.holdout import NOTHING_HELD_OUT, Holdout
from dovetail.trainer.samples.label_columns import labels_and_weights

__all__ = ["Evaluated", "evaluate_model", "run"]


# Farther than any two samples are apart.
_EVERYWHERE = 2**62
#: Columns that predictions are judged by, beside the label.
_JUDGED_BY = ("weight", "request_id", "request_time")


class Evaluated(NamedTuple):
    """A model's metrics on samples it has not been trained on by this command."""

    version: int
    total: Metrics
    groups: list[tuple[str, Metrics]]
    predictions: Float32
    labels: Float32
    weights: Float32


@dataclass(frozen=True, slots=True)
class _Predict:
    """Predicts the tables of a part of samples, wherever it is called; of their columns it keeps those named."""

    encoder: Encoder
    weights: Float32
    moments: Float64
    kept: Sequence[str]

    def __call__(self, part: Callable[[], Iterable[pa.Table]]) -> list[tuple[pa.Table, Float32]]:
        return [
            (
                table.select([name for name in table.column_names if name in self.kept]),
                predict_with(self.encoder, self.weights, self.moments, table),
            )
            for table in part()
        ]


def evaluate_model(
    project: Path,
    name: str | None,
    samples: Sequence[str],
    *,
    format_: str = "parquet",
    slices: Sequence[str] = (),
    window_us: int = 3_600_000_000,
    first: str | None = None,
    last: str | None = None,
    at: int = 10,
    engine: str | None = None,
    master: str | None = None,
    scene: str = "",
) -> Evaluated:
    """Predict all samples with one model; AUC in ``total`` is exact.

    ``engine`` and ``master`` instead of those of ``[batch]``: where rows are read and predicted, a file at a time. What
    they are judged by is brought here, and added up in the order of the files, so that no number depends on it.
    Where samples have a ``request_id``, all samples of a request are ranked, wherever they stand; k is ``at``.

    Raises:
        ConfigError, ModelError, WireError: what is named cannot be found or does not fit.
    """
    config = project_config(project, scene=scene)
    _, version, model, encoder = find_model(config, name)
    found = find_samples(config, samples, format_=format_, first=first, last=last)
    evaluation = Evaluation(loss=encoder.loss)
    label, absent = label_of(config)
    groups, rankings = Groups(loss=encoder.loss), Rankings(RankingPolicy(), evaluation, Groups())
    columns: list[tuple[Float32, Float32, Float32]] = []
    dense = model.dense()
    holdout = NOTHING_HELD_OUT
    predict = _Predict(encoder, dense, model.moments, (label, *_JUDGED_BY, *slices))
    batch = BatchConfig() if config is None else config.batch
    with day_engine(batch, engine, master) as work:
        for file in work.each(predict, found.parts()):
            for given, predictions in file:
                if not columns:
                    known = "request_id" if "request_id" in given.column_names else None
                    if known is not None and config is not None and config.model is not None:
                        holdout = Holdout.of(config.model.evaluation.holdout)
                    timed = "request_time" if "request_time" in given.column_names else None
                    by = list(dict.fromkeys([*slices, *([HELD_OUT] if holdout.share else [])]))
                    groups = Groups(
                        time=timed,
                        window_us=window_us,
                        windows=1000,
                        slices=by,
                        loss=encoder.loss,
                        optional=OF_EXPERIMENTS,
                    )
                    rankings = Rankings(RankingPolicy(known, at, _EVERYWHERE), evaluation, groups)
                table, _ = holdout.mark(given)
                weight = "weight" if "weight" in table.column_names else None
                labels, weights = labels_and_weights(table, label, weight, absent)
                first_row = evaluation.samples
                evaluation.add(predictions, labels, weights)
                places = groups.add(table, predictions, labels, weights)
                rankings.add(table, first_row, predictions, labels, places)
                columns.append((predictions, labels, weights))
    empty = np.empty(0, np.float32)
    arrays = [np.concatenate([empty, *parts]) for parts in zip(*columns, strict=True)] or [empty] * 3
    (_, total), _, *by_scope = scoped_metrics(evaluation, groups, rankings)
    if encoder.loss == "logistic":
        exact = exact_auc(arrays[0], arrays[1], arrays[2])
        total = replace(total, auc=exact, auc_error=None if exact is None else 0.0)
    return Evaluated(version, total, by_scope, arrays[0], arrays[1], arrays[2])


def run(
    project: Path, name: str | None, samples: Sequence[str], *, as_json: bool, plot: Path | None, **choices: Any
) -> int:
    """Evaluate, show, and draw if asked."""
    result = evaluate_model(project, name, samples, **choices)
    if plot is not None:
        charts = windows_charts([(f"version {result.version}", [g for g in result.groups if g[0].startswith("time:")])])
        line = reliability(f"version {result.version}", result.predictions, result.labels, result.weights)
        what = "observed rate" if result.total.rmse is None else "mean label"
        charts.append(Chart(f"reliability: {what} over mean prediction", [line], diagonal=True))
        write_plots(plot, f"model version {result.version}", charts)
    if as_json:
        groups = {scope: metrics_dict(metrics) for scope, metrics in result.groups}
        print_json({"version": result.version, "total": metrics_dict(result.total), "groups": groups})
        return 0
    console = terminal()
    rows = [("total (AUC exact)" if result.total.rmse is None else "total", result.total), *result.groups]
    print_metrics(console, f"model version {result.version}", rows)
    if plot is not None:
        console.print(f"plots: {plot}")
    return 0
