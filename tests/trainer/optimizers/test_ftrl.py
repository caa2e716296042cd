"""The FTRL kernel: published values, the plain-Python reference, and its edges."""

from __future__ import annotations

import doctest
import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dovetail.platform.errors import ConfigError, ModelError
from dovetail.trainer.arithmetic import MARGIN_LIMIT, Float32, sigmoid
from dovetail.trainer.optimizers import ftrl as ftrl_module
from dovetail.trainer.optimizers.ftrl import Ftrl
from dovetail.trainer.samples.encoding import Encoded
from tests.generated import tries
from tests.trainer.optimizers.reference import ReferenceFtrl


def updated(parameters: Ftrl, weights: Sequence[float], gradients: Sequence[Sequence[float]]) -> list[list[float]]:
    """Weights after plain updates from ``weights`` with z = 0, as TensorFlow starts: kernel's, reference's."""
    bits = max(len(weights) - 1, 1).bit_length()
    records = parameters.new_records(bits)
    records[: len(weights), 0] = weights
    reference = ReferenceFtrl(parameters, len(weights))
    reference.w = list(weights)
    for step in gradients:
        parameters.apply_gradients(records, np.arange(len(step), dtype=np.uint32), np.array(step, np.float32))
        for slot, g in enumerate(step):
            reference.update(slot, g)
    return [records[: len(weights), 0].tolist(), reference.w]


# tensorflow/python/training/ftrl_test.py: learning rate 3, initial accumulator 0.1; l2 and shrinkage doubled here.
@pytest.mark.parametrize(
    ("weights", "l1", "l2", "shrinkage", "steps", "expected"),
    [
        ([0, 0, 0, 0], 0, 0, 0, 3, [-2.60260963, -4.29698515, -0.28432083, -0.56694895]),
        ([1, 2, 4, 3], 0, 0, 0, 3, [-2.55607247, -3.98729396, -0.28232238, -0.56096673]),
        ([1, 2, 4, 3], 0.001, 0, 0, 10, [-7.66718769, -10.91273689, -0.93460727, -1.86147261]),
        ([1, 2, 4, 3], 0.001, 2.0, 0, 10, [-0.24059935, -0.46829352, -0.02406147, -0.04830509]),
        ([1, 2, 4, 3], 0.001, 2.0, 0.1, 10, [-0.22578995, -0.44345796, -0.14378493, -0.13229476]),
    ],
)
def test_tensorflow_values(
    weights: list[float], l1: float, l2: float, shrinkage: float, steps: int, expected: list[float]
) -> None:
    parameters = Ftrl(alpha=3.0, beta=0.0, l1=l1, l2=2 * l2, l2_shrinkage=2 * shrinkage, initial_accumulator=0.1)
    kernel, reference = updated(parameters, weights, [[0.1, 0.2, 0.01, 0.02]] * steps)
    assert reference == pytest.approx(expected, rel=2e-6)
    assert kernel == pytest.approx(expected, rel=1e-5)


# keras/src/optimizers/ftrl_test.py
def test_keras_values() -> None:
    parameters = Ftrl(alpha=0.5, beta=0.0, initial_accumulator=0.1)
    for weights in updated(parameters, [1, 2, 3, 4], [[1, 6, 7, 2]]):
        assert weights == pytest.approx([0.2218, 1.3954, 2.3651, 2.8814], abs=5e-5)


def test_keras_values_with_everything_on() -> None:
    parameters = Ftrl(
        alpha=0.05, beta=0.3, l1=0.05, l2=2 * 0.15, lr_power=-0.2, l2_shrinkage=2 * 0.01, initial_accumulator=0.4
    )
    first = [0.01] * 10
    for weights in updated(parameters, [1.0] * 10, [first]):
        assert weights == [0.0] * 10
    ramp = [step / 10 for step in range(1, 11)]
    by_step = [(-0.0034, -0.0354), (-0.0078, -0.0685), (-0.0121, -0.0999), (-0.0164, -0.1299)]
    for count, (low, high) in enumerate(by_step, start=1):
        for weights in updated(parameters, [1.0] * 10, [first, *[ramp] * count]):
            assert (weights[0], weights[-1]) == pytest.approx((low, high), abs=5.1e-5)


def test_the_docstring_example_runs() -> None:
    outcome = doctest.testmod(ftrl_module)
    assert outcome.attempted > 0
    assert outcome.failed == 0


