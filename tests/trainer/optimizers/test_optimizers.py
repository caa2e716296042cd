"""What every optimizer must do, for every optimizer there is; and the values others have published."""

from __future__ import annotations

import doctest
import importlib
import inspect
import math
import pkgutil
from dataclasses import fields

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dovetail.platform.errors import ConfigError, ModelError
from dovetail.trainer import optimizers
from dovetail.trainer.arithmetic import Float32
from dovetail.trainer.modes import train_batch, train_hogwild
from dovetail.trainer.optimizers import OPTIMIZERS, AdaGrad, AdaMom, DelayCompensated, Ftrl, Optimizer, optimizer_named
from dovetail.trainer.optimizers.sums import sums_by_slot
from dovetail.trainer.samples.encoding import Encoded
from tests.generated import tries
from tests.trainer.optimizers.reference import reference_of

MODULES = [
    importlib.import_module(f"{optimizers.__name__}.{module.name}")
    for module in pkgutil.iter_modules(optimizers.__path__)
]
KINDS = sorted(
    {
        value
        for module in MODULES
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, Optimizer) and not inspect.isabstract(value)
    },
    key=lambda kind: kind.name,
)
PLAIN = [kind for kind in KINDS if kind is not DelayCompensated]


def made(kind: type[Optimizer]) -> Optimizer:
    return DelayCompensated(Ftrl(l1=0.01)) if kind is DelayCompensated else kind()


every_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
every_plain_kind = pytest.mark.parametrize("kind", PLAIN, ids=lambda kind: kind.name)


def examples(n: int, seed: int = 7, slots: int = 16, k: int = 4) -> tuple[Encoded, Float32, Float32]:
    rng = np.random.default_rng(seed)
    chosen = rng.integers(0, slots, (n, k)).astype(np.uint32)
    values = rng.choice([0.0, 0.5, 1.0, -1.0], (n, k)).astype(np.float32)
    labels = (rng.random(n) < (chosen[:, 0] + 1) / (slots + 1)).astype(np.float32)
    return Encoded(chosen, values), labels, rng.choice([0.0, 1.0, 2.0], n).astype(np.float32)


def log_loss(predictions: Float32, labels: Float32) -> float:
    p = predictions.astype(np.float64)
    return float(-np.where(labels > 0, np.log(p), np.log1p(-p)).mean())


def test_every_algorithm_has_a_name_and_is_registered() -> None:
    assert set(OPTIMIZERS.values()) == set(PLAIN)
    assert {name: kind.name for name, kind in OPTIMIZERS.items()} == {name: name for name in OPTIMIZERS}


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__.rpartition(".")[2])
def test_docstring_examples_run(module: object) -> None:
    outcome = doctest.testmod(module)  # type: ignore[arg-type]
    assert outcome.failed == 0
    if any(isinstance(value, type) and value in PLAIN for value in vars(module).values()):
        assert module.__name__.endswith(("reference", "delay", "base")) or outcome.attempted > 0  # type: ignore[attr-defined]


@every_plain_kind
@settings(max_examples=tries(40), deadline=None)
@given(seed=st.integers(0, 2**32), alpha=st.floats(0.01, 0.5), data=st.data())
def test_the_kernel_equals_the_plain_python_reference(
    kind: type[Optimizer], seed: int, alpha: float, data: st.DataObject
) -> None:
    changes: dict[str, float] = {"alpha": alpha}
    names = {field.name for field in fields(kind)}  # type: ignore[arg-type]
    if "lr_power" in names:
        changes["lr_power"] = data.draw(st.sampled_from([-0.5, -0.3, 0.0]))
    for name in ("l2", "weight_decay"):
        if name in names:
            changes[name] = data.draw(st.sampled_from([0.0, 0.1]))
    optimizer = optimizer_named(kind.name, changes)
    encoded, labels, weights = examples(40, seed)
    records = optimizer.new_records(4)
    predictions = optimizer.train(records, encoded, labels, weights)
    reference = reference_of(optimizer, 16)
    expected = [
        reference.learn(encoded.slots[i].tolist(), encoded.values[i].tolist(), labels[i].item(), weights[i].item())
        for i in range(40)
    ]
    assert predictions == pytest.approx(expected, rel=2e-3, abs=2e-4)
    assert records[:, 0] == pytest.approx(reference.w, rel=2e-3, abs=5e-4)


@every_kind
def test_progressive_loss_equals_the_reference_to_a_millionth(kind: type[Optimizer]) -> None:
    optimizer = made(kind)
    encoded, labels, weights = examples(4000, slots=64)
    records = optimizer.new_records(6)
    mine = log_loss(optimizer.train(records, encoded, labels, weights), labels)
    reference = reference_of(optimizer.optimizer if isinstance(optimizer, DelayCompensated) else optimizer, 64)
    theirs = [
        reference.learn(encoded.slots[i].tolist(), encoded.values[i].tolist(), labels[i].item(), weights[i].item())
        for i in range(4000)
    ]
    assert mine == pytest.approx(log_loss(np.array(theirs), labels), abs=1e-6)


