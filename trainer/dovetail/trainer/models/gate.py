"""The gate: a candidate serves only if its recent predictions were good enough."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

from dovetail.platform.errors import ConfigError
from dovetail.trainer.metrics.measures import Metrics

__all__ = ["Gate"]


@dataclass(frozen=True, slots=True)
class Gate:
    """Bounds on the metrics of a candidate's recent samples, each predicted before it was trained on.

    A bound that is None is not checked; with none at all, every candidate passes. Before ``min_samples`` samples there
    is nothing to judge by: the candidate is refused if any bound is set. A metric without a value (an AUC of one class)
    fails its bound: what cannot be measured is not let through.

    :raises ConfigError: a bound is not finite, or ``calibration`` bounds are not in order.
    """

    min_samples: int = 0
    max_log_loss: float | None = None
    max_normalised_entropy: float | None = None
    min_auc: float | None = None
    min_calibration: float | None = None
    max_calibration: float | None = None
    max_rmse: float | None = None
    max_mae: float | None = None
    max_poisson_deviance: float | None = None

    def __post_init__(self) -> None:
        bounds = [getattr(self, field.name) for field in fields(self)[1:]]
        if any(bound is not None and not math.isfinite(bound) for bound in bounds) or self.min_samples < 0:
            raise ConfigError(f"gate: a bound is not finite, or min_samples negative: {self}; write numbers")
        low, high = self.min_calibration, self.max_calibration
        if low is not None and high is not None and low > high:
            raise ConfigError(f"gate: min_calibration {low:g} is above max_calibration {high:g}; make it smaller")

    @property
    def open(self) -> bool:
        """No bound is set."""
        return self == Gate(min_samples=self.min_samples)

    def reasons(self, recent: Metrics) -> list[str]:
        """Why a candidate with these metrics must not serve; empty when it may.

        >>> from dovetail.trainer.metrics.progressive import Evaluation
        >>> Gate(min_auc=0.6).reasons(Evaluation().total())
        ['auc has no value on 0 samples, at least 0.6 is asked']
        """
        if self.open:
            return []
        if recent.samples < self.min_samples:
            return [f"only {recent.samples} recent samples, at least {self.min_samples} are asked"]
        checks = [
            ("log_loss", recent.log_loss, None, self.max_log_loss),
            ("normalised_entropy", recent.normalised_entropy, None, self.max_normalised_entropy),
            ("auc", recent.auc, self.min_auc, None),
            ("calibration", recent.calibration, self.min_calibration, self.max_calibration),
            ("rmse", recent.rmse, None, self.max_rmse),
            ("mae", recent.mae, None, self.max_mae),
            ("poisson_deviance", recent.poisson_deviance, None, self.max_poisson_deviance),
        ]
        found = []
        for name, value, low, high in checks:
            for bound, word, broken in (
                (low, "at least", value is None or (low is not None and value < low)),
                (high, "at most", value is None or (high is not None and value > high)),
            ):
                if bound is not None and broken:
                    shown = "has no value" if value is None else f"is {value:.4g}"
                    found.append(f"{name} {shown} on {recent.samples} samples, {word} {bound:g} is asked")
        return found
