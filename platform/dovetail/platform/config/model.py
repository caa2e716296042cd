"""``[model]``, ``[trainer]`` and ``[scorer]`` of ``dovetail.toml``: the embedded model, and one trained elsewhere."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from dovetail.platform.config.broker import Retention
from dovetail.platform.config.durations import DurationUs
from dovetail.platform.config.section import AnyNumber, Name, Section

__all__ = [
    "EvaluationConfig",
    "GateConfig",
    "ModelConfig",
    "ModelInput",
    "OptimizerConfig",
    "ScorerConfig",
    "SlotConfig",
    "TrainerConfig",
]


class ModelInput(Section):
    """One input of the model: a column of the sample, or a cross of several (``trainer/samples/inputs.py``)."""

    column: str = ""
    kind: Literal["categorical", "numeric", "bucketed", "standardised", "list", "cross"] = "categorical"
    boundaries: tuple[float, ...] | None = None
    columns: tuple[str, ...] = ()
    length: int = 0


class OptimizerConfig(Section):
    """The optimizer and its hyperparameters, named as in the papers; which one has which is checked at assembly."""

    name: Literal["ftrl", "ogd", "adagrad", "adamom"] = "ftrl"
    alpha: float = Field(default=0.05, gt=0)
    beta: float | None = Field(default=None, ge=0)
    l1: float | None = Field(default=None, ge=0)
    l2: float | None = Field(default=None, ge=0)
    lr_power: float | None = Field(default=None, ge=-1, le=0)
    l2_shrinkage: float | None = Field(default=None, ge=0)
    initial_accumulator: float | None = Field(default=None, ge=0)
    beta1: float | None = Field(default=None, ge=0, lt=1)
    beta2: float | None = Field(default=None, ge=0, le=1)
    epsilon: float | None = Field(default=None, gt=0)
    weight_decay: float | None = Field(default=None, ge=0)


class SlotConfig(Section):
    """Admission of rare values and expiry of old ones; both off by default."""

    admit_after: int = Field(default=0, ge=0, le=65_535)
    admit_probability: float = Field(default=0.0, ge=0, le=1)
    expire_days: int = Field(default=0, ge=0, le=10_000)


class EvaluationConfig(Section):
    """How the predictions made before training are evaluated."""

    #: Samples per window by count; the gate looks at the last one to two of them.
    window: int = Field(default=100_000, ge=1, le=1_000_000_000)
    windows: int = Field(default=10, ge=1, le=10_000)
    time_window: DurationUs = Field(default=3_600_000_000, gt=0)
    time_windows: int = Field(default=24, ge=1, le=100_000)
    #: Columns of the sample whose values get metrics of their own, the first ``slice_values`` of each.
    slices: tuple[str, ...] = ()
    slice_values: int = Field(default=20, ge=1, le=10_000)
    #: The k of NDCG@k and hit rate@k.
    ranking_at: int = Field(default=10, ge=1, le=10_000)
    #: A request is ranked when so many samples in a row are of others; with ``[labels.order]``, at least a block.
    ranking_reach: int = Field(default=4096, ge=1, le=10_000_000)
    #: The share of requests, by the hash of their id, that is predicted and never trained on; metrics by ``holdout``.
    holdout: float = Field(default=0.0, ge=0, lt=1)


class GateConfig(Section):
    """Bounds that a candidate's recent metrics must keep before it serves; there are none by default."""

    min_samples: int = Field(default=0, ge=0)
    max_log_loss: float | None = Field(default=None, ge=0)
    max_normalised_entropy: float | None = Field(default=None, ge=0)
    min_auc: float | None = Field(default=None, ge=0, le=1)
    min_calibration: float | None = Field(default=None, ge=0)
    max_calibration: float | None = Field(default=None, ge=0)
    max_rmse: float | None = Field(default=None, ge=0)
    max_mae: float | None = Field(default=None, ge=0)
    max_poisson_deviance: float | None = Field(default=None, ge=0)


