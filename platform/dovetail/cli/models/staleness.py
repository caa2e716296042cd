"""``dovetail staleness``: the loss of a model by its age."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from dovetail.app.reports.staleness_report import staleness_of
from dovetail.cli.listing import Column, Listing
from dovetail.cli.models.report import number_text
from dovetail.cli.models.samples import archived_days, microseconds_of, project_config
from dovetail.cli.output import print_json, terminal
from dovetail.cli.stored.progress_bar import DayProgress
from dovetail.cli.times import short_duration
from dovetail.platform.archive.dayfiles import DayFiles
from dovetail.platform.errors import ConfigError
from dovetail.trainer.metrics.charts import Chart, ChartLine
from dovetail.trainer.metrics.plots import write_plots
from dovetail.trainer.staleness import Staleness

__all__ = ["run"]


def run(
    project: Path,
    samples: str | None,
    *,
    ages_us: Sequence[int],
    step_us: int,
    first: str | None,
    last: str | None,
    plot: Path | None,
    as_json: bool,
    scene: str = "",
) -> int:
    """Replay, show, and draw if asked."""
    if step_us < 1:
        raise ConfigError("--every: write a duration above 0, such as 5m")
    config = project_config(project, needed=True, scene=scene)
    if config is None:
        return 2
    files = archived_days(config) if samples is None else DayFiles.at(samples, "request_time")
    low_us, high_us = microseconds_of(first, last)
    console = terminal(stderr=as_json)
    with DayProgress(console, "staleness") as show:
        found = staleness_of(
            config, files, ages_us=ages_us, step_us=step_us, first_us=low_us, last_us=high_us, on_day=show.day
        )
    if plot is not None:
        write_plots(plot, "loss by the age of the model", _charts(found))
    if as_json:
        print_json(asdict(found))
        return 0
    _table(found).print(console)
    if plot is not None:
        console.print(f"plots: {plot}")
    return 0


def _table(found: Staleness) -> Listing:
    numbers = ("age", "samples", "log-loss", "worse by", "AUC", "NE", "Σp/Σy", "GAUC")
    spent = (
        f"{found.ages[0].metrics.samples:,} samples, each scored by a model of every age; trained on {found.trained:,}"
    )
    table = Listing("loss by the age of the model", [Column(name, "number") for name in numbers], note=spent)
    least = found.ages[0].metrics.log_loss
    for each in found.ages:
        m = each.metrics
        worse = "-" if least is None or m.log_loss is None else f"{m.log_loss / least - 1:+.2%}"
        gauc = None if m.ranking is None else m.ranking.gauc
        rates = [number_text(x) for x in (m.auc, m.normalised_entropy, m.calibration, gauc)]
        table.add(short_duration(each.age_us), f"{m.samples:,}", number_text(m.log_loss), worse, *rates)
    return table


def _charts(found: Staleness) -> list[Chart]:
    """Log-loss, AUC, GAUC and calibration over ages, which are evenly spaced."""
    places = [float(number) for number in range(len(found.ages))]
    ticks = [(place, short_duration(each.age_us)) for place, each in zip(places, found.ages, strict=True)]
    metrics = [each.metrics for each in found.ages]
    series = {
        "log-loss": [m.log_loss for m in metrics],
        "AUC": [m.auc for m in metrics],
        "GAUC": [None if m.ranking is None else m.ranking.gauc for m in metrics],
        "calibration (Σp / Σy)": [m.calibration for m in metrics],
    }
    known = {title: values for title, values in series.items() if any(value is not None for value in values)}
    return [Chart(title, [ChartLine("by age", places, values)], ticks) for title, values in known.items()]
