"""Small samples tables and models that the trainer's tests share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from dovetail.trainer.learner import Learner
from dovetail.trainer.metrics.progressive import Evaluation
from dovetail.trainer.optimizers.ftrl import Ftrl
from dovetail.trainer.samples.encoding import Encoder, InputSpec
from tests.trainer.trainer_bench import UNIQUE, Bench


@pytest.fixture
def samples() -> Callable[[int], pa.Table]:
    """Makes n deterministic samples whose label depends on their category."""

    def make(n: int) -> pa.Table:
        rng = np.random.default_rng(20130811)
        category = rng.integers(0, 12, n)
        label = rng.random(n) < (category + 1) / 16
        return pa.table(
            {
                "category": pa.array([f"c{c}" for c in category.tolist()]),
                "user_id": pa.array(rng.integers(0, 50, n)),
                "price": pa.array(rng.exponential(20.0, n), mask=rng.random(n) < 0.1),
                "clicked": pa.array(label),
                "importance": pa.array(rng.integers(0, 4, n) / 2.0),
            }
        )

    return make


@pytest.fixture
def encoder() -> Encoder:
    inputs = [
        InputSpec("category"),
        InputSpec("user_id"),
        InputSpec("price", "numeric"),
        InputSpec("price", "bucketed", (1.0, 10.0, 50.0)),
    ]
    return Encoder(inputs, bits=8)


@pytest.fixture
def ftrl() -> Ftrl:
    return Ftrl(alpha=0.3, beta=1.0, l1=0.05, l2=0.1, lr_power=-0.4, initial_accumulator=0.1)


@pytest.fixture
def new_learner(encoder: Encoder, ftrl: Ftrl) -> Callable[[], Learner]:
    return lambda: Learner(
        encoder, ftrl, label="clicked", weight="importance", evaluation=Evaluation(window=40, windows=3)
    )


@pytest.fixture
def bench(tmp_path: Path, samples: Callable[[int], pa.Table], encoder: Encoder, ftrl: Ftrl) -> Bench:
    return Bench(samples(UNIQUE), encoder, ftrl, tmp_path)
