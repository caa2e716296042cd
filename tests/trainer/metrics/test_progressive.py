"""Metrics agree with scikit-learn and do not depend on how examples are cut."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dovetail.platform.errors import ConfigError, ModelError
from dovetail.trainer.arithmetic import Float32
from dovetail.trainer.metrics.progressive import Evaluation, Metrics
from tests.generated import tries


def examples(n: int, seed: int) -> tuple[Float32, Float32, Float32]:
    rng = np.random.default_rng(seed)
    margins = np.clip(rng.normal(-1.5, 3.0, n), -16, 16)
    predictions = (1 / (1 + np.exp(-margins))).astype(np.float32)
    labels = (rng.random(n) < predictions).astype(np.float32)
    labels[:2] = 0, 1
    return predictions, labels, (rng.integers(1, 6, n) / 2).astype(np.float32)


def check(mine: Metrics, predictions: Float32, labels: Float32, weights: Float32) -> None:
    from sklearn import metrics as sk

    p, y, c = predictions.astype(np.float64), labels.astype(int), weights.astype(np.float64)
    rate = float((y * c).sum() / c.sum())
    log_loss = sk.log_loss(y, p, sample_weight=c, labels=[0, 1])
    assert mine.samples == len(p)
    assert mine.weight == pytest.approx(c.sum())
    assert mine.log_loss == pytest.approx(log_loss, rel=1e-9)
    assert mine.normalised_entropy == pytest.approx(
        log_loss / -(rate * np.log(rate) + (1 - rate) * np.log(1 - rate)), rel=1e-9
    )
    assert mine.calibration == pytest.approx((p * c).sum() / (y * c).sum(), rel=1e-9)
    assert mine.accuracy == pytest.approx(sk.accuracy_score(y, p >= 0.5, sample_weight=c))
    (tn, fp), (fn, tp) = sk.confusion_matrix(y, p >= 0.5, sample_weight=c)
    cells = mine.confusion
    assert [cells.true_positive, cells.false_positive, cells.false_negative, cells.true_negative] == [tp, fp, fn, tn]
    assert mine.auc is not None
    assert mine.auc_error is not None
    assert abs(mine.auc - sk.roc_auc_score(y, p, sample_weight=c)) <= mine.auc_error + 1e-12


@settings(max_examples=tries(25), deadline=None)
@given(st.integers(2, 400), st.integers(0, 2**32))
def test_agrees_with_scikit_learn(n: int, seed: int) -> None:
    evaluation = Evaluation()
    evaluation.add(*examples(n, seed))
    check(evaluation.total(), *examples(n, seed))


def test_auc_is_within_a_thousandth_on_many_examples() -> None:
    from sklearn import metrics as sk

    evaluation = Evaluation()
    predictions, labels, weights = examples(50_000, 1)
    evaluation.add(predictions, labels, weights)
    total = evaluation.total()
    assert total.auc_error is not None
    assert total.auc_error < 2e-3
    assert total.auc == pytest.approx(sk.roc_auc_score(labels, predictions, sample_weight=weights), abs=1e-4)


def test_windows_hold_the_last_examples_by_count() -> None:
    evaluation = Evaluation(window=100, windows=3)
    predictions, labels, weights = examples(450, 2)
    evaluation.add(predictions, labels, weights)
    recent = evaluation.recent()
    assert [window.samples for window in recent] == [100, 100, 50]
    for window, start in zip(recent, (200, 300, 400), strict=True):
        rows = slice(start, start + 100)
        check(window, predictions[rows], labels[rows], weights[rows])


@settings(max_examples=tries(25), deadline=None)
@given(st.lists(st.integers(0, 300), max_size=6), st.booleans())
def test_cuts_and_restores_change_no_bit(cuts: list[int], restore: bool) -> None:
    arrays = examples(300, 3)
    whole, pieces = Evaluation(70, 2), Evaluation(70, 2)
    whole.add(*arrays)
    bounds = [0, *sorted(cuts), 300]
    for a, b in pairwise(bounds):
        pieces.add(*(array[a:b] for array in arrays))
        if restore:
            pieces = Evaluation.restore(pieces.state())
    for name, array in whole.state().items():
        assert array.tobytes() == pieces.state()[name].tobytes(), name


def test_metrics_without_a_value_are_none() -> None:
    evaluation = Evaluation()
    empty = evaluation.total()
    assert evaluation.recent() == []
    assert (empty.samples, empty.log_loss, empty.auc, empty.auc_error) == (0, None, None, None)
    assert (empty.normalised_entropy, empty.calibration, empty.accuracy) == (None, None, None)
    half, one = np.array([0.5], np.float32), np.ones(1, np.float32)
    evaluation.add(half, one * 0, one)
    negative = evaluation.total()
    assert (negative.auc, negative.normalised_entropy, negative.calibration) == (None, None, None)
    assert negative.log_loss == pytest.approx(np.log(2))
    assert negative.accuracy == 0.0
    evaluation.add(half, one, one)
    assert evaluation.total().auc == 0.5


def test_extreme_predictions_find_a_bin() -> None:
    p = np.array([2.0**-23, 0.49999997, 0.5, 1 - 2.0**-23, 1 - 2.0**-24], np.float32)
    evaluation = Evaluation()
    evaluation.add(p, np.array([0, 0, 1, 1, 1], np.float32), np.ones(5, np.float32))
    assert (evaluation.total().auc, evaluation.total().auc_error) == (1.0, 0.0)


def test_refuses_what_cannot_be_evaluated() -> None:
    one = np.ones(1, np.float32)
    with pytest.raises(ConfigError, match="window >= 1 and windows >= 1, got window=0, windows=3"):
        Evaluation(0, 3)
    for bad in (0.0, 1.0, np.nan):
        with pytest.raises(ModelError, match="they must lie inside"):
            Evaluation().add(one * np.float32(bad), one, one)
    with pytest.raises(ModelError, match="1 predictions against 2 labels and 1 weights"):
        Evaluation().add(one, np.ones(2, np.float32), one)


def test_the_last_metrics_are_of_one_to_two_windows() -> None:
    evaluation = Evaluation(window=100, windows=3)
    assert evaluation.last().samples == 0
    arrays = examples(450, 2)
    evaluation.add(*arrays)
    check(evaluation.last(), *(array[300:] for array in arrays))
    single = Evaluation(window=100, windows=1)
    single.add(*arrays)
    assert single.last().samples == 50
