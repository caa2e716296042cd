"""The same hashed examples in the same order through Vowpal Wabbit's FTRL: the same model, to what float32 allows.

Vowpal Wabbit comes with the ``bench`` extra; without it these tests are skipped.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dovetail.trainer.encoding import Encoded
from dovetail.trainer.importing import read_vw
from dovetail.trainer.kernels import Float32
from dovetail.trainer.optimizers.ftrl import Ftrl

vowpalwabbit = pytest.importorskip("vowpalwabbit")

BITS = 16
EXAMPLES = 20_000


def examples() -> tuple[Encoded, Float32, Float32]:
    """Zipf-distributed slots, no slot twice in an example, values that float32 holds exactly, weights 1 and 2."""
    rng = np.random.default_rng(20)
    columns = [(np.minimum(rng.zipf(1.3, EXAMPLES), 4000) + 4096 * number) % (1 << BITS) for number in range(8)]
    slots = np.stack(columns, axis=1).astype(np.uint32)
    values = rng.choice([0.5, 1.0, 2.0], slots.shape).astype(np.float32)
    signal = ((slots % 7).astype(np.float64) - 3).sum(axis=1) / 4 - 1
    labels = (rng.random(EXAMPLES) < 1 / (1 + np.exp(-signal))).astype(np.float32)
    return Encoded(slots, values), labels, rng.choice([1.0, 2.0], EXAMPLES).astype(np.float32)


def as_text(encoded: Encoded, labels: Float32, weights: Float32, path: Path) -> None:
    """Integer names in the unnamed namespace are slots as they are."""
    with path.open("w", encoding="utf-8") as file:
        for slots, values, label, weight in zip(*encoded, labels, weights, strict=True):
            features = " ".join(f"{slot}:{value}" for slot, value in zip(slots, values, strict=True))
            file.write(f"{1 if label else -1} {weight} | {features}\n")


def theirs(path: Path, predictions: Path, parameters: Ftrl) -> Float32:
    options = (
        f"--ftrl --ftrl_alpha {parameters.alpha} --ftrl_beta {parameters.beta} --l1 {parameters.l1} "
        f"--l2 {parameters.l2} --loss_function logistic --link logistic --noconstant -b {BITS} "
        f"-d {path} -p {predictions} --quiet"
    )
    workspace: Any = vowpalwabbit.Workspace(options)
    workspace.finish()
    return np.loadtxt(predictions, dtype=np.float32)


def log_loss(p: Float32, labels: Float32, weights: Float32) -> float:
    q = np.clip(p.astype(np.float64), 1e-7, 1 - 1e-7)
    losses = -np.where(labels > 0, np.log(q), np.log1p(-q))
    return float((losses * weights).sum() / weights.sum())


@pytest.mark.parametrize(
    "parameters", [Ftrl(alpha=0.1), Ftrl(alpha=0.05, l1=0.5, l2=0.1), Ftrl(alpha=0.5, beta=0.1, l2=1.0)]
)
def test_progressive_loss_agrees(tmp_path: Path, parameters: Ftrl) -> None:
    encoded, labels, weights = examples()
    weights[:] = 1
    as_text(encoded, labels, weights, tmp_path / "x.vw")
    other = theirs(tmp_path / "x.vw", tmp_path / "p", parameters)
    mine = parameters.train(parameters.new_records(BITS), encoded, labels, weights)
    assert np.abs(mine - other).max() < 2e-3
    assert log_loss(mine, labels, weights) == pytest.approx(log_loss(other, labels, weights), abs=1e-5)


def test_its_text_is_read_as_it_reads_it(tmp_path: Path) -> None:
    encoded, labels, weights = examples()
    part = Encoded(encoded.slots[:500], encoded.values[:500])
    as_text(part, labels[:500], weights[:500], tmp_path / "x.vw")
    (table,) = read_vw(tmp_path / "x.vw")
    assert table.column("label").to_numpy().tolist() == labels[:500].tolist()
    assert table.column("weight").to_numpy().tolist() == weights[:500].tolist()
    flat = table.column("features").combine_chunks().flatten()
    assert flat.field("name").to_pylist() == [str(slot) for slot in part.slots.ravel().tolist()]
    assert flat.field("value").to_pylist() == part.values.ravel().tolist()


def test_importance_weights_mean_the_same(tmp_path: Path) -> None:
    """Both scale the gradient: for FTRL, Vowpal Wabbit does not make its importance-invariant updates."""
    parameters = Ftrl(alpha=0.1)
    encoded, labels, weights = examples()
    as_text(encoded, labels, weights, tmp_path / "x.vw")
    other = theirs(tmp_path / "x.vw", tmp_path / "p", parameters)
    mine = parameters.train(parameters.new_records(BITS), encoded, labels, weights)
    assert log_loss(mine, labels, weights) == pytest.approx(log_loss(other, labels, weights), abs=1e-4)
