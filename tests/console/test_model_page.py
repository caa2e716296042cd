"""The model's page says what registry, archive and versions have; what is drawn is escaped."""

from __future__ import annotations

import json
import re
import shutil
from contextlib import closing
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from dovetail.app.looking.model_history import (
    ModelMetricsHistory,
    metrics_history,
    moved_weights,
    rankings_history,
    recent_reliability,
)
from dovetail.app.looking.shadow_scores import shadow_beside
from dovetail.app.storage import open_stores
from dovetail.console.chart_figures import shown_chart
from dovetail.console.looked import Looked
from dovetail.console.pages.model_page import charts_of, model_page, ranking_charts
from dovetail.console.rendering import page
from dovetail.demo.kept_run import project_of_run
from dovetail.features import Project
from dovetail.platform.archive.writer import read_dataset
from dovetail.platform.stores.registry.store import MetricRow
from dovetail.trainer.metrics.charts import Chart, ChartLine
from dovetail.trainer.models.contributions import explain
from dovetail.trainer.samples.encoding import Encoder
from tests.console.shown_run import with_looked

#: Of what stands around a page's content.
SHELL = {"tabs": (), "path": "/model", "project": "demo", "vega": "1"}


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


def test_rankings_are_those_of_the_registry(project: Project) -> None:
    async def look(looked: Looked) -> None:
        every = looked.stores.registry.rankings("ranking")
        history, shown = rankings_history(looked.stores, "ranking"), model_page(looked)
        assert list(history.windows) == [row for row in every if row.scope.startswith("time:")]
        assert list(history.total) == [row for row in every if row.scope == "total"]
        assert list(shown["ranked"]) == ["all", "channel=app", "channel=mail", "channel=web"]
        assert shown["ranked"]["all"] == history.total[-1]
        assert 0 < shown["ranked"]["all"].gauc < 1
        by_time = {each.title: each.lines[0].y for each in ranking_charts(history)}
        assert list(by_time) == [
            f"{measure}, by time of the request" for measure in ("GAUC", "NDCG@10", "MRR", "hit rate@10")
        ]
        assert by_time["NDCG@10, by time of the request"] == [row.ndcg for row in history.windows]
        assert all(title in page("model.html", {**shown, **SHELL}) for title in by_time)
        assert not any(rankings_history(looked.stores, "nothing"))

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
        assert len(shown["charts"]) == 13
        assert shown["charts"][-1].title == "observed rate over mean score"

    with_looked(project, look)


def test_the_shadow_stands_beside_what_serves(run_folder: Path, tmp_path: Path) -> None:
    """Its scores are those served, turned about: what is above one half is below it."""
    shutil.copytree(run_folder, tmp_path / "run")
    project = project_of_run(tmp_path / "run")
    with closing(open_stores(project.config)) as stores:
        for file in stores.registry.files("snapshots"):
            rows = stores.offline.read(file.path)
            turned = pc.subtract(pa.scalar(1, pa.float32()), rows.column("score"))
            shadow = pc.if_else(pc.greater(rows.column("model_version"), 1), turned, None)
            rows = rows.append_column("shadow_score", shadow)
            stores.offline.write(
                file.path, rows.append_column("shadow_version", pa.repeat(pa.scalar(1, pa.int64()), len(rows)))
            )

    async def look(looked: Looked) -> None:
        model = looked.project.config.model
        assert model is not None
        found = shadow_beside(looked.stores, model, 100_000)
        assert found is not None
        samples = read_dataset(looked.stores.registry, looked.stores.offline, "samples")
        scored = samples.filter(pc.greater(samples.column("model_version"), 1))
        assert found.serving.metrics.samples == found.shadow.metrics.samples == scored.num_rows
        scores = scored.column("score").to_numpy()
        assert found.apart == pytest.approx(np.abs(1 - 2 * scores).mean(), rel=1e-5)
        assert found.serving.metrics.auc is not None
        assert found.shadow.metrics.auc == pytest.approx(1 - found.serving.metrics.auc, abs=0.01)
        assert found.versions == (sorted(set(scored.column("model_version").to_pylist())), [1])
        said = page("model.html", {**model_page(looked), **SHELL})
        assert re.search(
            r'<table id="shadow">(?s:.)*<td>serving</td>(?s:.)*<td>shadow</td><td class="wide">1</td>', said
        )

    with_looked(project, look)

    async def without(looked: Looked) -> None:
        assert looked.project.config.model is not None
        assert shadow_beside(looked.stores, looked.project.config.model, 100_000) is None
        assert 'id="shadow"' not in page("model.html", {**model_page(looked), **SHELL})

    with_looked(project_of_run(run_folder), without)


