"""The halves of a learner, as splitter and reducer have them, by one recipe."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass

from dovetail.trainer.arithmetic import Float64
from dovetail.trainer.evaluating import Evaluator
from dovetail.trainer.preparing import Preparation
from dovetail.trainer.samples.encoding import Encoder
from dovetail.trainer.settings import Recipe, SampleTopic

__all__ = ["ShardedRecipe"]


@dataclass(frozen=True, slots=True)
class ShardedRecipe:
    """How a model on shards is learnt from ``samples``."""

    recipe: Recipe
    samples: SampleTopic

    def preparation(self, encoder: Encoder | None = None, moments: Float64 | None = None) -> Preparation:
        """A preparation of no rows yet; ``encoder``: of other inputs, with ``moments``."""
        recipe, samples = self.recipe, self.samples
        return Preparation(
            encoder or recipe.encoder, label=samples.label, weight=samples.weight, absent=samples.absent,
            slots=recipe.slots, holdout=recipe.holdout, moments=moments,
        )  # fmt: skip

    def evaluator(self) -> Evaluator:
        """An evaluation of no predictions yet."""
        recipe = self.recipe
        return Evaluator(
            recipe.encoder.loss, deepcopy(recipe.evaluation), deepcopy(recipe.groups), recipe.ranking
        )  # fmt: skip
