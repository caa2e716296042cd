"""Admission and expiry: rules in row order, part of the checkpoint, off by default."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dovetail.platform.errors import ConfigError, WireError
from dovetail.trainer.learner import Learner
from dovetail.trainer.metrics.groups import Groups
from dovetail.trainer.metrics.progressive import Evaluation
from dovetail.trainer.models.checkpoint import (
    CheckpointStore,
    TrainerProgress,
    image,
    resume,
)
from dovetail.trainer.optimizers.ftrl import Ftrl
from dovetail.trainer.samples.encoding import Encoder, InputSpec
from dovetail.trainer.sharded.one_process import ShardedTrainer
from dovetail.trainer.slots import SlotPolicy

DAY = 86_400_000_000


def rows(ids: list[int], days: list[float] | None = None) -> pa.Table:
    times = [int(day * DAY) for day in days or [100.0] * len(ids)]
    return pa.table(
        {
            "id": pa.array(ids, pa.int64()),
            "label": pa.array([i % 2 == 0 for i in ids], pa.bool_()),
            "request_time": pa.array(times, pa.timestamp("us")),
        }
    )


def learner(policy: SlotPolicy) -> Learner:
    groups = Groups(time="request_time", window_us=DAY, windows=3, slices=["id"], values=2)
    return Learner(
        Encoder([InputSpec("id")], 16), Ftrl(), label="label", slots=policy, evaluation=Evaluation(10, 2), groups=groups
    )


def weights_of(model: Learner, ids: list[int]) -> list[float]:
    slots = model.encoder.encode(rows(ids)).slots[:, 0]
    return [float(weight) for weight in model.records[slots, 0]]


def test_a_value_is_admitted_with_its_nth_appearance() -> None:
    model = learner(SlotPolicy(admit_after=3))
    model.learn(rows([1, 1, 2]))
    assert weights_of(model, [1, 2]) == [0.0, 0.0]
    assert model.slots.admitted == 0
    model.learn(rows([1]))
    first, second = weights_of(model, [1, 2])
    assert first != 0
    assert second == 0
    assert model.slots.admitted == 1
    assert model.weights().weights[0] != 0  # the bias is exempt


def test_admission_by_chance_takes_about_one_over_p_appearances() -> None:
    model = learner(SlotPolicy(admit_probability=0.25))
    ids = list(range(400))
    appearances: Counter[int] = Counter()
    for _ in range(30):
        model.learn(rows(ids))
        appearances.update(i for i, weight in zip(ids, weights_of(model, ids), strict=True) if weight == 0)
    mean = 1 + sum(appearances.values()) / len(ids)
    assert mean == pytest.approx(4, rel=0.2)


def test_what_is_not_seen_for_days_is_forgotten() -> None:
    model = learner(SlotPolicy(expire_days=2))
    model.learn(rows([1, 2], [10, 10]))
    model.learn(rows([2], [12]))
    assert weights_of(model, [1])[0] != 0
    model.learn(rows([3], [13]))
    one, two = weights_of(model, [1, 2])
    assert (one, two != 0) == (0.0, True)
    assert (model.slots.expired, model.slots.newest_day) == (1, 13)
    # A row from the past moves no clock; its slot counts as seen on the newest day.
    model.learn(rows([1], [9]))
    model.learn(rows([3], [15]))
    assert weights_of(model, [1])[0] != 0


def test_rows_of_weight_zero_count_nothing() -> None:
    model = learner(SlotPolicy(admit_after=2, expire_days=9))
    model.preparation.weight = "w"
    silent = rows([1, 1, 1]).append_column("w", pa.array([0.0, 0.0, 0.0]))
    model.learn(silent)
    assert model.slots.state()["slots"].tolist() == []


def test_weights_that_training_starts_from_are_admitted() -> None:
    encoder, ftrl = Encoder([InputSpec("id")], 16), Ftrl()
    dense = np.zeros(1 << 16, np.float32)
    slot = encoder.encode(rows([1])).slots[0, 0]
    dense[slot] = 1.5
    model = Learner(encoder, ftrl, label="label", slots=SlotPolicy(admit_after=5), records=ftrl.hot_start(dense))
    prediction = model.learn(rows([1]))[0]
    assert prediction == pytest.approx(1 / (1 + np.exp(-1.5)))
    assert model.records[slot, 0] != 1.5


policies = st.sampled_from(
    [SlotPolicy(admit_after=2), SlotPolicy(admit_probability=0.5), SlotPolicy(admit_after=2, expire_days=1)]
)


@given(policies, st.lists(st.integers(0, 60), max_size=4), st.integers(0, 60))
def test_neither_cuts_nor_a_resume_change_a_bit(
    tmp_path_factory: pytest.TempPathFactory, policy: SlotPolicy, cuts: list[int], stop: int
) -> None:
    rng = np.random.default_rng(5)
    table = rows(rng.integers(0, 20, 60).tolist(), np.sort(rng.uniform(50, 58, 60)).tolist())
    whole, pieces = learner(policy), learner(policy)
    whole.learn(table)
    folder: Path = tmp_path_factory.mktemp("checkpoints")
    for a, b in pairwise(sorted([0, *cuts, stop, 60])):
        pieces.learn(table.slice(a, b - a))
        if b == stop:
            store = CheckpointStore(folder)
            store.save(image(pieces, TrainerProgress({}, {}, ()), {}), after=store._files.latest())
            checkpoint = store.latest()
            assert checkpoint is not None
            pieces = resume(checkpoint, learner(policy), {})
    assert whole.records.tobytes() == pieces.records.tobytes()
    for mine, other in ((whole.slots, pieces.slots), (whole.groups, pieces.groups)):
        for name, array in mine.state().items():
            assert array.tobytes() == other.state()[name].tobytes(), name


def test_wrong_rules_are_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"admit_after = -1 or admit_probability = 0\.0 is out of bounds; write 0…65535"
    ):
        SlotPolicy(admit_after=-1)
    with pytest.raises(ConfigError, match="two ways of admission; remove one"):
        SlotPolicy(admit_after=2, admit_probability=0.5)
    with pytest.raises(ConfigError, match="expire_days = 3 is out of bounds, or without a time column"):
        SlotPolicy(expire_days=3, time="")
    with pytest.raises(WireError, match="lacks the time column 'request_time'"):
        learner(SlotPolicy(expire_days=3)).learn(rows([1]).drop_columns(["request_time"]))


@pytest.mark.parametrize("policy", [SlotPolicy(admit_after=2, expire_days=3), SlotPolicy(admit_probability=0.5)])
def test_admission_and_expiry_are_the_same_on_shards(policy: SlotPolicy) -> None:
    rng = np.random.default_rng(2)
    ids, days = rng.integers(0, 30, 400), np.sort(rng.uniform(100.0, 115.0, 400))
    table = rows(ids.tolist(), days.tolist())
    one, other = learner(policy), learner(policy)
    sharded = ShardedTrainer(other.records, other.optimizer, shards=5)
    for start in range(0, 400, 25):
        one.learn_batch(table.slice(start, 25))
        other.learn_batch(table.slice(start, 25), sharded)
    sharded.finish()
    assert one.records.tobytes() == other.records.tobytes()
    assert one.metrics() == other.metrics()
    assert one.slots.expired == other.slots.expired
    assert (one.slots.expired > 0) == (policy.expire_days > 0)