#: The bounds of a gate that belong to one kind of loss.
_OF_CLASSES = ("max_log_loss", "max_normalised_entropy", "min_auc")
_OF_NUMBERS = ("max_rmse", "max_mae", "max_poisson_deviance")


class ModelConfig(Section):
    """The embedded model: a linear model over hashed inputs."""

    name: Name = "ranking"
    #: What is trained for: ``logistic`` (labels 0 and 1), ``squared`` (numbers) or ``poisson`` (counts).
    loss: Literal["logistic", "squared", "poisson"] = "logistic"
    #: The column of samples that is predicted: ``label``, or one of a label's columns, like ``order_amount``.
    label: Name = "label"
    #: What becomes of samples that have no label: ``zero``, a label of 0; ``skip``, they are predicted only.
    absent_label: Literal["zero", "skip"] | None = None
    inputs: tuple[ModelInput, ...] = Field(min_length=1)
    bits: int = Field(default=18, ge=8, le=28)
    optimizer: OptimizerConfig = OptimizerConfig()
    slots: SlotConfig = SlotConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    gate: GateConfig = GateConfig()
    publish_every: int = Field(default=2_000, ge=1)
    #: A version is published after this long, also when fewer samples came; versions are numbered by samples then.
    publish_delay: DurationUs | None = None
    #: Every n-th version is a full model, those between are deltas.
    full_every: int = Field(default=1, ge=1)
    #: Where published models go beside the directory, for scorers that cannot see it; empty for nowhere.
    topic: str = ""
    #: Score a candidate beside the serving model and keep both scores in the snapshot.
    shadow: bool = False
    checkpoint_every: int = Field(default=20_000, ge=1)
    #: What was trained on is in a checkpoint after this long, also when fewer samples came.
    checkpoint_delay: DurationUs = 300_000_000

    @model_validator(mode="after")
    def _fits_the_loss(self) -> ModelConfig:
        wrong: tuple[str, ...] = _OF_NUMBERS if self.loss == "logistic" else _OF_CLASSES
        if self.loss == "squared":
            wrong = (*wrong, "max_poisson_deviance")
        for bound in wrong:
            if getattr(self.gate, bound) is not None:
                raise ValueError(f"gate.{bound}: a model of {self.loss} loss has no such metric; remove this bound")
        read = {name for one in self.inputs for name in (one.column, *one.columns)} | {*self.evaluation.slices}
        if self.evaluation.holdout and "holdout" in read:
            raise ValueError(
                "evaluation.holdout: it makes a column holdout, and the model reads one; give that another name"
            )
        if self.label == "label" and self.absent_label is not None:
            raise ValueError("absent_label: every sample has a label; remove it, or name another column as label")
        if self.label != "label" and self.absent_label is None:
            raise ValueError(f'label: {self.label} is absent where no label came; add absent_label = "zero" or "skip"')
        return self


# Many times as long as the reducer is silent about how far it is.
_CREDITS_MS = 3_600_000


def _batches(given: object) -> int | str:
    if given == "async" or (type(given) is int and 0 <= given <= _MOST_BATCHES):
        return given
    raise ValueError(f'it is no number of batches; write one from 0 to {_MOST_BATCHES}, or "async"')


_MOST_BATCHES = 1_000_000
#: How many batches; ``async`` is no bound.
Staleness = Annotated[int | Literal["async"], BeforeValidator(_batches)]


