"""FTRL-proximal: per-coordinate follow-the-regularised-leader with L1 and L2."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from dovetail.platform.compiling import compiled_as_ieee
from dovetail.trainer.arithmetic import Float32, UInt32
from dovetail.trainer.losses import is_label, prediction_of
from dovetail.trainer.optimizers.kernels import KernelOptimizer, Kernels
from dovetail.trainer.optimizers.optimizer import Range
from dovetail.trainer.samples.memory import AHEAD, prefetch_row

__all__ = ["Ftrl"]

# float32 numbers in a 256-bit vector.
_LANES = 8


@dataclass(frozen=True, slots=True)
class Ftrl(KernelOptimizer):
    """McMahan et al., "Ad Click Prediction: a View from the Trenches", KDD 2013, algorithm 1, with TensorFlow's extras.

    For each occurrence of a slot, with gradient g = (p - y)·weight·value, unless g is zero::

        n'    = n + g²
        sigma = (n'^-lr_power - n^-lr_power) / alpha
        z'    = z + g + l2_shrinkage·w - sigma·w
        w'    = 0                                                               if |z'| <= l1
                (sign(z')·l1 - z') / ((beta + n'^-lr_power) / alpha + l2)       otherwise

    So L1 puts a weight back to zero when \\|z\\| falls back to ``l1``. ``lr_power`` -0.5 is the paper's 1/√n step;
    0 keeps the step from decaying, for a world that moves.

    **The factor of two.** ``l2`` is the paper's λ₂, added to the denominator as it is. TensorFlow and Keras minimise
    ``l2·w²`` where the paper has ``λ₂/2·w²``: their ``l2_regularization_strength`` is half of this ``l2``, their
    ``l2_shrinkage_regularization_strength`` half of this ``l2_shrinkage``.

    A record is (w, z, √n, spare). √n instead of n: for ``lr_power`` -0.5 the step then needs one square root, not two.
    For any other power n^-lr_power is (√n)^(-2·lr_power). Arithmetic is float32, margins are summed in float64.

    >>> import numpy as np
    >>> from dovetail.trainer.samples.encoding import Encoded
    >>> ftrl = Ftrl(alpha=1.0, beta=1.0)
    >>> records = ftrl.new_records(bits=2)
    >>> one = Encoded(np.array([[3]], np.uint32), np.array([[1.0]], np.float32))
    >>> labels = weights = np.array([1.0], np.float32)
    >>> ftrl.train(records, one, labels, weights).tolist()  # predicted before it trained
    [0.5]
    >>> records[3].tolist()  # g = -0.5, so n = 0.25, z = -0.5 and w = 0.5 / (1 + 0.5)
    [0.3333333432674408, -0.5, 0.5, 0.0]

    :raises ConfigError: a hyperparameter is not finite or outside its range.
    """

    name: ClassVar[str] = "ftrl"
    layout: ClassVar[tuple[str, str, str, str]] = ("w", "z", "sqrt_n", "spare")
    ranges: ClassVar[dict[str, Range]] = {"alpha": Range(0.0, open=True), "lr_power": Range(-0.5, 0.0)}

    #: Step size; above 0.
    alpha: float = 0.1
    #: Keeps the first steps small; the paper's advice is 1.
    beta: float = 1.0
    #: Threshold on |z| below which a weight is zero.
    l1: float = 0.0
    #: The paper's λ₂; twice TensorFlow's.
    l2: float = 0.0
    #: How fast the step decays with n: -0.5 (the paper) … 0 (not at all).
    lr_power: float = -0.5
    #: Twice TensorFlow's.
    l2_shrinkage: float = 0.0
    #: n of a slot never trained; TensorFlow uses 0.1, the paper 0.
    initial_accumulator: float = 0.0

    def blank(self) -> Float32:
        return np.array([0.0, 0.0, math.sqrt(self.initial_accumulator), 0.0], np.float32)

    def hot_start(self, weights: Float32) -> Float32:
        """Records with exactly ``weights`` and z0 = -w0·((beta + n0^-lr_power)/alpha + l2) - sign(w0)·l1.

        That z0 is the one that gives w0 back, so the first update moves on from w0 instead of overwriting it (with
        TensorFlow's z0 = 0 it is lost). Recomputing w from z rounds within half a unit in the last place of z0.
        """
        records = super(Ftrl, self).hot_start(weights)
        w0 = weights.astype(np.float64)
        rate = float(records[0, 2]) ** (-2.0 * self.lr_power)
        records[:, 1] = -w0 * ((self.beta + rate) / self.alpha + self.l2) - np.sign(w0) * self.l1
        return records

    @property
    def kernels(self) -> Kernels:
        return Kernels(_apply, _progressive)

    def constants(self) -> tuple[np.float32, np.float32, np.float32, np.float32, np.float32, np.float32]:
        return (
            np.float32(1.0 / self.alpha),
            np.float32(self.beta),
            np.float32(self.l1),
            np.float32(self.l2),
            np.float32(self.l2_shrinkage),
            np.float32(-2.0 * self.lr_power),
        )


@compiled_as_ieee
def _rate(root: np.float32, exponent: np.float32) -> np.float32:
    """n^-lr_power from √n; the two ends need no power function."""
    if exponent == np.float32(1):
        return root
    if exponent == np.float32(0):
        return np.float32(1)
    return np.float32(root**exponent)


@compiled_as_ieee
def _grown(root: np.float32, g: np.float32) -> np.float32:
    return np.float32(math.sqrt(root * root + g * g))


@compiled_as_ieee
def _step(
    w: np.float32,
    z: np.float32,
    root: np.float32,
    g: np.float32,
    new_root: np.float32,
    rate_before: np.float32,
    rate: np.float32,
    per_alpha: np.float32,
    beta: np.float32,
    l1: np.float32,
    l2: np.float32,
    shrinkage: np.float32,
) -> tuple[np.float32, np.float32, np.float32]:
    sigma = (rate - rate_before) * per_alpha
    new_z = z + (g + shrinkage * w) - sigma * w
    threshold = l1 if new_z > np.float32(0) else -l1
    moved = (threshold - new_z) / ((beta + rate) * per_alpha + l2)
    new_w = np.float32(0) if abs(new_z) <= l1 else moved
    # Padding and absent inputs have no gradient. Selects, not a branch: the loop over inputs stays vectorised.
    still = g == np.float32(0)
    return w if still else new_w, z if still else new_z, root if still else new_root


@compiled_as_ieee
def _apply(
    records: Float32,
    slots: UInt32,
    gradients: Float32,
    per_alpha: np.float32,
    beta: np.float32,
    l1: np.float32,
    l2: np.float32,
    shrinkage: np.float32,
    exponent: np.float32,
) -> None:
    """One update per slot, each reading what the one before wrote."""
    for i in range(len(slots)):
        s, g = slots[i], gradients[i]
        w, z, root = records[s, 0], records[s, 1], records[s, 2]
        after = _grown(root, g)
        before, rate = _rate(root, exponent), _rate(after, exponent)
        w, z, root = _step(w, z, root, g, after, before, rate, per_alpha, beta, l1, l2, shrinkage)
        records[s, 0], records[s, 1], records[s, 2] = w, z, root


@compiled_as_ieee
def _acceptable(slots: UInt32, label: np.float32, weight: np.float32, size: int, loss: int) -> bool:
    # ``size`` is a power of two, so one OR tells whether any slot is outside.
    seen = np.uint32(0)
    for j in range(len(slots)):
        seen |= slots[j]
    return bool(seen < size and is_label(label, loss) and weight >= 0 and weight < np.inf)


@compiled_as_ieee
def _prefetch(records: Float32, slots: UInt32) -> None:
    for j in range(len(slots)):
        prefetch_row(records, int(slots[j]))


@compiled_as_ieee
def _unsign(records: Float32, slots: UInt32) -> None:
    for j in range(len(slots)):
        records[slots[j], 3] = np.float32(0)


@compiled_as_ieee
def _move(
    w: Float32,
    z: Float32,
    root: Float32,
    g: Float32,
    per_alpha: np.float32,
    beta: np.float32,
    l1: np.float32,
    l2: np.float32,
    shrinkage: np.float32,
    exponent: np.float32,
) -> None:
    """The step of every input of one example, in place."""
    # One loop per kind of rate: a choice inside would keep the loop from being vectorised, at half the speed.
    if exponent == np.float32(1):
        for j in range(len(w)):
            after = _grown(root[j], g[j])
            w[j], z[j], root[j] = _step(
                w[j], z[j], root[j], g[j], after, root[j], after, per_alpha, beta, l1, l2, shrinkage
            )
    elif exponent == np.float32(0):
        one = np.float32(1)
        for j in range(len(w)):
            after = _grown(root[j], g[j])
            w[j], z[j], root[j] = _step(w[j], z[j], root[j], g[j], after, one, one, per_alpha, beta, l1, l2, shrinkage)
    else:
        for j in range(len(w)):
            after = _grown(root[j], g[j])
            before, rate = _rate(root[j], exponent), _rate(after, exponent)
            w[j], z[j], root[j] = _step(
                w[j], z[j], root[j], g[j], after, before, rate, per_alpha, beta, l1, l2, shrinkage
            )


@compiled_as_ieee
def _progressive(
    records: Float32,
    slots: UInt32,
    values: Float32,
    labels: Float32,
    weights: Float32,
    predictions: Float32,
    loss: int,
    per_alpha: np.float32,
    beta: np.float32,
    l1: np.float32,
    l2: np.float32,
    shrinkage: np.float32,
    exponent: np.float32,
) -> int:
    n, k = slots.shape
    # Separate arrays, separate loops: gathers overlap their cache misses, and the arithmetic between is vectorised.
    # Filled up to whole vectors: behind the last input there is no gradient and all stays zero. Four arrays, not rows
    # of one: of those the compiler could not tell that they do not overlap.
    padded = (k + _LANES - 1) // _LANES * _LANES
    w, z = np.zeros(padded, np.float32), np.zeros(padded, np.float32)
    root, g = np.zeros(padded, np.float32), np.zeros(padded, np.float32)
    for i in range(n):
        mine = slots[i]
        if not _acceptable(mine, labels[i], weights[i], len(records), loss):
            return i
        for j in range(k):
            s = mine[j]
            w[j], z[j], root[j] = records[s, 0], records[s, 1], records[s, 2]
            # Each occurrence signs the spare field; who finds another's signature has a repeated slot.
            records[s, 3] = np.float32(j)
        _prefetch(records, slots[min(i + AHEAD, n - 1)])
        margin = 0.0
        repeated = False
        for j in range(k):
            margin += np.float64(w[j]) * np.float64(values[i, j])
            repeated |= records[mine[j], 3] != np.float32(j)
        p = prediction_of(margin, loss)
        if not (math.isfinite(margin) and math.isfinite(p)):
            _unsign(records, mine)
            return i
        predictions[i] = p
        error = np.float32((p - labels[i]) * weights[i])
        for j in range(k):
            g[j] = error * values[i, j]
        if repeated or weights[i] == 0:
            _unsign(records, mine)
            if weights[i] != 0:
                _apply(records, mine, g, per_alpha, beta, l1, l2, shrinkage, exponent)
            continue
        _move(w, z, root, g, per_alpha, beta, l1, l2, shrinkage, exponent)
        for j in range(k):
            s = mine[j]
            records[s, 0], records[s, 1], records[s, 2], records[s, 3] = w[j], z[j], root[j], np.float32(0)
    return int(n)
