"""Squared and Poisson losses: kernels against plain Python, fits against closed forms, metrics against formulas."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dovetail.platform.errors import ConfigError, ModelError, WireError
from dovetail.trainer.arithmetic import Float32, Float64
from dovetail.trainer.batch_training import Schedule, train_passes
from dovetail.trainer.learner import Learner
from dovetail.trainer.losses import LOGISTIC, POISSON, SQUARED, Loss, loss_code
from dovetail.trainer.metrics.groups import Groups
from dovetail.trainer.metrics.progressive import Evaluation
from dovetail.trainer.models.checkpoint import CheckpointStore, TrainerProgress, image, resume
from dovetail.trainer.models.gate import Gate
from dovetail.trainer.models.publish import Model, ModelDirectory
from dovetail.trainer.models.scorer import Scorer
from dovetail.trainer.modes import train_batch
from dovetail.trainer.optimizers import OPTIMIZERS, Ftrl, Optimizer
from dovetail.trainer.samples.encoding import Encoded, Encoder, InputSpec
from tests.generated import tries
from tests.trainer.optimizers.reference import reference_of

NUMBERS = ("squared", "poisson")
every_loss = pytest.mark.parametrize("loss", NUMBERS)


def examples(loss: int, n: int, seed: int) -> tuple[Encoded, Float32, Float32]:
    rng = np.random.default_rng(seed)
    slots, values = rng.integers(0, 16, (n, 4)).astype(np.uint32), rng.choice([0.0, 0.5, 1.0, -1.0], (n, 4))
    # No label is the very prediction: whether an error is 0 or 1e-8 is for float32 to say.
    labels = rng.poisson(2.0, n) + 0.25 if loss == POISSON else rng.normal(1.0, 3.0, n)
    weights = rng.choice([0.0, 1.0, 2.0], n).astype(np.float32)
    return Encoded(slots, values.astype(np.float32)), labels.astype(np.float32), weights


@pytest.mark.parametrize("kind", list(OPTIMIZERS.values()), ids=lambda kind: kind.name)
@settings(max_examples=tries(20), deadline=None)
@given(seed=st.integers(0, 2**32), loss=st.sampled_from([SQUARED, POISSON]))
def test_the_kernels_equal_the_plain_python_reference(kind: type[Optimizer], seed: int, loss: int) -> None:
    optimizer = kind(alpha=0.05)  # type: ignore[call-arg]
    encoded, labels, weights = examples(loss, 40, seed)
    records, reference = optimizer.new_records(4), reference_of(optimizer, 16)
    found = optimizer.train(records, encoded, labels, weights, loss)
    expected = [
        reference.learn(slots, values, label, weight, loss)
        for slots, values, label, weight in zip(*encoded, labels.tolist(), weights.tolist(), strict=True)
    ]
    assert found == pytest.approx(np.array(expected), rel=2e-3, abs=2e-3)
    assert records[:, 0] == pytest.approx(np.array(reference.w), rel=2e-3, abs=2e-3)


def world(loss: Loss, n: int = 4_000) -> tuple[pa.Table, Float64, Float64]:
    """Samples of two numeric inputs and a category, their design matrix, and labels."""
    rng = np.random.default_rng(3)
    x = rng.normal(0, 0.5, (n, 2)).astype(np.float32).astype(np.float64)
    group = rng.integers(0, 3, n)
    shown = np.sign(x) * np.log1p(np.abs(x))  # as numeric inputs are encoded
    design = np.column_stack([shown, *(group == g for g in range(3))]).astype(np.float64)
    margin = design @ np.array([0.7, -0.4, 0.2, 0.6, 1.0])
    labels = rng.poisson(np.exp(margin)).astype(np.float64) if loss == "poisson" else margin + rng.normal(0, 0.3, n)
    table = pa.table({"a": x[:, 0], "b": x[:, 1], "g": pa.array([f"g{each}" for each in group]), "y": labels})
    return table, design, labels


INPUTS = [InputSpec("a", "numeric"), InputSpec("b", "numeric"), InputSpec("g", "categorical")]


def fitted(loss: Loss, design: Float64, labels: Float64) -> Float64:
    """The maximum-likelihood fit: least squares, or iteratively reweighted least squares."""
    if loss == "squared":
        return np.asarray(np.linalg.lstsq(design, labels, rcond=None)[0])
    weights = np.zeros(design.shape[1])
    for _ in range(50):
        mean = np.exp(design @ weights)
        weights += np.linalg.solve(design.T @ (design * mean[:, None]), design.T @ (labels - mean))
    return weights


@every_loss
def test_many_passes_come_to_the_maximum_likelihood_fit(loss: Loss) -> None:
    table, design, labels = world(loss)
    learner = Learner(Encoder(INPUTS, 12, loss), Ftrl(alpha=0.3), label="y")
    _, losses = train_passes(learner, lambda: [table], Schedule(passes=30, shuffle_rows=10_000))
    margin = design @ fitted(loss, design, labels)
    best = margin if loss == "squared" else np.exp(margin)
    assert learner.predict(table) == pytest.approx(best, rel=0.05, abs=0.05)
    assert losses[-1] < losses[0]
    least = float(np.mean((labels - best) ** 2)) if loss == "squared" else poisson_deviance(labels, best)
    assert losses[-1] == pytest.approx(least, rel=0.02)


def poisson_deviance(labels: Float64, means: Float64) -> float:
    of_label = np.where(labels > 0, labels * np.log(np.maximum(labels, 1e-9) / means), 0.0)
    return float(2 * np.mean(of_label - (labels - means)))


@every_loss
@settings(max_examples=tries(20), deadline=None)
@given(cuts=st.lists(st.integers(0, 200), max_size=4), seed=st.integers(0, 1_000))
def test_metrics_are_the_formulas_however_examples_are_cut(loss: Loss, cuts: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels = rng.poisson(1.5, 200).astype(np.float32)
    predictions = rng.uniform(0.1, 4.0, 200).astype(np.float32)
    weights = rng.uniform(0.0, 2.0, 200).astype(np.float32)
    evaluation, groups = Evaluation(50, 3, loss), Groups(slices=["s"], loss=loss)
    for start, stop in zip([0, *sorted(cuts)], [*sorted(cuts), 200], strict=True):
        mine = slice(start, stop)
        evaluation = Evaluation.restore(evaluation.state())
        evaluation.add(predictions[mine], labels[mine], weights[mine])
        groups.add(pa.table({"s": ["x"] * (stop - start)}), predictions[mine], labels[mine], weights[mine])
    whole, p, y, c = evaluation.total(), *(each.astype(np.float64) for each in (predictions, labels, weights))
    assert whole.rmse == pytest.approx(math.sqrt(np.average((p - y) ** 2, weights=c)), rel=1e-12)
    assert whole.mae == pytest.approx(np.average(np.abs(p - y), weights=c), rel=1e-12)
    assert whole.calibration == pytest.approx((c * p).sum() / (c * y).sum(), rel=1e-12)
    assert (whole.samples, whole.log_loss, whole.auc, whole.accuracy) == (200, None, None, None)
    if loss == "poisson":
        of_label = np.where(y > 0, y * np.log(np.maximum(y, 1e-9) / p), 0.0)
        assert whole.poisson_deviance == pytest.approx(2 * np.average(of_label - (y - p), weights=c), rel=1e-12)
        assert whole.mean_loss == whole.poisson_deviance
    else:
        assert whole.poisson_deviance is None
        assert whole.mean_loss == pytest.approx(np.average((p - y) ** 2, weights=c), rel=1e-12)
    assert dict(groups.report())["slice:s=x"] == whole
    assert sum(window.samples for window in evaluation.recent()) == 150


def test_metrics_and_fits_are_those_of_scikit_learn() -> None:
    from sklearn.linear_model import PoissonRegressor
    from sklearn.metrics import mean_absolute_error, mean_poisson_deviance, mean_squared_error

    table, design, labels = world("poisson", 1_000)
    theirs = PoissonRegressor(alpha=0.0, fit_intercept=False, max_iter=1_000, tol=1e-8).fit(design, labels)
    assert design @ theirs.coef_ == pytest.approx(design @ fitted("poisson", design, labels), abs=1e-4)
    learner = Learner(Encoder(INPUTS, 12, "poisson"), Ftrl(alpha=0.3), label="y")
    predictions = learner.learn(table)
    evaluation = Evaluation(loss="poisson")
    evaluation.add(predictions, labels.astype(np.float32), np.ones(1_000, np.float32))
    measured = evaluation.total()
    assert measured.poisson_deviance == pytest.approx(mean_poisson_deviance(labels, predictions), rel=1e-6)
    assert measured.mae == pytest.approx(mean_absolute_error(labels, predictions), rel=1e-6)
    assert measured.rmse == pytest.approx(mean_squared_error(labels, predictions) ** 0.5, rel=1e-6)


@every_loss
def test_a_stop_a_model_and_a_scorer_go_on_with_the_same_predictions(loss: Loss, tmp_path: Path) -> None:
    table, _, _ = world(loss, 300)
    encoder = Encoder(INPUTS, 10, loss)
    assert Encoder.from_description(encoder.describe()).loss == loss
    whole, cut = (Learner(encoder, Ftrl(), label="y", groups=Groups(slices=["g"], loss=loss)) for _ in range(2))
    whole.learn(table)
    cut.learn(table.slice(0, 100))
    store = CheckpointStore(tmp_path / "checkpoints")
    store.save(image(cut, TrainerProgress({}, {}, ()), {}), after=0)
    checkpoint = store.latest()
    assert checkpoint is not None
    fresh = Learner(encoder, Ftrl(), label="y", groups=Groups(slices=["g"], loss=loss))
    resumed = resume(checkpoint, fresh, {})
    resumed.learn(table.slice(100))
    assert (resumed.records == whole.records).all()
    assert resumed.evaluation.total() == whole.evaluation.total()
    assert resumed.groups.report() == whole.groups.report()
    directory = ModelDirectory(tmp_path / "models")
    directory.publish(1, Model.of(whole))
    scorer = Scorer(directory, encoder)
    before = scorer.predict(table)
    assert set(before.tolist()) == {1.0 if loss == "poisson" else 0.0}
    scorer.refresh()
    assert (scorer.predict(table) == whole.predict(table)).all()
    other = Scorer(directory, Encoder(INPUTS, 10))
    with pytest.raises(ModelError, match="their inputs, bits or loss differ"):
        other.refresh()


def test_an_encoder_of_a_logistic_loss_is_what_it_was() -> None:
    assert "loss" not in Encoder(INPUTS, 10).describe()
    assert Encoder(INPUTS, 10).fingerprint != Encoder(INPUTS, 10, "squared").fingerprint
    with pytest.raises(ConfigError, match="there is no loss 'hinge'; choose from logistic, squared, poisson"):
        loss_code("hinge")


@pytest.mark.parametrize(
    ("loss", "label", "why"),
    [
        (LOGISTIC, 2.0, "labels must be 0 or 1"),
        (SQUARED, math.inf, "labels must be finite numbers"),
        (POISSON, -1.0, "labels must be finite and not negative"),
    ],
)
def test_a_label_that_the_loss_has_not_is_refused(loss: int, label: float, why: str) -> None:
    encoded, labels, weights = examples(POISSON, 5, 1)
    labels = np.where(np.arange(5) == 3, label, 1.0).astype(np.float32)
    ftrl = Ftrl()
    with pytest.raises(ModelError, match=f"example 3 of this batch was refused: its label is .*{why}"):
        ftrl.train(ftrl.new_records(4), encoded, labels, weights, loss)
    with pytest.raises(ModelError, match=f"example 3 of this batch was refused: its label is .*{why}"):
        train_batch(ftrl, ftrl.new_records(4), encoded, labels, weights, loss)


def test_a_model_that_diverges_says_so() -> None:
    ogd = OPTIMIZERS["ogd"](alpha=1e6, lr_power=0.0)  # type: ignore[call-arg]
    encoded, labels, _ = examples(SQUARED, 200, 1)
    with pytest.raises(ModelError, match="the model has diverged"):
        ogd.train(ogd.new_records(4), encoded, labels, np.ones(200, np.float32), SQUARED)


@pytest.mark.parametrize("absent", ["zero", "skip", "refuse"])
def test_samples_without_a_label(absent: str) -> None:
    table, _, labels = world("squared", 200)
    some = np.where(np.arange(200) % 3 == 0, np.nan, labels)
    given = table.set_column(3, "y", pa.array(some, from_pandas=True))
    learner = Learner(Encoder(INPUTS, 10, "squared"), Ftrl(), label="y", absent=absent)  # type: ignore[arg-type]
    if absent == "refuse":
        with pytest.raises(WireError, match="the label column 'y' is NULL or NaN"):
            learner.learn(given)
        return
    learner.learn(given)
    other = Learner(Encoder(INPUTS, 10, "squared"), Ftrl(), label="y", weight="w")
    weights = np.where(np.isnan(some), 0.0 if absent == "skip" else 1.0, 1.0)
    other.learn(given.set_column(3, "y", pa.array(np.nan_to_num(some))).append_column("w", pa.array(weights)))
    assert (learner.records == other.records).all()
    assert learner.evaluation.total() == other.evaluation.total()


def test_a_gate_bounds_what_the_loss_has() -> None:
    evaluation = Evaluation(loss="squared")
    evaluation.add(*(np.array(each, np.float32) for each in ([1.0, 3.0], [2.0, 1.0], [1.0, 1.0])))
    assert Gate(max_rmse=2.0, max_mae=2.0).reasons(evaluation.last()) == []
    assert Gate(max_rmse=1.0, max_poisson_deviance=1.0).reasons(evaluation.last()) == [
        "rmse is 1.581 on 2 samples, at most 1 is asked",
        "poisson_deviance has no value on 2 samples, at most 1 is asked",
    ]


def test_metrics_of_another_loss_are_refused() -> None:
    with pytest.raises(ConfigError, match="a model of squared loss is evaluated as one of logistic"):
        Learner(Encoder(INPUTS, 10, "squared"), Ftrl(), label="y", evaluation=Evaluation())
    with pytest.raises(ModelError, match="of a Poisson loss, above 0"):
        Evaluation(loss="poisson").add(*(np.array([each], np.float32) for each in (0.0, 1.0, 1.0)))
