"""The page of a model of numbers has the metrics of its loss, and its own label; nothing is said of classes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dovetail.app.looking.model_history import recent_reliability
from dovetail.console.chart_figures import ShownChart
from dovetail.console.looked import Looked
from dovetail.console.pages.model_page import model_page
from dovetail.console.pages.request_page import candidate_page
from dovetail.console.rendering import page
from dovetail.features import Project
from dovetail.platform.archive.writer import read_dataset
from dovetail.sdk import load
from tests.app.small_project import SQL, TOML, at, exposure, request, write_project
from tests.console.shown_run import with_looked

LABELS = """
[labels]
window = "1m"
positive = "order"
[labels.streams.exposure]
[labels.streams.order]
values = { amount = "sum" }
[model]
bits = 10
loss = "poisson"
label = "order_amount"
absent_label = "zero"
inputs = [{ column = "item_id" }]
publish_every = 3
evaluation = { slices = ["item_id"], window = 3, time_window = "1m" }
"""
ORDERS = """
CREATE TABLE "order" (request_id VARCHAR NOT NULL, item_id BIGINT NOT NULL, event_time TIMESTAMP NOT NULL,
                      amount DECIMAL(9,2));
"""
ITEMS, REQUESTS = 3, 6
#: Of what stands around a page's content.
SHELL = {"tabs": (), "path": "/model", "project": "small", "vega": "1"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose worker has lived through a few requests: item 1 is always bought, item 3 never."""
    folder = tmp_path_factory.mktemp("numbers") / "project"
    write_project(folder, TOML[: TOML.index("[labels]")] + LABELS, messages={})
    (folder / "sql" / "tables.sql").write_text(SQL[: SQL.index("CREATE TABLE click")] + ORDERS)
    with load(folder).embedded() as flow:
        for number in range(REQUESTS):
            name, second = f"r{number}", 4 + 60 * number
            flow.rank([request(name, "u", list(range(1, ITEMS + 1)), second)])
            flow.send("exposure", [exposure(name, item, second + 2) for item in range(1, ITEMS + 1)])
            bought = [(1, "2.50"), (1, "1.00"), *([(2, "7.00")] if number % 2 else [])]
            keys = {"request_id": name, "event_time": at(second + 5)}
            flow.send("order", [{**keys, "item_id": item, "amount": amount} for item, amount in bought])
            flow.until_idle()
    return folder


def _measure(chart: ShownChart) -> str:
    return chart.title.split(" by ")[0].split(",")[0].removesuffix(" (Σp / Σy)")


@pytest.mark.parametrize(
    ("loss", "titles"),
    [("poisson", ["RMSE", "MAE", "Poisson deviance", "calibration"]), ("squared", ["RMSE", "MAE", "calibration"])],
)
def test_metrics_are_those_of_the_loss(folder: Path, loss: str, titles: list[str]) -> None:
    project = load(folder, model={"loss": loss})

    async def look(looked: Looked) -> None:
        shown = model_page(looked)
        assert [title for title, _ in shown["measures"]] == titles
        total = shown["total"]
        assert total.samples == ITEMS * REQUESTS
        assert total.positive == pytest.approx(REQUESTS * 3.5 + 7 * (REQUESTS // 2))
        drawn = {_measure(chart) for chart in shown["charts"]}
        assert drawn == {*titles, "GAUC", "NDCG@10", "MRR", "hit rate@10", "mean order_amount over mean score"}
        text = page("model.html", {**shown, **SHELL})
        for title in titles:
            assert f"<dt>{title}</dt>" in text
            assert f'<th class="number">{title}</th>' in text
        assert '<th class="number">mean label</th>' in text
        assert "order_amount, 0 if absent" in text
        assert f"<dd>{total.rmse:.6g}</dd>" in text
        of_the_loss = [chart for chart in shown["charts"] if _measure(chart) in titles]
        text = page("model.html", {**shown, **SHELL, "charts": of_the_loss, "ranked": {}})
        for word in ("log-loss", "AUC", "entropy", "positive", "observed rate"):
            assert word not in text, word

    with_looked(project, look)


@pytest.mark.parametrize("absent", ["zero", "skip"])
def test_reliability_is_of_the_models_label(folder: Path, absent: str) -> None:
    project: Project = load(folder, model={"absent_label": absent})

    async def look(looked: Looked) -> None:
        model = looked.project.config.model
        assert model is not None
        found = recent_reliability(looked.stores, model)
        assert found is not None
        line, rows = found
        samples: list[dict[str, Any]] = read_dataset(
            looked.stores.registry, looked.stores.offline, "samples"
        ).to_pylist()
        amounts = [each["order_amount"] for each in samples]
        kept = [float(each or 0) for each in amounts if each is not None or absent == "zero"]
        assert rows == len(kept)
        # Groups of equally many rows, some with one more than others; empty ones are none.
        sizes = [len(part) for part in np.array_split(np.arange(rows), 20) if len(part)]
        means = [float(y) for y in line.y if y is not None]
        assert sum(np.multiply(sizes, means)) == pytest.approx(sum(kept))

    with_looked(project, look)


@pytest.mark.parametrize(("item", "amount"), [("1", "3.50"), ("3", '<span class="null">NULL</span>')])
def test_a_candidate_has_the_models_label_and_its_score_taken_apart(folder: Path, item: str, amount: str) -> None:
    async def look(looked: Looked) -> None:
        shown = await candidate_page(looked, f"r{REQUESTS - 1}", item, None)
        assert shown["score"].same
        text = page("candidate.html", {**shown, "tabs": (), "path": "/sample", "project": "small"})
        assert f"<dt>order_amount, the model&#39;s label</dt><dd>{amount}</dd>" in text.replace("'", "&#39;")

    with_looked(load(folder), look)


def test_samples_from_before_the_label_was_declared_are_left_out(folder: Path) -> None:
    async def look(looked: Looked) -> None:
        model = looked.project.config.model
        assert model is not None
        assert recent_reliability(looked.stores, model.model_copy(update={"label": "order_pieces"})) is None

    with_looked(load(folder), look)