class TrainerConfig(Section):
    """How many shards the model is trained on, in mini-batches; without it a trainer trains sample by sample."""

    shards: int | None = Field(default=None, ge=1, le=255)
    #: Batches before a batch that its weights may lack; ``async`` is no bound.
    staleness: Staleness = 0
    #: Who computes: by ``features`` one reducer, from the shards' weights; by ``samples`` the workers of batches.
    by: Literal["features", "samples"] = "features"
    #: By samples, how many workers batches are dealt to in turns; as many as shards if left out.
    workers: int | None = Field(default=None, ge=1, le=255)
    #: Delay compensation of gradients whose weights have moved since; 0 is off. It needs a staleness above 0.
    compensation: float = Field(default=0.0, ge=0)
    #: Samples in a batch at most; it waits for them as long as ``worker.gather.trainer`` says.
    batch_rows: int = Field(default=1_024, ge=1, le=100_000)

    @model_validator(mode="after")
    def _fits_one_shard(self) -> TrainerConfig:
        if self.shards is None and (given := sorted(self.model_fields_set - {"shards"})):
            raise ValueError(
                f"{given[0]}: without shards the model is trained sample by sample; add shards, or remove it"
            )
        if self.workers is not None and self.by != "samples":
            raise ValueError('workers: batches are dealt to workers by samples only; add by = "samples", or remove it')
        if self.compensation and self.staleness == 0:
            raise ValueError(
                "compensation: with a staleness of 0 no weight moves before its gradients come; remove it, or allow "
                "some staleness"
            )
        return self

    @property
    def gradient_workers(self) -> int:
        """How many workers compute gradients: none by features."""
        return (self.workers or self.shards or 0) if self.by == "samples" else 0

    @property
    def sharded(self) -> bool:
        """Whether the model is on shards."""
        return self.shards is not None

    def topics(self, model: str) -> dict[str, int]:
        """The topics between the shards of ``model``, and their partitions: batches, parts, margins, credits, versions.

        By samples, also that of the batches that are dealt. It and that of the parts have their partitions in their
        names: each is a worker, or a shard.
        """
        if not self.sharded:
            return {}
        names = (f"{model}-batches", f"{model}-parts-{self.shards}", f"{model}-margins", f"{model}-credits")
        found = dict(zip((*names, f"{model}-versions"), (1, self.shards or 0, 1, 1, 1), strict=True))
        workers = self.gradient_workers
        return found | ({f"{model}-dealt-{workers}": workers} if workers else {})

    def retention(self, model: str, samples_ms: int | None) -> dict[str, Retention]:
        """How long each of :meth:`topics` is kept: as samples are, but for credits, which are said again and again."""
        kept = dict.fromkeys(self.topics(model), Retention(samples_ms))
        return kept | {topic: Retention(_CREDITS_MS) for topic in kept if topic == f"{model}-credits"}

    def require_fit(self, model: ModelConfig | None) -> None:
        """Refuse shards of a model that cannot be on them.

        Raises:
            ValueError: there is no model, or it depends on all samples before and is by samples.
        """
        if not self.sharded:
            return
        if model is None:
            raise ValueError("trainer.shards: there is no [model] to be trained; add one, or remove [trainer]")
        if self.by == "samples" and model.slots != SlotConfig():
            raise ValueError(
                "model.slots: which values are admitted depends on all samples before, and by samples each worker "
                'knows its own; remove it, or write trainer.by = "features"'
            )


class ScorerConfig(Section):
    """A model trained elsewhere that scores instead of the embedded one; files are renamed into their places."""

    #: The ONNX file that serves.
    onnx: Path
    #: A candidate that is scored beside it; both scores are in snapshots.
    shadow: Path | None = None
    #: By input of the model, the columns of the feature set that make it; the one of its name if left out.
    inputs: dict[str, tuple[Name, ...]] = Field(default_factory=dict)
    #: The output that has the scores; the first one if empty.
    output: str = ""
    #: What a NULL is in inputs of floats. A model that says NaN for it is not taken up.
    missing: Annotated[float, AnyNumber] = math.nan
    #: Bounds that a new file must keep on the newest archived samples before it serves.
    gate: GateConfig = GateConfig()
    gate_samples: int = Field(default=10_000, ge=1, le=10_000_000)

    @model_validator(mode="after")
    def _gate_is_of_probabilities(self) -> ScorerConfig:
        for bound in _OF_NUMBERS:
            if getattr(self.gate, bound) is not None:
                raise ValueError(f"gate.{bound}: scores are judged as probabilities of `label`; remove this bound")
        return self
