"""Passes, shuffles, mini-batches and hot starts over stored samples."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dovetail.platform.errors import ConfigError
from dovetail.trainer.batch_training import (
    Schedule,
    batches,
    shuffled,
    train,
    train_passes,
)
from dovetail.trainer.learner import Learner
from dovetail.trainer.metrics.progressive import Evaluation
from dovetail.trainer.optimizers import Ftrl, Optimizer
from dovetail.trainer.samples.encoding import Encoder
from tests.generated import tries

Cuts = st.lists(st.integers(0, 100), max_size=5)
fixtures_are_fine = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=tries(25))


def pieces(table: pa.Table, cuts: list[int]) -> list[pa.Table]:
    return [table.slice(a, b - a) for a, b in pairwise([0, *sorted(cuts), table.num_rows])]


@fixtures_are_fine
@given(cuts=Cuts, rows=st.integers(1, 130))
def test_shuffles_and_batches_do_not_depend_on_cuts(
    samples: Callable[[int], pa.Table], cuts: list[int], rows: int
) -> None:
    table = samples(100)
    blocks = list(batches(pieces(table, cuts), rows))
    assert [block.num_rows for block in blocks] == [rows] * (100 // rows) + [100 % rows] * (100 % rows > 0)
    assert pa.concat_tables(blocks).equals(table.combine_chunks()) or pa.concat_tables(blocks).equals(table)
    mixed = pa.concat_tables(shuffled(pieces(table, cuts), rows, seed=1))
    assert mixed.equals(pa.concat_tables(shuffled([table], rows, seed=1)))
    assert sorted(map(str, mixed.to_pylist())) == sorted(map(str, table.to_pylist()))
    assert pa.concat_tables(shuffled([table], 0, seed=1)).equals(table)


@pytest.mark.parametrize("schedule", [Schedule(2, 50, 3), Schedule(2, batch=16), Schedule(1), Schedule(2, threads=1)])
@fixtures_are_fine
@given(cuts=Cuts)
def test_training_does_not_depend_on_cuts(
    samples: Callable[[int], pa.Table], new_learner: Callable[[], Learner], schedule: Schedule, cuts: list[int]
) -> None:
    table = samples(100)
    learners = new_learner(), new_learner()
    answers = [
        train_passes(learner, lambda given=given: given, schedule)  # type: ignore[misc]
        for learner, given in zip(learners, ([table], pieces(table, cuts)), strict=True)
    ]
    assert learners[0].records.tobytes() == learners[1].records.tobytes()
    assert answers[0] == answers[1]
    assert answers[0][0][0][1].samples == 100
    assert len(answers[0][1]) == schedule.passes


def test_more_passes_lower_the_loss_of_seen_samples(
    samples: Callable[[int], pa.Table], new_learner: Callable[[], Learner]
) -> None:
    table = samples(500)
    _, losses = train_passes(new_learner(), lambda: [table], Schedule(4))
    assert losses == sorted(losses, reverse=True)
    first, empty = train_passes(new_learner(), lambda: [table[:0]], Schedule())
    assert first[0][1].samples == 0
    assert np.isnan(empty).all()


def test_seed_and_increment_equals_hot_start(
    samples: Callable[[int], pa.Table], encoder: Encoder, ftrl: Optimizer
) -> None:
    table = samples(400)
    seed = train([table[:300]], encoder=encoder, optimizer=ftrl, label="clicked")
    hot = ftrl.hot_start(seed.records[:, 0].copy())
    went_on = train([table[300:]], encoder=encoder, optimizer=ftrl, label="clicked", records=hot)
    fresh = train([table[300:]], encoder=encoder, optimizer=ftrl, label="clicked")
    assert (went_on.evaluation.total().log_loss or 9) < (fresh.evaluation.total().log_loss or 0)


def test_a_step_size_that_never_decays_follows_a_world_that_turns(encoder: Encoder) -> None:
    rng = np.random.default_rng(4)
    category = rng.integers(0, 2, 8000)
    turned = np.arange(8000) >= 6000
    label = rng.random(8000) < np.where((category == 1) ^ turned, 0.8, 0.2)
    table = pa.table(
        {"category": category.astype(str), "user_id": np.zeros(8000), "price": np.ones(8000), "clicked": label}
    )
    loss = {}
    for power in (-0.5, 0.0):
        optimizer = Ftrl(alpha=0.1, lr_power=power)
        learner = train([table], encoder=encoder, optimizer=optimizer, label="clicked", evaluation=Evaluation(1000, 8))
        loss[power] = learner.evaluation.recent()[6].log_loss or 9
    assert loss[0.0] < loss[-0.5] - 0.02


def test_wrong_schedules_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"passes >= 1"):
        Schedule(0)
    with pytest.raises(ConfigError, match="give either batch or threads"):
        Schedule(batch=8, threads=2)
