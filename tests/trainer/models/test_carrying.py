"""A hot start with other inputs leaves the weights of those that stay, to the bit."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dovetail.platform.errors import ConfigError
from dovetail.trainer.arithmetic import Float32, Float64
from dovetail.trainer.learner import Learner
from dovetail.trainer.models.carrying import carry
from dovetail.trainer.models.publish import Model
from dovetail.trainer.optimizers import Optimizer, optimizer_named
from dovetail.trainer.samples.encoding import Encoder, InputSpec

BITS = 6  # few enough that inputs share slots
POOL = [
    InputSpec("city"), InputSpec("hour"), InputSpec("hour", "bucketed", (6.0, 18.0)), InputSpec("hour", "numeric"),
    InputSpec("price", "standardised"), InputSpec("hour", "standardised"), InputSpec("tags", "list", length=2),
    InputSpec(kind="cross", columns=("city", "hour")),
]  # fmt: skip


def rows(n: int, seed: int) -> pa.Table:
    rng = np.random.default_rng(seed)
    return pa.table({
        "city": [(None, "a", "b")[kind] for kind in rng.integers(0, 3, n)],
        "hour": pa.array(rng.integers(0, 24, n), mask=rng.random(n) < 0.1),
        "price": rng.normal(5, 3, n),
        "tags": [[f"t{tag}" for tag in rng.integers(0, 9, size)] for size in rng.integers(0, 4, n)],
        "label": pa.array(rng.integers(0, 2, n), pa.int8()),
    })  # fmt: skip


def trained(encoder: Encoder, optimizer: Optimizer, seed: int = 1) -> Model:
    learner = Learner(encoder, optimizer, label="label")
    learner.learn(rows(200, seed))
    return Model.of(learner)


inputs = st.lists(st.sampled_from(POOL), min_size=1, max_size=5, unique=True)


@given(inputs, inputs, st.sampled_from(["ftrl", "ogd", "adagrad", "adamom"]))
def test_inputs_that_stay_contribute_the_same_bits(old: list[InputSpec], new: list[InputSpec], name: str) -> None:
    before, after, optimizer = Encoder(old, BITS), Encoder(new, BITS), optimizer_named(name, {})
    common = [spec for spec in new if spec in old]
    model = trained(before, optimizer)
    if not common:
        with pytest.raises(ConfigError, match="no input in common"):
            carry(model.moments, before, after)
        return
    carried = carry(model.moments, before, after)
    assert carried.kept == [spec.name for spec in common]
    assert carried.added == [spec.name for spec in new if spec not in old]
    assert carried.removed == [spec.name for spec in old if spec not in new]
    records = optimizer.hot_start(model.dense())
    started = Learner(after, optimizer, label="label", records=records, moments=carried.moments)
    some = rows(40, seed=2)
    was = parts(before, model.dense(), model.moments, some)
    now = parts(after, started.records[:, 0], started.moments, some)
    for spec in common:
        for old_part, new_part in zip(was[spec], now[spec], strict=True):
            assert old_part.tobytes() == new_part.tobytes()


def parts(
    encoder: Encoder, weights: Float32, moments: Float64, table: pa.Table
) -> dict[InputSpec, tuple[Float32, Float32]]:
    """What each input is encoded to, and the weights for it."""
    slots, values = encoder.encode(table, moments)
    return {spec: (values[:, place], weights[slots[:, place]]) for spec, place in encoder.places}


@pytest.mark.parametrize(
    ("after", "message"),
    [
        (Encoder(POOL[:1], BITS + 1), "it has bits = 6 and this model 7"),
        (Encoder(POOL[:1], BITS, "poisson"), "it has loss = logistic and this model poisson"),
        (Encoder([InputSpec("hour", "bucketed", (6.0, 12.0))], BITS), "has boundaries 6, 18, this model's has 6, 12"),
    ],
)
def test_weights_that_would_mean_something_else_are_refused(after: Encoder, message: str) -> None:
    before = Encoder(POOL, BITS)
    with pytest.raises(ConfigError, match=message):
        carry(before.new_moments(), before, after)


def test_a_list_may_be_read_further() -> None:
    before, after = (Encoder([InputSpec("tags", "list", length=length)], BITS) for length in (1, 3))
    assert carry(before.new_moments(), before, after)[:3] == (["tags"], [], [])