@every_kind
def test_it_learns(kind: type[Optimizer]) -> None:
    optimizer = made(kind)
    encoded, labels, weights = examples(3000, k=1)
    encoded = Encoded(encoded.slots, np.ones_like(encoded.values))
    predictions = optimizer.train(optimizer.new_records(4), encoded, labels, np.maximum(weights, 1))
    assert log_loss(predictions[-1000:], labels[-1000:]) < log_loss(predictions[:200], labels[:200]) - 0.02


@every_kind
@pytest.mark.parametrize("cut", [0, 1, 37, 60])
def test_cutting_changes_no_bit(kind: type[Optimizer], cut: int) -> None:
    optimizer = made(kind)
    (slots, values), labels, weights = examples(60)
    whole, pieces = optimizer.new_records(4), optimizer.new_records(4)
    optimizer.train(whole, Encoded(slots, values), labels, weights)
    for part in (slice(cut), slice(cut, None)):
        optimizer.train(pieces, Encoded(slots[part], values[part]), labels[part], weights[part])
    assert whole.tobytes() == pieces.tobytes()


@every_kind
def test_weight_zero_and_value_zero_change_nothing(kind: type[Optimizer]) -> None:
    optimizer = made(kind)
    encoded, labels, weights = examples(50)
    records = optimizer.hot_start(np.linspace(-1, 1, 16, dtype=np.float32))
    optimizer.train(records, encoded, labels, weights)
    before = records.tobytes()
    optimizer.train(records, encoded, labels, weights * 0)
    optimizer.train(records, Encoded(encoded.slots, encoded.values * 0), labels, weights)
    optimizer.apply_gradients(records, encoded.slots[0], np.zeros(4, np.float32))
    assert records.tobytes() == before


@every_kind
def test_hot_start_keeps_the_weights_and_goes_on_from_them(kind: type[Optimizer]) -> None:
    optimizer = made(kind)
    given_weights = np.array([2.0, -1.0, 0.0, 0.25], np.float32)
    records = optimizer.hot_start(given_weights)
    assert records[:, 0].tobytes() == given_weights.tobytes()
    optimizer.apply_gradients(records, np.array([0], np.uint32), np.array([1e-3], np.float32))
    assert 1.9 < records[0, 0] < 2.0
    assert records[1:, 0].tobytes() == given_weights[1:].tobytes()
    with pytest.raises(ModelError, match="got 3 weights"):
        optimizer.hot_start(np.ones(3, np.float32))


@every_kind
@pytest.mark.parametrize("labels", [0.0, 1.0])
@pytest.mark.parametrize("weight", [1.0, 1e6, 1e30])
def test_one_class_and_huge_weights_stay_finite_or_are_refused(
    kind: type[Optimizer], labels: float, weight: float
) -> None:
    optimizer = made(kind)
    encoded, _, ones = examples(500)
    records = optimizer.new_records(4)
    target = np.full(500, labels, np.float32)
    try:
        predictions = optimizer.train(records, encoded, target, np.maximum(ones, 1) * np.float32(weight))
    except ModelError as error:
        assert "has diverged" in str(error)  # noqa: PT017 - either outcome is right; which one depends on the optimizer
    else:
        assert np.isfinite(predictions).all()


@every_kind
def test_unusable_examples_are_refused(kind: type[Optimizer]) -> None:
    optimizer = made(kind)
    one, slot = np.ones(1, np.float32), np.zeros((1, 1), np.uint32)
    for value in (math.nan, math.inf, -math.inf):
        records = optimizer.new_records(1)
        with pytest.raises(ModelError, match="input values are not finite"):
            optimizer.train(records, Encoded(slot, np.array([[value]], np.float32)), one, one)
    with pytest.raises(ModelError, match="slot 2 is outside the 2 records"):
        optimizer.train(optimizer.new_records(1), Encoded(slot + np.uint32(2), one[:, None]), one, one)
    with pytest.raises(ModelError, match="its label is 3"):
        optimizer.train(optimizer.new_records(1), Encoded(slot, one[:, None]), one * 3, one)