examples = st.lists(
    st.tuples(
        st.lists(
            st.tuples(st.integers(0, 7), st.floats(-2, 2, width=32, allow_subnormal=False)), min_size=3, max_size=3
        ),
        st.booleans(),
        st.sampled_from([0.0, 0.5, 1.0, 3.0]),
    ),
    min_size=1,
    max_size=30,
)
parameter_sets = st.builds(
    Ftrl,
    alpha=st.floats(0.01, 2),
    beta=st.floats(0.1, 2),
    l1=st.sampled_from([0.0, 0.1, 0.5]),
    l2=st.sampled_from([0.0, 1.0]),
    lr_power=st.sampled_from([-0.5, -0.3, 0.0]),
    l2_shrinkage=st.sampled_from([0.0, 0.1]),
    initial_accumulator=st.sampled_from([0.0, 0.1, 1.0]),
)


@settings(max_examples=tries(150), deadline=None)
@given(parameter_sets, examples)
def test_kernel_equals_the_reference(parameters: Ftrl, rows: list[tuple[list[tuple[int, float]], bool, float]]) -> None:
    # Eight slots and three inputs: most examples repeat a slot, so both ways through the kernel are taken.
    reference = ReferenceFtrl(parameters, 8)
    expected = [
        reference.learn([s for s, _ in inputs], [v for _, v in inputs], float(label), weight)
        for inputs, label, weight in rows
    ]
    encoded = Encoded(
        np.array([[s for s, _ in inputs] for inputs, _, _ in rows], np.uint32),
        np.array([[v for _, v in inputs] for inputs, _, _ in rows], np.float32),
    )
    records = parameters.new_records(3)
    labels = np.array([label for _, label, _ in rows], np.float32)
    predictions = parameters.train(records, encoded, labels, np.array([w for _, _, w in rows], np.float32))
    assert predictions == pytest.approx(expected, rel=1e-3, abs=1e-4)
    assert records[:, 0] == pytest.approx(reference.w, rel=1e-3, abs=2e-4)
    assert records[:, 2] == pytest.approx(np.sqrt(reference.n), rel=1e-4)
    assert not records[:, 3].any()


@settings(max_examples=tries(30), deadline=None)
@given(examples, st.integers(0, 30))
def test_cutting_a_batch_changes_no_bit(rows: list[tuple[list[tuple[int, float]], bool, float]], cut: int) -> None:
    parameters = Ftrl(l1=0.1)
    slots = np.array([[s for s, _ in inputs] for inputs, _, _ in rows], np.uint32)
    values = np.array([[v for _, v in inputs] for inputs, _, _ in rows], np.float32)
    labels = np.array([label for _, label, _ in rows], np.float32)
    weights = np.array([w for _, _, w in rows], np.float32)
    whole, pieces = parameters.new_records(3), parameters.new_records(3)
    together = parameters.train(whole, Encoded(slots, values), labels, weights)
    apart = [
        parameters.train(pieces, Encoded(slots[part], values[part]), labels[part], weights[part])
        for part in (slice(cut), slice(cut, None))
    ]
    assert whole.tobytes() == pieces.tobytes()
    assert together.tobytes() == np.concatenate(apart).tobytes()


def one_example(slot: int = 0, value: float = 1.0) -> Encoded:
    return Encoded(np.array([[slot]], np.uint32), np.array([[value]], np.float32))


def ones(n: int = 1) -> Float32:
    return np.ones(n, np.float32)


def test_l1_puts_a_weight_back_to_zero() -> None:
    parameters = Ftrl(alpha=1.0, l1=0.4)
    records = parameters.new_records(1)
    slot = np.zeros(1, np.uint32)
    parameters.apply_gradients(records, slot, np.array([-0.5], np.float32))
    assert records[0, 0] > 0
    parameters.apply_gradients(records, slot, np.array([0.3], np.float32))
    assert records[0, 0] == 0
    assert abs(records[0, 1]) <= 0.4


@settings(max_examples=tries(50), deadline=None)
@given(parameter_sets, st.lists(st.floats(-3, 3, width=32), min_size=4, max_size=4))
def test_hot_start_keeps_the_given_weights(parameters: Ftrl, weights: list[float]) -> None:
    given_weights = np.array(weights, np.float32)
    records = parameters.hot_start(given_weights)
    assert records[:, 0].tobytes() == given_weights.tobytes()
    if parameters.l2_shrinkage == 0:
        # A gradient too small to count computes w from z again: the same weight, to the rounding of z.
        parameters.apply_gradients(records, np.arange(4, dtype=np.uint32), np.full(4, 1e-30, np.float32))
        assert records[:, 0] == pytest.approx(given_weights, rel=1e-5, abs=1e-6 * parameters.alpha)
    reference = ReferenceFtrl(parameters, 4)
    reference.hot_start(weights)
    assert records[:, 1] == pytest.approx(reference.z, rel=1e-5, abs=1e-6)


