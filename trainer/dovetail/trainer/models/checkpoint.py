"""Checkpoints: model state together with the positions it includes, in one atomic, compare-and-set file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy.typing as npt

from dovetail.platform.errors import ModelError
from dovetail.platform.rows.accounts import Account
from dovetail.trainer.arithmetic import Float32, Float64
from dovetail.trainer.evaluating import part_of
from dovetail.trainer.learner import Learner
from dovetail.trainer.metrics.progressive import Evaluation
from dovetail.trainer.models.container import Container, pack
from dovetail.trainer.models.state_files import StateFiles, require_same
from dovetail.trainer.models.touched import all_records, touched_records

__all__ = [
    "FORMAT",
    "Checkpoint",
    "CheckpointStore",
    "TrainerProgress",
    "describe",
    "image",
    "progress_of",
    "resume",
    "settings_after",
    "settings_of",
]

#: Version of the file format; a file of another version is refused.
FORMAT = 2


@dataclass(frozen=True, slots=True)
class TrainerProgress:
    """How far a stage has come: what must be stored in one piece with the model."""

    #: The next offset to read, by topic and partition.
    positions: Mapping[str, Mapping[int, int]]
    #: State of the :class:`~dovetail.platform.rows.positions.SourceFilter`.
    source_filter: Mapping[int, int]
    accounts: tuple[Account, ...]
    #: Of a state that goes on from a model that was handed over: what tells that one from others; see
    #: :mod:`~dovetail.trainer.models.handed_over`.
    handed_over: str = ""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint as it was stored. Sequence 0 is never stored: it is the state before the first one."""

    sequence: int
    #: What the model is: optimizer, encoder and the settings of the stage, as JSON-ready values.
    configuration: dict[str, Any]
    #: Optimizer state, float32 [2**bits, 4].
    records: Float32
    evaluation: Evaluation
    #: Moments of standardised inputs, float64 [inputs, 3].
    moments: Float64
    #: State of :class:`~dovetail.trainer.metrics.groups.Groups` and :class:`~dovetail.trainer.slots.SlotState`.
    groups: dict[str, npt.NDArray[Any]]
    slots: dict[str, npt.NDArray[Any]]
    #: State of :class:`~dovetail.trainer.metrics.rankings.Rankings`; empty where the checkpoint is from before them.
    rankings: dict[str, npt.NDArray[Any]]
    progress: TrainerProgress


class CheckpointStore(StateFiles):
    """The checkpoints of one trainer, see :class:`~dovetail.trainer.models.state_files.StateFiles`."""

    def latest(self) -> Checkpoint | None:
        """The newest checkpoint, or None when there is none.

        :raises ModelError: it is torn, corrupt, or of another format version.
        """
        sequence = self.newest()
        return None if sequence == 0 else _parse(self.path(sequence), sequence, self.read(sequence))


def settings_of(topic: str, publish_every: int, *, delayed: bool) -> dict[str, Any]:
    """The settings of a trainer that its checkpoints have; ``delayed``: versions are published by time, too."""
    return {"topic": topic, "publish_every": publish_every, **({"publish_delay": True} if delayed else {})}


def settings_after(stored: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """The ``settings``, see :func:`settings_of`, that ``stored`` ones must equal: for a trainer to go on with them.

    One that counted versions may go on by time: numbers by samples are above all of those.
    """
    return {name: value for name, value in settings.items() if name != "publish_delay" or name in stored}


def describe(learner: Learner, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration part of a checkpoint: everything that must not differ when it is resumed."""
    return {
        "optimizer": learner.optimizer.describe(),
        **learner.preparation.describe(),
        **learner.evaluator.describe(),
        "settings": dict(settings),
    }


def image(learner: Learner, progress: TrainerProgress, settings: Mapping[str, Any]) -> bytes:
    """The bytes of a checkpoint of ``learner`` as it is now; training may go on while they are being stored.

    Only records that differ from an untrained one are in it.

    :raises ModelError: the optimizer state has a value that is not finite; such a model must not be resumed from.
    """
    touched = touched_records(learner.records, learner.optimizer.blank())
    header = {
        "format": FORMAT,
        "kind": "checkpoint",
        "configuration": describe(learner, settings),
        "positions": {topic: _keyed(offsets) for topic, offsets in progress.positions.items()},
        "source_filter": _keyed(progress.source_filter),
        "accounts": [list(account) for account in progress.accounts],
        **({"handed_over": progress.handed_over} if progress.handed_over else {}),
    }
    named = {f"slots_{name}": array for name, array in learner.slots.state().items()} | learner.evaluator.state()
    return pack(header, {**touched, "moments": learner.moments, **named})


def resume(checkpoint: Checkpoint, learner: Learner, settings: Mapping[str, Any]) -> Learner:
    """A learner that goes on from ``checkpoint`` exactly as the one that wrote it would have.

    ``learner`` is the configured one, untrained; it is not changed. Rankings begin anew where the checkpoint is from
    before there were any.

    :raises ModelError: the configuration differs from the stored one; names every field that does.
    """
    configured = describe(learner, settings)
    if not checkpoint.rankings:
        del configured["ranking"]
    require_same(f"checkpoint {checkpoint.sequence}", checkpoint.configuration, configured)
    given = learner.preparation
    groups = learner.groups.anew()
    groups.restore(checkpoint.groups)
    resumed = Learner(
        learner.encoder,
        learner.optimizer,
        label=given.label,
        absent=given.absent,
        weight=given.weight,
        evaluation=checkpoint.evaluation,
        groups=groups,
        ranking=learner.rankings.policy,
        slots=given.slots.policy,
        holdout=given.holdout,
        records=checkpoint.records,
        moments=checkpoint.moments,
    )
    resumed.slots.restore(checkpoint.slots)
    if checkpoint.rankings:
        resumed.rankings.restore(checkpoint.rankings)
    return resumed


def _parse(path: Path, sequence: int, container: Container) -> Checkpoint:
    header, arrays = container
    if (header.get("kind"), header.get("format")) != ("checkpoint", FORMAT):
        raise ModelError(
            f"{path}: this is a {header.get('kind')} of format {header.get('format')}, expected a checkpoint of format "
            f"{FORMAT}; read it with the Dovetail version that wrote it, or train anew in another directory"
        )
    configuration = header["configuration"]
    return Checkpoint(
        sequence=sequence,
        configuration=configuration,
        records=all_records(1 << configuration["encoder"]["bits"], arrays),
        evaluation=Evaluation.restore(part_of(arrays, "evaluation")),
        moments=arrays["moments"],
        groups=part_of(arrays, "groups"),
        slots=part_of(arrays, "slots"),
        rankings=part_of(arrays, "rankings"),
        progress=progress_of(header),
    )


def progress_of(header: Mapping[str, Any]) -> TrainerProgress:
    """The progress in the header of a checkpoint."""
    return TrainerProgress(
        positions={topic: _unkeyed(offsets) for topic, offsets in header["positions"].items()},
        source_filter=_unkeyed(header["source_filter"]),
        accounts=tuple(Account(*account) for account in header["accounts"]),
        handed_over=header.get("handed_over", ""),
    )


def _keyed(numbers: Mapping[int, int]) -> dict[str, int]:
    """JSON has no integer keys."""
    return {str(key): numbers[key] for key in sorted(numbers)}


def _unkeyed(numbers: Mapping[str, int]) -> dict[int, int]:
    return {int(key): value for key, value in numbers.items()}
