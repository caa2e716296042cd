"""Fast-emitted samples with their weights have the gradient of the true labels."""

from __future__ import annotations

import doctest

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dovetail.trainer import delayed_labels
from dovetail.trainer.delayed_labels import fnc_calibrated, fnw_weights


def test_the_docstring_examples_run() -> None:
    outcome = doctest.testmod(delayed_labels)
    assert outcome.attempted > 0
    assert outcome.failed == 0


@given(st.floats(0.01, 0.99))
def test_at_the_true_rate_the_weighted_gradient_vanishes(rate: float) -> None:
    # Of 1 + rate emitted samples, 1 is a negative and ``rate`` a positive.
    p = np.array([rate, rate], np.float32)
    negative, positive = fnw_weights(p, np.array([0, 1], np.float32)).tolist()
    assert negative * rate == pytest.approx(rate * positive * (1 - rate), rel=1e-5)


@given(st.floats(0.01, 0.99))
def test_calibration_undoes_the_dilution_of_positives(rate: float) -> None:
    biased = np.array([rate / (1 + rate)], np.float32)
    assert fnc_calibrated(biased)[0] == pytest.approx(rate, rel=1e-4)