@every_kind
def test_a_mini_batch_is_one_update_of_each_slot(kind: type[Optimizer]) -> None:
    optimizer = made(kind)
    encoded, labels, weights = examples(64)
    records, by_hand = optimizer.new_records(4), optimizer.new_records(4)
    predictions = train_batch(optimizer, records, encoded, labels, weights)
    assert set(predictions.tolist()) == {0.5}
    gradients = ((0.5 - labels) * weights)[:, None] * encoded.values
    sums = np.array([gradients[encoded.slots == slot].sum() for slot in range(16)], np.float32)
    if kind is DelayCompensated:
        for slot in range(16):
            for g in gradients[encoded.slots == slot].tolist():
                moved = np.float32(g + 0.1 * g * g * by_hand[slot, 0])
                optimizer.apply_gradients(by_hand, np.array([slot], np.uint32), np.array([moved], np.float32))
    else:
        optimizer.apply_gradients(by_hand, np.arange(16, dtype=np.uint32), sums)
    assert records == pytest.approx(by_hand, rel=1e-4, abs=1e-5)
    empty = Encoded(encoded.slots[:0], encoded.values[:0])
    assert len(train_batch(optimizer, records, empty, labels[:0], weights[:0])) == 0
    with pytest.raises(ModelError, match=r"its label is [23]"):
        train_batch(optimizer, records, encoded, labels + 2, weights)


@every_kind
def test_hogwild_learns_about_as_well(kind: type[Optimizer]) -> None:
    optimizer = made(kind)
    encoded, labels, weights = examples(3000)
    weights = np.maximum(weights, 1)
    alone = optimizer.train(optimizer.new_records(4), encoded, labels, weights)
    together = train_hogwild(optimizer, optimizer.new_records(4), encoded, labels, weights, threads=3)
    assert log_loss(together, labels) == pytest.approx(log_loss(alone, labels), abs=0.05)
    single = train_hogwild(optimizer, optimizer.new_records(4), encoded, labels, weights, threads=1)
    assert single.tobytes() == alone.tobytes()
    with pytest.raises(ConfigError, match="at least one thread, got 0"):
        train_hogwild(optimizer, optimizer.new_records(4), encoded, labels, weights, threads=0)


# Monolith's operator tests.
def test_adagrad_published_values() -> None:
    adagrad = AdaGrad(alpha=0.1, initial_accumulator=1.0)
    records = adagrad.new_records(1)
    adagrad.apply_gradients(records, np.array([0, 1], np.uint32), np.array([1, 2], np.float32))
    assert records[:, 0] == pytest.approx([-0.07071067, -0.08944272], rel=2e-6)


def test_adamom_published_values() -> None:
    adamom = AdaMom(alpha=0.1, beta1=0.9, beta2=0.99, weight_decay=0.01)
    records = adamom.hot_start(np.array([0.1, 0.0], np.float32))
    adamom.apply_gradients(records, np.array([0], np.uint32), np.array([0.12], np.float32))
    assert records[0] == pytest.approx([0.09000034, 0.0121, 0.014641, 1.0], rel=2e-6)


def test_wrong_optimizers_are_refused() -> None:
    with pytest.raises(ConfigError, match="there is no optimizer 'adam'; write one of adagrad, adamom, ftrl, ogd"):
        optimizer_named("adam", {})
    with pytest.raises(
        ConfigError, match="ogd has no hyperparameter 'l1'; remove it, or write one of alpha, lr_power, l2"
    ):
        optimizer_named("ogd", {"l1": 1.0})
    with pytest.raises(ConfigError, match=r"adamom: beta1 = 1\S* is out of bounds; make it finite and in 0…0\.9999"):
        optimizer_named("adamom", {"beta1": 1.0})
    with pytest.raises(ConfigError, match="compensated already"):
        DelayCompensated(DelayCompensated(Ftrl()))
    with pytest.raises(ConfigError, match="strength must be finite and not negative, got -1"):
        DelayCompensated(Ftrl(), strength=-1.0)


def test_what_an_optimizer_is_goes_into_checkpoints() -> None:
    described = [str(made(kind).describe()) for kind in KINDS]
    assert len(set(described)) == len(KINDS)


@given(
    st.lists(
        st.tuples(
            st.integers(0, 40) | st.integers(0, 2**32 - 1) | st.integers(0, 40).map(lambda n: n << 20),
            st.floats(width=32, allow_nan=False) | st.sampled_from([0.0, -0.0]),
        ),
        max_size=120,
    )
)
def test_gradients_are_summed_by_slot_in_their_order(pairs: list[tuple[int, float]]) -> None:
    slots = np.array([slot for slot, _ in pairs], np.uint32)
    gradients = np.array([gradient for _, gradient in pairs], np.float32)
    distinct, sums = sums_by_slot(slots, gradients)
    expected: dict[int, float] = {}
    for slot, gradient in zip(slots.tolist(), gradients.tolist(), strict=True):
        expected[slot] = expected.get(slot, 0.0) + gradient
    assert distinct.tolist() == list(expected)
    with np.errstate(over="ignore"):
        assert sums.tobytes() == np.array(list(expected.values()), np.float64).astype(np.float32).tobytes()
