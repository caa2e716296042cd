"""Models of numbers as projects declare them: trained by command and by the worker's stage, evaluated, gated, shown."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dovetail.app.modelling import checkpointing_of, publication_of, recipe_of, sample_topic_of, scorers_of
from dovetail.cli.models.report import metrics_table
from dovetail.platform.config.load import Config, load_config
from dovetail.platform.errors import ConfigError
from dovetail.platform.rows import wire
from dovetail.platform.stage import Outgoing
from dovetail.platform.stores.registry.store import Registry
from dovetail.platform.testing import MemoryLog, run_stage
from dovetail.trainer.metrics.progressive import Evaluation
from dovetail.trainer.metrics.telemetry import metric_rows
from dovetail.trainer.models.publish import ModelDirectory
from dovetail.trainer.training import TrainerStage
from tests.cli.trained_project import call, samples

LABELS = """
name = "shop"
[streams.behaviour]
key = "user_id"
[labels]
window = "1h"
positive = "order"
[labels.streams.exposure]
[labels.streams.order]
values = { amount = "sum" }
"""
MODEL = """
[model]
bits = 12
loss = "poisson"
label = "order_amount"
absent_label = "zero"
publish_every = 100
inputs = [{ column = "city" }, { column = "price", kind = "standardised" }]
evaluation = { slices = ["city"], window = 100 }
"""


def project_in(folder: Path, text: str = LABELS + MODEL) -> Config:
    (folder / "dovetail.toml").write_text(text, encoding="utf-8")
    return load_config(folder)


def bought(n: int = 600) -> pa.Table:
    """Samples of which a third has an amount, larger in later cities: two targets in one row."""
    table = samples(n)
    rng = np.random.default_rng(5)
    mean = np.array([1.0 + int(city[1:]) for city in table.column("city").to_pylist()])
    amounts = [float(each) if rng.random() < 1 / 3 else None for each in rng.poisson(mean)]
    return table.append_column("order_amount", pa.array(amounts).cast(pa.decimal128(9, 2)))


def test_trained_evaluated_and_shown(tmp_path: Path) -> None:
    project_in(tmp_path)
    pq.write_table(bought(), tmp_path / "samples.parquet")
    arguments = ("-p", tmp_path, tmp_path / "samples.parquet")
    trained = call("train", *arguments, "--out", tmp_path / "models", "--passes", 3)
    assert trained["metrics"]["samples"] == 600
    assert trained["metrics"]["log_loss"] is None
    assert trained["metrics"]["poisson_deviance"] == pytest.approx(trained["loss_by_pass"][0])
    assert trained["loss_by_pass"][2] < trained["loss_by_pass"][0]
    plot = tmp_path / "plot.html"
    said = call("evaluate", *arguments, "-m", tmp_path / "models", "--slice", "city", "--plot", plot)
    amounts = np.array([float(each or 0) for each in bought().column("order_amount").to_pylist()])
    assert said["total"]["positive"] == pytest.approx(amounts.sum())
    assert said["total"]["rmse"] < amounts.std()
    assert said["groups"]["slice:city=c4"]["positive"] > said["groups"]["slice:city=c0"]["positive"]
    drawn = plot.read_text(encoding="utf-8")
    assert all(title in drawn for title in ("RMSE", "MAE", "Poisson deviance", "mean label over mean prediction"))
    assert "AUC" not in drawn
    shown = call("model", "show", f"{tmp_path / 'models'}@1", "-p", tmp_path)
    assert shown["loss"] == "poisson"
    (tmp_path / "x.svm").write_text("1 1:1\n")
    with pytest.raises(ConfigError, match="labels of text are read as 0 and 1, the project's model is of poisson"):
        call("train", "-p", tmp_path, tmp_path / "x.svm", "--format", "libsvm", "--out", tmp_path / "o")


def test_one_row_of_samples_trains_models_of_several_targets(tmp_path: Path) -> None:
    pq.write_table(bought(), tmp_path / "samples.parquet")
    found = {}
    for name, model in (
        ("amount", MODEL.replace('"poisson"', '"squared"').replace('"zero"', '"skip"')),
        ("order", "[model]\nbits = 12\ninputs = [{ column = 'city' }]\n"),
    ):
        (tmp_path / name).mkdir()
        project_in(tmp_path / name, LABELS + model)
        out = tmp_path / name / "models"
        found[name] = call("train", "-p", tmp_path / name, tmp_path / "samples.parquet", "--out", out)["metrics"]
    amounts = [each for each in bought().column("order_amount").to_pylist() if each is not None]
    assert found["amount"]["weight"] == len(amounts)
    assert found["amount"]["positive"] == pytest.approx(float(sum(amounts)))
    assert found["amount"]["poisson_deviance"] is None
    assert found["order"]["positive"] == pytest.approx(sum(bought().column("label").to_pylist()))
    assert found["order"]["rmse"] is None


def test_the_workers_stage_trains_gates_and_serves_it(tmp_path: Path) -> None:
    config = project_in(tmp_path, LABELS + MODEL + "[model.gate]\nmax_rmse = 1e-3\n")
    assert config.model is not None
    log, rows = MemoryLog({"samples": 1}), bought()
    log.append([Outgoing("samples", wire.encode(rows.slice(at, 10))) for at in range(0, 600, 10)])
    features = rows.select(["city", "price"]).schema

    def trained(config: Config, folder: Path) -> ModelDirectory:
        directory, model = ModelDirectory(folder / "models"), config.model
        assert model is not None
        stage = TrainerStage(
            sample_topic_of(config, model, features),
            recipe_of(model),
            checkpointing_of(model, folder / "checkpoints"),
            publication_of(model, directory, 1 << 20),
        )
        asyncio.run(run_stage(stage, log, max_records=lambda: 7))
        return directory

    refused = trained(config, tmp_path / "refused")
    assert refused.versions() == []
    assert [why[0].startswith("rmse is ") for why in refused.refused().values()] == [True] * 6
    again = project_in(tmp_path)
    assert again.model is not None
    directory = trained(again, tmp_path / "published")
    assert directory.latest() == 6
    serving, _ = scorers_of(again.model, directory, beside=False)
    serving.refresh()
    version, scores = serving.score(rows)
    assert (version, bool((scores > 0).all()), float(scores.max()) > 1.0) == (6, True, True)


REFUSED = {
    "no such column": (MODEL.replace("order_amount", "order_price"), r"model.label: 'order_price' is no number of a"),
    "no absent": (MODEL.replace('absent_label = "zero"', ""), r'add absent_label = "zero" or "skip"'),
    "absent label": (MODEL.replace('label = "order_amount"', ""), "absent_label: every sample has a label"),
    "bound of a classifier": (MODEL + "[model.gate]\nmin_auc = 0.6\n", "gate.min_auc: a model of poisson loss has no"),
    "no such loss": (MODEL.replace("poisson", "hinge"), "model.loss: .*'logistic', 'squared' or 'poisson'"),
}


@pytest.mark.parametrize(("model", "message"), REFUSED.values(), ids=list(REFUSED))
def test_what_does_not_fit_is_refused(tmp_path: Path, model: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        project_in(tmp_path, LABELS + model)


@pytest.mark.parametrize(
    ("policy", "how"),
    [
        ('policy = "fast_emit"\nemit_after = ["30s"]\n', "policy fast_emit"),
        ('policy = "return_days"\ndays = [1]\n', "policy return_days"),
        ('corrections = "1h"\n', "policy delayed with corrections"),
    ],
)
def test_weights_that_correct_a_rate_are_no_weights_of_numbers(tmp_path: Path, policy: str, how: str) -> None:
    labels = LABELS.replace('window = "1h"\n', f'window = "1h"\n{policy}')
    with pytest.raises(ConfigError, match=how):
        project_in(tmp_path, labels + MODEL)


def test_metrics_of_numbers_are_kept_beside_those_of_before(tmp_path: Path) -> None:
    registry = Registry(f"sqlite:///{tmp_path / 'registry.sqlite'}")
    numbers, classes = Evaluation(loss="poisson"), Evaluation()
    for evaluation in (numbers, classes):
        evaluation.add(*(np.array(each, np.float32) for each in ([0.5, 0.25], [1, 0], [1, 1])))
    registry.add_metrics(metric_rows("m", 2, [("total", numbers.total()), ("recent", classes.total())]))
    recent, total = registry.metrics("m")
    assert (recent.rmse, total.log_loss) == (None, None)
    assert total.rmse == pytest.approx(numbers.total().rmse)
    assert total.poisson_deviance == pytest.approx(numbers.total().poisson_deviance)
    assert recent.log_loss == pytest.approx(classes.total().log_loss)
    registry.close()


def test_staleness_is_of_clicks(tmp_path: Path) -> None:
    project_in(tmp_path)
    pq.write_table(bought(), tmp_path / "samples.parquet")
    with pytest.raises(ConfigError, match="staleness is measured of models that predict label by logistic loss"):
        call("staleness", "-p", tmp_path, tmp_path / "samples.parquet")


def test_a_table_of_numbers_has_no_auc() -> None:
    evaluation = Evaluation(loss="squared")
    evaluation.add(*(np.array(each, np.float32) for each in ([1.0, 3.0], [2.0, 1.0], [1.0, 1.0])))
    shown = json.dumps([column.title for column in metrics_table("x", [("total", evaluation.total())]).columns])
    assert "RMSE" in shown
    assert "AUC" not in shown
