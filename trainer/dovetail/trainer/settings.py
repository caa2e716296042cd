"""The parts of a trainer stage: samples to read, a recipe to learn by, checkpoints and publications to leave."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa

from dovetail.platform.rows.encodings.shared import as_dictionaries
from dovetail.platform.rows.wire import decode_arrow
from dovetail.platform.stage import Poll
from dovetail.trainer.learner import Learner
from dovetail.trainer.metrics.groups import Groups
from dovetail.trainer.metrics.progressive import Evaluation
from dovetail.trainer.metrics.rankings import RankingPolicy
from dovetail.trainer.models.gate import Gate
from dovetail.trainer.models.publish import ModelDirectory
from dovetail.trainer.optimizers.optimizer import Optimizer
from dovetail.trainer.samples.encoding import Encoder
from dovetail.trainer.samples.holdout import NOTHING_HELD_OUT, Holdout
from dovetail.trainer.samples.label_columns import Absent
from dovetail.trainer.slots import SlotPolicy

__all__ = ["Checkpointing", "Publication", "Recipe", "SampleTopic"]


def _samples_of(poll: Poll) -> pa.Table:
    return as_dictionaries(decode_arrow(poll))


@dataclass(frozen=True, slots=True)
class SampleTopic:
    """The samples that are trained on: their topic, their form, and the columns that are no inputs of the model.

    ``decode`` turns a poll into a table with own and source position columns, in order of position; lists that the
    candidates of a request share are dictionaries. Without ``weight``
    every sample has weight 1. ``absent`` says what becomes of samples whose label is NULL. ``schema`` is that of the
    columns trained on: what training on them runs is compiled at the start, if it is given.
    """

    topic: str
    decode: Callable[[Poll], pa.Table] = _samples_of
    label: str = "label"
    weight: str | None = "weight"
    schema: pa.Schema | None = None
    absent: Absent = "refuse"


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a model is learnt: its inputs, its optimizer, which slots may learn, and how predictions are evaluated.

    ``evaluation`` and ``groups`` are those of a model that has seen nothing; every learner gets copies.
    """

    encoder: Encoder
    optimizer: Optimizer
    slots: SlotPolicy = field(default_factory=SlotPolicy)
    evaluation: Evaluation = field(default_factory=Evaluation)
    groups: Groups = field(default_factory=Groups)
    ranking: RankingPolicy = field(default_factory=RankingPolicy)
    holdout: Holdout = NOTHING_HELD_OUT

    def untrained(self, samples: SampleTopic, *, small: bool = False) -> Learner:
        """A learner of ``samples`` that has seen nothing; a ``small`` one has few slots, and runs the same code."""
        return Learner(
            self.encoder.small() if small else self.encoder,
            self.optimizer,
            label=samples.label,
            weight=samples.weight,
            absent=samples.absent,
            evaluation=deepcopy(self.evaluation),
            groups=deepcopy(self.groups),
            ranking=self.ranking,
            slots=self.slots,
            holdout=self.holdout,
        )


@dataclass(frozen=True, slots=True)
class Checkpointing:
    """Where a trainer keeps its state, and when: after ``every`` samples, or ``delay_us`` after one that is in none."""

    folder: Path
    every: int = 1_000_000
    delay_us: int = 300_000_000


@dataclass(frozen=True, slots=True)
class Publication:
    """Where versions of the model go, and which: one after ``every`` samples, unless the ``gate`` refuses it.

    With ``delay_us`` there is one, too, when the oldest sample that is in none has waited for that long, and versions
    are numbered by the samples they were trained on. Every ``full_every``-th is a full model, those between are deltas.
    With ``topic`` they also go there, see :mod:`dovetail.trainer.models.mirror`, in messages of at most
    ``max_message_bytes``.
    """

    directory: ModelDirectory
    every: int = 100_000
    full_every: int = 1
    topic: str | None = None
    max_message_bytes: int = 1 << 20
    gate: Gate = field(default_factory=Gate)
    delay_us: int | None = None