def test_hot_start_goes_on_from_the_given_weights() -> None:
    parameters = Ftrl(alpha=0.1)
    records = parameters.hot_start(np.array([2.0, 0.0], np.float32))
    assert parameters.train(records, one_example(), ones(), ones())[0] == pytest.approx(sigmoid(2.0))
    assert 2.0 < records[0, 0] < 2.1


def test_hot_start_refuses_unusable_weights() -> None:
    with pytest.raises(ModelError, match="got 2 weights of which 1 are not finite"):
        Ftrl().hot_start(np.array([1.0, math.nan], np.float32))
    with pytest.raises(ModelError, match="one per slot of a power of two, got 3 weights"):
        Ftrl().hot_start(ones(3))


def test_weight_zero_predicts_and_changes_nothing() -> None:
    parameters = Ftrl(l2_shrinkage=0.5)
    records = parameters.hot_start(np.array([2.0, 0.0], np.float32))
    before = records.tobytes()
    assert parameters.train(records, one_example(), ones(), ones() * 0)[0] == pytest.approx(sigmoid(2.0))
    assert records.tobytes() == before


def test_predictions_saturate_without_overflow() -> None:
    parameters = Ftrl()
    records = parameters.hot_start(np.array([1e30, -1e30], np.float32))
    high = parameters.train(records, one_example(0), ones(), ones() * 0)[0]
    low = parameters.train(records, one_example(1), ones(), ones() * 0)[0]
    assert 1 - 2.0**-22 < high < 1
    assert 0 < low < 2.0**-22
    assert sigmoid(1e308) == sigmoid(MARGIN_LIMIT)


@pytest.mark.parametrize(
    ("encoded", "label", "weight", "message"),
    [
        (one_example(slot=2), 1.0, 1.0, "slot 2 is outside the 2 records; encoder and model differ in bits"),
        (one_example(), 0.5, 1.0, "its label is 0.5; labels must be 0 or 1"),
        (one_example(), math.nan, 1.0, "its label is nan; labels must be 0 or 1"),
        (one_example(), 1.0, -1.0, "its sample weight is -1.0; weights must be finite and not negative"),
        (one_example(), 1.0, math.inf, "its sample weight is inf; weights must be finite and not negative"),
        (one_example(value=math.nan), 1.0, 1.0, "its input values are not finite"),
        (one_example(value=-math.inf), 1.0, 1.0, "its input values are not finite"),
    ],
)
def test_an_unusable_example_is_refused_and_not_trained(
    encoded: Encoded, label: float, weight: float, message: str
) -> None:
    parameters = Ftrl()
    records = parameters.new_records(1)
    with pytest.raises(ModelError, match=f"example 0 of this batch was refused: {message}"):
        parameters.train(records, encoded, np.array([label], np.float32), np.array([weight], np.float32))
    assert not records.any()


def test_a_diverged_model_is_refused() -> None:
    parameters = Ftrl()
    records = parameters.new_records(1)
    records[0, 0] = np.inf
    with pytest.raises(ModelError, match=r"example 0 .* the model has diverged .* lower alpha"):
        parameters.train(records, one_example(), ones(), ones())


def test_misshapen_arrays_are_refused() -> None:
    parameters = Ftrl()
    records = parameters.new_records(1)
    with pytest.raises(ModelError, match=r"labels must be contiguous float32 \[1\], got float64 \[1\]"):
        parameters.train(records, one_example(), np.ones(1), ones())  # type: ignore[arg-type]
    with pytest.raises(ModelError, match=r"slots must be contiguous uint32 \[2, 1\], got uint32 \[1, 1\]"):
        parameters.train(records, one_example(), ones(2), ones(2))
    with pytest.raises(ModelError, match="weights must be contiguous"):
        parameters.train(records, one_example(), ones(), np.ones(2, np.float32)[:1:2][:0])
    with pytest.raises(ModelError, match="3 records are not a power of two"):
        parameters.train(np.zeros((3, 4), np.float32), one_example(), ones(), ones())


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"alpha": 0.0}, "ftrl: alpha = 0.0 is out of bounds; make it finite and above 0"),
        ({"beta": -1.0}, r"ftrl: beta = -1.0 is out of bounds; make it finite and in 0…inf"),
        ({"l1": math.nan}, "ftrl: l1 = nan is out of bounds"),
        ({"l2": math.inf}, "ftrl: l2 = inf is out of bounds"),
        ({"lr_power": 0.1}, "ftrl: lr_power = 0.1 is out of bounds; make it finite and in -0.5…0"),
    ],
)
def test_hyperparameters_out_of_range_are_refused(wrong: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Ftrl(**wrong)
