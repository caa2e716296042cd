"""The same hashed examples in the same order through Vowpal Wabbit's FTRL: the same model, to what float32 allows.

What Vowpal Wabbit 9.11 said is written down below and compared with everywhere. Where it is installed (the ``bench``
extra) it is asked again.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest

from dovetail.trainer.arithmetic import Float32
from dovetail.trainer.optimizers.ftrl import Ftrl
from dovetail.trainer.samples.columns import hash_column
from dovetail.trainer.samples.encoding import Encoded
from dovetail.trainer.samples.importing import read_vw

BITS = 16
EXAMPLES = 20_000
PARAMETERS = (Ftrl(alpha=0.1), Ftrl(alpha=0.05, l1=0.5, l2=0.1), Ftrl(alpha=0.5, beta=0.1, l2=1.0))
#: Of the examples with weight 1: log-loss, and the predictions of every 2,500th example. One row per parameter set.
SAID = (
    (0.59852739, [0.5, 0.40628, 0.130262, 0.243394, 0.440486, 0.243928, 0.130607, 0.106512]),
    (0.61277407, [0.5, 0.453146, 0.159791, 0.323144, 0.409296, 0.303146, 0.229204, 0.176548]),
    (0.63416359, [0.5, 0.173649, 0.164991, 0.038297, 0.666366, 0.043519, 0.012969, 0.023134]),
)
#: Log-loss of the examples with their weights, for the first parameter set.
SAID_WEIGHTED = 0.59698518


def uniform(count: int, salt: int) -> npt.NDArray[np.float64]:
    """Numbers in [0, 1) that are the same with every version of NumPy: XXH64 of a counter."""
    hashes = hash_column(pa.array(np.arange(count)), column="c", seed=salt, null=0)
    return (hashes >> np.uint64(11)).astype(np.float64) / 2.0**53


def examples() -> tuple[Encoded, Float32, Float32]:
    """Slots by a power law, no slot twice in an example, values that float32 holds exactly, weights 1 and 2."""
    columns = [
        ((4000 ** uniform(EXAMPLES, number)).astype(np.int64) + 4096 * number) % (1 << BITS) for number in range(8)
    ]
    slots = np.stack(columns, axis=1).astype(np.uint32)
    sizes = (uniform(8 * EXAMPLES, 8) * 3).astype(np.int64).reshape(slots.shape)
    values = np.array([0.5, 1.0, 2.0], np.float32)[sizes]
    signal = ((slots % 7).astype(np.float64) - 3).sum(axis=1) / 4 - 1
    labels = (uniform(EXAMPLES, 9) < 1 / (1 + np.exp(-signal))).astype(np.float32)
    return Encoded(slots, values), labels, np.where(uniform(EXAMPLES, 10) < 0.5, 1.0, 2.0).astype(np.float32)


def as_text(encoded: Encoded, labels: Float32, weights: Float32, path: Path) -> None:
    """Integer names in the unnamed namespace are slots as they are."""
    with path.open("w", encoding="utf-8") as file:
        for slots, values, label, weight in zip(*encoded, labels, weights, strict=True):
            features = " ".join(f"{slot}:{value}" for slot, value in zip(slots, values, strict=True))
            file.write(f"{1 if label else -1} {weight} | {features}\n")


def theirs(path: Path, predictions: Path, parameters: Ftrl) -> Float32:
    vowpalwabbit = pytest.importorskip("vowpalwabbit", reason="Vowpal Wabbit is not installed; what it said is tested")
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


@pytest.mark.parametrize(("parameters", "said"), [*zip(PARAMETERS, SAID, strict=True)])
def test_progressive_loss_is_what_it_said(parameters: Ftrl, said: tuple[float, list[float]]) -> None:
    encoded, labels, weights = examples()
    weights[:] = 1
    mine = parameters.train(parameters.new_records(BITS), encoded, labels, weights)
    assert log_loss(mine, labels, weights) == pytest.approx(said[0], abs=1e-6)
    assert mine[::2500].tolist() == pytest.approx(said[1], abs=1e-5)


def test_importance_weights_mean_what_it_said() -> None:
    encoded, labels, weights = examples()
    mine = PARAMETERS[0].train(PARAMETERS[0].new_records(BITS), encoded, labels, weights)
    assert log_loss(mine, labels, weights) == pytest.approx(SAID_WEIGHTED, abs=1e-6)


@pytest.mark.parametrize(("parameters", "said"), [*zip(PARAMETERS, SAID, strict=True)])
def test_progressive_loss_agrees(tmp_path: Path, parameters: Ftrl, said: tuple[float, list[float]]) -> None:
    encoded, labels, weights = examples()
    weights[:] = 1
    as_text(encoded, labels, weights, tmp_path / "x.vw")
    other = theirs(tmp_path / "x.vw", tmp_path / "p", parameters)
    mine = parameters.train(parameters.new_records(BITS), encoded, labels, weights)
    assert np.abs(mine - other).max() < 2e-3
    assert log_loss(mine, labels, weights) == pytest.approx(log_loss(other, labels, weights), abs=1e-5)
    assert log_loss(other, labels, weights) == pytest.approx(said[0], abs=1e-6)


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
    parameters = PARAMETERS[0]
    encoded, labels, weights = examples()
    as_text(encoded, labels, weights, tmp_path / "x.vw")
    other = theirs(tmp_path / "x.vw", tmp_path / "p", parameters)
    mine = parameters.train(parameters.new_records(BITS), encoded, labels, weights)
    assert log_loss(mine, labels, weights) == pytest.approx(log_loss(other, labels, weights), abs=1e-4)
