"""What docs/training.md says about hard inputs, for every optimizer, through encoding, training and publishing."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from dovetail.platform.errors import ModelError
from dovetail.trainer.learner import Learner
from dovetail.trainer.models.contributions import collisions
from dovetail.trainer.models.publish import Model, ModelDirectory
from dovetail.trainer.optimizers import OPTIMIZERS
from dovetail.trainer.optimizers.optimizer import WEIGHT
from dovetail.trainer.samples.encoding import Encoder, InputSpec

INPUTS = [
    InputSpec("name"),
    InputSpec("tags", "list", length=3),
    InputSpec("number", "numeric"),
    InputSpec("number", "standardised"),
    InputSpec("number", "bucketed", (-1.0, 0.0, 1.0)),
    InputSpec("number"),
    InputSpec(kind="cross", columns=("name", "number")),
]
every_optimizer = pytest.mark.parametrize("optimizer", sorted(OPTIMIZERS))


def learner_of(optimizer: str, bits: int = 10) -> Learner:
    return Learner(Encoder(INPUTS, bits), OPTIMIZERS[optimizer](), label="label", weight="weight")


def table_of(numbers: list[float | None], labels: list[int] | None = None, weight: float = 1.0) -> pa.Table:
    n = len(numbers)
    return pa.table(
        {
            "name": pa.array([(None, "", "a")[i % 3] for i in range(n)], pa.string()),
            "tags": pa.array([(None, [], [None], ["x"] * 5)[i % 4] for i in range(n)], pa.list_(pa.string())),
            "number": pa.array(numbers, pa.float64()),
            "label": pa.array([i % 2 for i in range(n)] if labels is None else labels, pa.int8()),
            "weight": pa.array([weight] * n, pa.float32()),
        }
    )


def require_sound(learner: Learner, predictions: np.ndarray[tuple[int], np.dtype[np.float32]], folder: Path) -> None:
    """Predictions inside (0, 1), finite state, and a model that can be published and scores the same."""
    assert ((predictions > 0) & (predictions < 1)).all()
    assert np.isfinite(learner.records).all()
    assert np.isfinite(learner.moments).all()
    ModelDirectory(folder).publish(1, Model.of(learner))
    assert np.isfinite(ModelDirectory(folder).load(1).weights).all()


@every_optimizer
@pytest.mark.parametrize(
    "numbers",
    [
        [math.nan, math.inf, -math.inf, None] * 50,
        [math.nan] * 200,
        [-float(2**i) for i in range(200)],
        [-1.0] * 200,
        [1e308, -1e308] * 100,
        [5e-324, -0.0, 0.0, 1e-300] * 50,
    ],
    ids=["not finite", "NaN alone", "all negative", "constant", "huge", "tiny"],
)
def test_no_number_makes_a_model_unsound(optimizer: str, numbers: list[float | None], tmp_path: Path) -> None:
    learner = learner_of(optimizer)
    require_sound(learner, learner.learn(table_of(numbers)), tmp_path)


@every_optimizer
@pytest.mark.parametrize("label", [0, 1])
def test_a_single_class_is_learnt_and_has_no_auc(optimizer: str, label: int, tmp_path: Path) -> None:
    learner = learner_of(optimizer)
    predictions = learner.learn(table_of([float(i % 7) for i in range(2000)], [label] * 2000))
    require_sound(learner, predictions, tmp_path)
    assert abs(predictions[-100:].mean() - label) < abs(predictions[:100].mean() - label)
    total = learner.evaluation.total()
    assert total.auc is None
    assert total.log_loss is not None
    assert math.isfinite(total.log_loss)


@every_optimizer
def test_no_rows_and_rows_of_weight_zero_change_nothing(optimizer: str, tmp_path: Path) -> None:
    learner = learner_of(optimizer)
    learner.learn(table_of([float(i % 5) for i in range(100)]))
    before, moments = learner.records.tobytes(), learner.moments.tobytes()
    assert len(learner.learn(table_of([]))) == 0
    predictions = learner.learn(table_of([1e6, math.nan, -3.0] * 10, weight=0.0))
    assert learner.records.tobytes() == before
    assert learner.moments.tobytes() == moments
    require_sound(learner, predictions, tmp_path)
    nothing = learner_of(optimizer)
    nothing.learn(table_of([]))
    assert nothing.evaluation.total().log_loss is None
    assert nothing.evaluation.total().auc is None


@every_optimizer
@pytest.mark.parametrize("weight", [1e6, 1e30, 3e38])
def test_a_huge_weight_gives_a_finite_model_or_none(optimizer: str, weight: float, tmp_path: Path) -> None:
    """Never a third thing: whatever is published is finite."""
    learner = learner_of(optimizer)
    directory = ModelDirectory(tmp_path)
    try:
        predictions = learner.learn(table_of([float(i % 7) - 3 for i in range(300)], weight=weight))
        directory.publish(1, Model.of(learner))
    except ModelError as error:
        assert "diverged" in str(error)  # noqa: PT017 - either outcome is right; which one depends on the optimizer
        assert directory.latest() == 0
    else:
        assert np.isfinite(predictions).all()
        assert np.isfinite(directory.load(1).weights).all()


@every_optimizer
def test_a_million_different_values_share_the_slots_there_are(optimizer: str) -> None:
    """Memory is fixed by ``bits``; how many values share a slot is what hashing at random would give."""
    n, bits = 1_000_000, 18
    values = pa.table({"id": pa.array(np.arange(n)), "label": pa.array(np.arange(n) % 10 == 0)})
    encoder = Encoder([InputSpec("id")], bits)
    learner = Learner(encoder, OPTIMIZERS[optimizer](), label="label")
    predictions = learner.learn(values)
    assert learner.records.shape == (1 << bits, 4)
    assert np.isfinite(predictions).all()
    used = np.count_nonzero(learner.records[:, WEIGHT])
    expected = (1 << bits) * (1 - math.exp(-n / (1 << bits)))
    assert used == pytest.approx(expected, rel=0.01)
    if optimizer == "ftrl":
        (own, _) = collisions(encoder, values).to_pylist()
        assert own["values"] == n
        assert own["slots"] == pytest.approx(expected, rel=0.01)
        assert own["share"] == pytest.approx(1 - math.exp(-n / (1 << bits)), abs=0.01)
