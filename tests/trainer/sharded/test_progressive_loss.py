"""Loss under staleness: a model that has begun loses hardly anything by the batches that its weights lack."""

from __future__ import annotations

import numpy as np
import pytest

from dovetail.trainer.arithmetic import Float64
from dovetail.trainer.modes import train_batch
from dovetail.trainer.optimizers import DelayCompensated, Ftrl, Optimizer
from dovetail.trainer.sharded.one_process import ShardedTrainer
from tests.trainer.sharded.workers import BITS, Batch, some_batches


@pytest.fixture(scope="module")
def batches() -> list[Batch]:
    return some_batches(1_500, seed=3, rows=16)


def losses(batches: list[Batch], optimizer: Optimizer, staleness: int | None) -> Float64:
    """The log-loss of each example, predicted before it was trained on."""
    trainer = ShardedTrainer(optimizer.new_records(BITS), optimizer, shards=4, staleness=staleness, seed=1)
    p = np.concatenate([trainer.train(*batch) for batch in batches]).astype(np.float64)
    labels = np.concatenate([labels for _, labels, _ in batches])
    return -np.where(labels > 0, np.log(p), np.log1p(-p))


@pytest.mark.parametrize("compensation", [0.0, 0.1])
@pytest.mark.parametrize("staleness", [4, None])
def test_a_model_that_has_begun_loses_less_than_a_thousandth(
    batches: list[Batch], staleness: int | None, compensation: float
) -> None:
    optimizer: Optimizer = Ftrl(l1=0.01)
    if compensation:
        optimizer = DelayCompensated(optimizer, compensation)
    fresh, late = losses(batches, optimizer, 0), losses(batches, optimizer, staleness)
    half = len(fresh) // 2
    assert late[half:].mean() < 1.001 * fresh[half:].mean()


def test_without_staleness_the_loss_is_that_of_mini_batches(batches: list[Batch]) -> None:
    optimizer = Ftrl(l1=0.01)
    records = optimizer.new_records(BITS)
    p = np.concatenate([train_batch(optimizer, records, *batch) for batch in batches[:50]]).astype(np.float64)
    labels = np.concatenate([labels for _, labels, _ in batches[:50]])
    assert (losses(batches[:50], optimizer, 0) == -np.where(labels > 0, np.log(p), np.log1p(-p))).all()
