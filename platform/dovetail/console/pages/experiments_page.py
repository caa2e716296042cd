"""The page of experiments: each with its arms, how they differ from the control, the verdict, and how it came about."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from dovetail.app.experiments.arm_metrics import METRICS, experiment_report
from dovetail.app.reports.verdict_log import GivenVerdict, given_verdicts, kind_of_experiment
from dovetail.console.chart_figures import ShownChart, shown_chart
from dovetail.console.looked import Looked
from dovetail.platform.clock import moment_of
from dovetail.platform.config.served.experiments import ExperimentConfig
from dovetail.trainer.metrics.charts import Chart, ChartLine

__all__ = ["ShownExperiment", "experiments_page"]

#: So many archived samples, in so many files, are measured while a page is waited for, in 0.15 s of a processor; they
#: are read once for each experiment.
_MEASURED, _FILES = 100_000, 40
_HISTORY = 200


class ShownExperiment(NamedTuple):
    """An experiment with what its samples say; None where nobody has measured them.

    ``at_us`` is when they were measured, None for now. ``given`` are the reports that were logged, the newest first.
    """

    name: str
    declared: ExperimentConfig
    report: Mapping[str, Any] | None
    at_us: int | None
    given: Sequence[GivenVerdict]
    charts: Sequence[ShownChart]


def experiments_page(looked: Looked) -> dict[str, Any]:
    """Every experiment that is declared, the running one first.

    Where the archive has few samples they are measured now, and else the last report that was logged is told.
    """
    declared = looked.project.config.experiments
    files = looked.stores.registry.files("samples")
    rows = sum(file.rows for file in files)
    few = len(files) * len(declared) <= _FILES and rows * len(declared) <= _MEASURED
    ordered = sorted(declared, key=lambda name: not declared[name].active)
    return {"experiments": [_shown(looked, name, declared[name], few) for name in ordered], "metrics": METRICS}


def _shown(looked: Looked, name: str, declared: ExperimentConfig, few: bool) -> ShownExperiment:
    given = given_verdicts(looked.stores.registry, kind_of_experiment(name), _HISTORY)
    report, at_us = (dict(given[0].report), given[0].at_us) if given else (None, None)
    if few:
        report, at_us = experiment_report(looked.stores, name, declared).to_json(), None
    return ShownExperiment(name, declared, report, at_us, given, _charts(given))


def _charts(given: Sequence[GivenVerdict]) -> list[ShownChart]:
    """Of each arm's difference by the metric of the verdict, its confidence sequence over the logged reports."""
    if len(given) < 2:
        return []
    about = given[0].report["metric"]
    ordered = given[::-1]
    ticks = [(float(n), moment_of(each.at_us).strftime("%m-%d %H:%M")) for n, each in enumerate(ordered)]
    found: dict[str, dict[float, Mapping[str, Any]]] = {}
    for number, each in enumerate(ordered):
        for difference in each.report["differences"]:
            if difference["metric"] == about:
                found.setdefault(difference["arm"], {})[float(number)] = difference
    charts = []
    for arm, at in found.items():
        bounds = (("difference", "difference"), ("lower bound", "low"), ("upper bound", "high"))
        lines = [ChartLine(title, list(at), [each[key] for each in at.values()]) for title, key in bounds]
        title = f"{about.replace('_', ' ')} of {arm} less that of {given[0].report['control']}"
        charts.append(shown_chart(Chart(title, lines, ticks)))
    return charts
