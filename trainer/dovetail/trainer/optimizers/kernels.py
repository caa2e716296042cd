"""Optimizers whose work is two kernels: the arrays go to them as they came, followed by the hyperparameters."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from dovetail.trainer.arithmetic import Float32, UInt32
from dovetail.trainer.optimizers.optimizer import Optimizer

__all__ = ["KernelOptimizer", "Kernels"]


class Kernels(NamedTuple):
    """The kernels of an optimizer; each takes the arrays (and the loss), then :meth:`KernelOptimizer.constants`."""

    #: Does :meth:`Optimizer.apply_gradients`.
    apply: Callable[..., None]
    #: Does :meth:`Optimizer.progressive`.
    progressive: Callable[..., int]


class KernelOptimizer(Optimizer):
    """An optimizer that is two kernels and the constants that they take."""

    __slots__ = ()

    @property
    @abstractmethod
    def kernels(self) -> Kernels:
        """The two kernels of this optimizer."""

    @abstractmethod
    def constants(self) -> tuple[np.float32, ...]:
        """The hyperparameters as the kernels take them: always as many, in one order."""

    def apply_gradients(self, records: Float32, slots: UInt32, gradients: Float32) -> None:
        self.kernels.apply(records, slots, gradients, *self.constants())

    def progressive(
        self,
        records: Float32,
        slots: UInt32,
        values: Float32,
        labels: Float32,
        weights: Float32,
        predictions_out: Float32,
        loss: int,
    ) -> int:
        given = (records, slots, values, labels, weights, predictions_out)
        return self.kernels.progressive(*given, loss, *self.constants())