def hostile_charts(name: str) -> list[Chart]:
    rows = [MetricRow("m", f"slice:{name}", n, n, 1, 1, 0.1 * n, 0.5, None, 1, 1, 1, 0, 0, 0, 0) for n in (1, 2)]
    return charts_of(ModelMetricsHistory([], [], {name: rows}), "logistic")


def test_names_of_slices_are_text_in_the_page(project: Project) -> None:
    """A name closes neither the attribute that has the specification nor anything else, and is read as it was."""
    hostile = "channel='\"</svg></script><script>alert(1)</script>&amp;\\u0027"
    charts = [shown_chart(chart) for chart in hostile_charts(hostile)]
    assert len(charts) == 4

    async def look(looked: Looked) -> None:
        shown = {**model_page(looked), **SHELL, "charts": charts, "project": hostile}
        row = next(iter(shown["slices"].values()))
        shown["slices"] = {hostile: row}
        ranked = shown["ranked"]
        shown["ranked"] = {"all": ranked["all"], hostile: ranked["channel=app"]}
        said = page("model.html", shown)
        assert "<script>" not in said
        assert said.count("<script") == said.count("</script>") == 2
        figures = Figures()
        figures.feed(said)
        assert [json.loads(each) for each in figures.specifications] == [chart.specification for chart in charts]
        assert all(chart.lines == [hostile] for chart in charts)

    with_looked(project, look)


class Figures(HTMLParser):
    """Reads a page as a browser does: what its figures are to be drawn from."""

    def __init__(self) -> None:
        super().__init__()
        self.specifications: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        if tag == "figure" and (specification := found.get("data-chart")):
            self.specifications.append(specification)


def test_a_chart_has_its_figures_beside_it_the_newest_first() -> None:
    lines = [ChartLine("a", [0, 1, 2], [1.0, None, 2.0]), ChartLine("b", [2, 3], [5.0, float("nan")])]
    shown = shown_chart(Chart("a & b", lines, [(0.0, "<x>")], diagonal=True))
    assert [place for place, _ in shown.rows] == ["3", "2", "1", "<x>"]
    assert [values for _, values in shown.rows][1:] == [[2.0, 5.0], [None, None], [1.0, None]]
    assert shown.specification is not None
    json.dumps(shown.specification, allow_nan=False)
    many = shown_chart(Chart("many", [ChartLine("l", list(range(100)), [0.5] * 100)]))
    assert (len(many.rows), many.left_out, many.rows[0][0]) == (48, 52, "99")


def test_a_chart_without_points_says_so() -> None:
    shown = shown_chart(Chart("empty", [ChartLine("l", [0], [None])]))
    assert shown.specification is None
    said = page("model.html", {"model": None, **SHELL})
    assert "data-chart" not in said


def test_without_vega_figures_stand_alone_and_say_what_draws_them(project: Project) -> None:
    async def look(looked: Looked) -> None:
        for version, drawn in (("1.9", True), ("", False)):
            said = page("model.html", {**model_page(looked), **SHELL, "vega": version})
            assert ('data-vega="/static/vega.js?of=1.9"' in said) is drawn
            assert ("dovetail-samples[plots]" in said) is not drawn
            assert said.count("<details open>") == said.count('class="figures"') > 8

    with_looked(project, look)
