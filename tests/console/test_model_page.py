"""The model's page says what registry, archive and versions have; what is drawn is escaped."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from dovetail.app.looking.model_history import (
    ModelMetricsHistory,
    metrics_history,
    moved_weights,
    recent_reliability,
)
from dovetail.console.chart_picture import chart_svg
from dovetail.console.looked import Looked
from dovetail.console.pages.model_page import charts_of, model_page
from dovetail.console.rendering import page
from dovetail.demo.kept_run import project_of_run
from dovetail.features import Project
from dovetail.platform.archive.writer import read_dataset
from dovetail.platform.stores.registry.store import MetricRow
from dovetail.trainer.metrics.charts import COLOURS, Chart, ChartLine
from dovetail.trainer.models.contributions import explain
from dovetail.trainer.samples.encoding import Encoder
from tests.console.shown_run import with_looked


@pytest.fixture(scope="module")
def project(run_folder: Path) -> Project:
    return project_of_run(run_folder)


def test_metrics_are_those_of_the_registry(project: Project) -> None:
    async def look(looked: Looked) -> None:
        history = metrics_history(looked.stores, "ranking")
        every = looked.stores.registry.metrics("ranking")
        assert list(history.windows) == [row for row in every if row.scope.startswith("time:")]
        assert list(history.total) == [row for row in every if row.scope == "total"]
        assert set(history.slices) == {"channel=app", "channel=mail", "channel=web"}
        assert history.slices["channel=app"] == [row for row in every if row.scope == "slice:channel=app"]
        newest = looked.stores.registry.newest_metrics("ranking", "total", 2)
        assert newest == list(history.total)[-2:]
        assert looked.stores.registry.newest_metrics("ranking", "t%l", 9) == []
        assert metrics_history(looked.stores, "nothing") == ModelMetricsHistory([], [], {})

    with_looked(project, look)


def test_weights_that_moved_have_the_names_of_values_in_samples(project: Project) -> None:
    async def look(looked: Looked) -> None:
        weights, before, after = moved_weights(looked.project, looked.stores, 25)
        old, new = (looked.stores.models.load(version) for version in (before, after))
        assert [before, after] == looked.stores.models.versions()[-2:]
        moved = np.abs(new.dense() - old.dense())
        assert [abs(each.moved) for each in weights] == pytest.approx(sorted(moved, reverse=True)[:25], rel=1e-4)
        assert all(each.after == new.dense()[each.slot] for each in weights)
        assert new.encoder is not None
        samples = read_dataset(looked.stores.registry, looked.stores.offline, "samples")
        told = explain(Encoder.from_description(new.encoder), new.dense(), samples, new.moments).to_pylist()
        of_slot = {(each["slot"], each["input"], each["value"]) for each in told}
        named = [each for each in weights if each.name and each.name != "(bias)"]
        assert len(named) > 20
        assert {(each.slot, each.name, each.value) for each in named} <= of_slot

    with_looked(project, look)


def test_reliability_is_of_served_scores(project: Project) -> None:
    async def look(looked: Looked) -> None:
        assert looked.project.config.model is not None
        found = recent_reliability(looked.stores, looked.project.config.model)
        assert found is not None
        line, rows = found
        samples = read_dataset(looked.stores.registry, looked.stores.offline, "samples")
        assert rows == samples.num_rows
        assert len(line.x) == len(line.y) == 20
        assert min(line.x) >= 0
        assert max(line.x) <= 1
        shown = model_page(looked)
        assert shown["total"].samples <= rows
        assert len(shown["charts"]) == 8

    with_looked(project, look)


def test_names_of_slices_are_drawn_as_text(project: Project) -> None:
    hostile = "channel=</svg><script>alert(1)</script>"
    rows = [MetricRow("m", f"slice:{hostile}", n, n, 1, 1, 0.1 * n, 0.5, None, 1, 1, 1, 0, 0, 0, 0) for n in (1, 2)]
    charts = charts_of(ModelMetricsHistory([], [], {hostile: rows}), "logistic")
    assert len(charts) == 4
    for chart in charts:
        drawn = chart_svg(chart)
        assert "<script" not in drawn
        assert "style=" not in drawn, "the console's policy takes no style in a page"

    async def look(looked: Looked) -> None:
        shown = {**model_page(looked), "slices": {hostile: rows[-1]}, "tabs": (), "path": "/model", "project": hostile}
        assert "<script>" not in page("model.html", shown)

    with_looked(project, look)


def test_a_chart_without_points_says_so() -> None:
    assert chart_svg(Chart("empty", [ChartLine("l", [0], [None])])) == "<p>nothing to draw</p>"


def test_a_chart_has_its_lines_broken_where_a_point_is_missing() -> None:
    drawn = chart_svg(Chart("a & b", [ChartLine("l", [0, 1, 2], [1.0, None, 2.0])], [(0.0, "<x>")], diagonal=True))
    assert drawn.count(f'stroke="{COLOURS[0]}"') == 1
    assert re.search(r'd="M[\d.,]+M[\d.,]+" fill="none"', drawn)
    assert 'aria-label="a &amp; b"' in drawn
    assert "&lt;x&gt;" in drawn
    assert "stroke-dasharray" in drawn
