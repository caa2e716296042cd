"""The second half of training: the predictions that were made before a row was trained on are evaluated."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy.typing as npt
import pyarrow as pa

from dovetail.platform.errors import ConfigError
from dovetail.trainer.arithmetic import Float32
from dovetail.trainer.losses import Loss
from dovetail.trainer.metrics.groups import Groups
from dovetail.trainer.metrics.measures import Metrics
from dovetail.trainer.metrics.progressive import Evaluation
from dovetail.trainer.metrics.rankings import RankingPolicy, Rankings, scoped_metrics

__all__ = ["Evaluator", "part_of"]


class Evaluator:
    """The evaluation of a model's predictions in total, by windows, groups and requests, in the order of rows.

    :raises ConfigError: evaluation and groups are of another loss than the model.
    """

    def __init__(
        self,
        loss: Loss,
        evaluation: Evaluation | None = None,
        groups: Groups | None = None,
        ranking: RankingPolicy | None = None,
    ) -> None:
        self.evaluation = Evaluation(loss=loss) if evaluation is None else evaluation
        self.groups = Groups(loss=loss) if groups is None else groups
        if {self.evaluation.loss, self.groups.loss} != {loss}:
            raise ConfigError(
                f"a model of {loss} loss is evaluated as one of {self.evaluation.loss} and, in groups, "
                f"{self.groups.loss} loss; give all the same"
            )
        self.rankings = Rankings(ranking or RankingPolicy(), self.evaluation, self.groups)

    @property
    def columns(self) -> set[str]:
        """The columns of rows that are read."""
        return {self.groups.time or "", *self.groups.slices, self.rankings.policy.request or ""} - {""}

    def describe(self) -> dict[str, Any]:
        """As JSON-ready values; part of every checkpoint."""
        return {
            "evaluation": {"window": self.evaluation.window, "windows": self.evaluation.windows},
            "groups": self.groups.describe(),
            "ranking": self.rankings.policy.describe(),
        }

    def add(self, table: pa.Table, predictions: Float32, labels: Float32, weights: Float32) -> None:
        """Account for rows that were predicted, float32 [n] each.

        :raises WireError: a column by which metrics are grouped is absent or of a wrong type, or a time is NULL.
        """
        first = self.evaluation.samples
        self.evaluation.add(predictions, labels, weights)
        places = self.groups.add(table, predictions, labels, weights)
        self.rankings.add(table, first, predictions, labels, places)

    def metrics(self) -> list[tuple[str, Metrics]]:
        """The metrics of the predictions so far, see :func:`~dovetail.trainer.metrics.rankings.scoped_metrics`."""
        return scoped_metrics(self.evaluation, self.groups, self.rankings)

    def state(self) -> dict[str, npt.NDArray[Any]]:
        """The whole state as copied arrays."""
        parts = {
            "evaluation": self.evaluation.state(), "groups": self.groups.state(), "rankings": self.rankings.state(),
        }  # fmt: skip
        return {f"{part}_{name}": array for part, arrays in parts.items() for name, array in arrays.items()}

    def resumed(self, state: Mapping[str, npt.NDArray[Any]]) -> Evaluator:
        """The one that goes on from ``state``, with the same groups; rankings begin anew where it has none."""
        groups = self.groups.anew()
        groups.restore(part_of(state, "groups"))
        evaluation = Evaluation.restore(part_of(state, "evaluation"))
        evaluator = Evaluator(groups.loss, evaluation, groups, self.rankings.policy)
        if rankings := part_of(state, "rankings"):
            evaluator.rankings.restore(rankings)
        return evaluator


def part_of(arrays: Mapping[str, npt.NDArray[Any]], part: str) -> dict[str, npt.NDArray[Any]]:
    """The ``arrays`` of a part of a state, by the names that the part gave them."""
    return {name.removeprefix(f"{part}_"): array for name, array in arrays.items() if name.startswith(f"{part}_")}
