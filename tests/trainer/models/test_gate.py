"""The gate refuses, says why, and lets nothing through that it cannot measure."""

from __future__ import annotations

import doctest

import numpy as np
import pytest

from dovetail.platform.errors import ConfigError
from dovetail.trainer.metrics.measures import Metrics
from dovetail.trainer.metrics.progressive import Evaluation
from dovetail.trainer.models import gate as gate_module
from dovetail.trainer.models.gate import Gate


def metrics(n: int = 100) -> Metrics:
    evaluation = Evaluation()
    p = np.linspace(0.2, 0.8, n).astype(np.float32)
    evaluation.add(p, (np.arange(n) % 4 == 0).astype(np.float32), np.ones(n, np.float32))
    return evaluation.total()


def test_every_bound_has_its_reason() -> None:
    assert doctest.testmod(gate_module).failed == 0
    assert Gate().reasons(metrics()) == []
    assert Gate(0, 10, 10, 0, 0, 10).reasons(metrics()) == []
    strict = Gate(0, 0.1, 0.2, 0.9, 2.5, 2.6)
    assert [reason.partition(" ")[0] for reason in strict.reasons(metrics())] == [
        "log_loss", "normalised_entropy", "auc", "calibration",
    ]  # fmt: skip
    assert Gate(max_calibration=1.2).reasons(metrics()) == ["calibration is 2 on 100 samples, at most 1.2 is asked"]
    assert Gate(min_samples=101, min_auc=0.1).reasons(metrics()) == ["only 100 recent samples, at least 101 are asked"]


def test_wrong_bounds_are_refused() -> None:
    with pytest.raises(ConfigError, match="a bound is not finite"):
        Gate(min_auc=float("nan"))
    with pytest.raises(ConfigError, match=r"min_calibration 2 is above max_calibration 1"):
        Gate(min_calibration=2, max_calibration=1)
