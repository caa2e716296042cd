"""Checkpoints: model state together with the positions it includes, in one atomic, compare-and-set file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dovetail.platform.errors import ModelError, StaleCommit
from dovetail.platform.rows.accounts import Account
from dovetail.trainer.arithmetic import Float32, Float64
from dovetail.trainer.learner import Learner
from dovetail.trainer.metrics.groups import Groups
from dovetail.trainer.metrics.progressive import Evaluation
from dovetail.trainer.models.container import (
    Container,
    create,
    pack,
    unpack,
)
from dovetail.trainer.models.numbered import NumberedFiles
from dovetail.trainer.optimizers.optimizer import RECORD_WIDTH

__all__ = ["FORMAT", "Checkpoint", "CheckpointStore", "TrainerProgress", "describe", "image", "resume"]

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


class CheckpointStore:
    """The checkpoints of one trainer, in a directory of its own; the last ``keep`` are kept.

    Sequence n + 1 can be created only by a writer that has seen n, and only once. So of two trainers that both believe
    they own the model, one is told :class:`~dovetail.platform.errors.StaleCommit`.
    """

    def __init__(self, directory: Path, *, keep: int = 3) -> None:
        self._files = NumberedFiles(directory, "checkpoint")
        self._keep = keep

    def latest(self) -> Checkpoint | None:
        """The newest checkpoint, or None when there is none.

        :raises ModelError: it is torn, corrupt, or of another format version.
        """
        sequence = self._files.latest()
        if sequence == 0:
            return None
        path = self._files.path(sequence)
        return _parse(path, sequence, unpack(path))

    def newest(self) -> int:
        """The sequence number of the newest checkpoint, 0 when there is none."""
        return self._files.latest()

    def save(self, content: bytes, *, after: int) -> int:
        """Store ``content``, an :func:`image`, as the successor of checkpoint ``after``; returns its sequence number.

        Durable when it returns; on an error nothing changed.

        :raises StaleCommit: the newest checkpoint is not ``after``: another trainer has gone on from there.
        """
        self._require_newest(after)
        path = self._files.path(after + 1)
        try:
            create(path, content)
        except FileExistsError:
            self._require_newest(after)
            raise
        # While this process was paused the other may have written so many that after + 1 was pruned and free again.
        if self._files.latest() > after + 1:
            path.unlink(missing_ok=True)
            self._require_newest(after)
        self._files.prune(self._keep)
        return after + 1

    def _require_newest(self, expected: int) -> None:
        found = self._files.latest()
        if found != expected:
            raise StaleCommit(f"checkpoints in {self._files.directory}", 0, expected=expected, found=found)


def describe(learner: Learner, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration part of a checkpoint: everything that must not differ when it is resumed."""
    return {
        "optimizer": learner.optimizer.describe(),
        "encoder": learner.encoder.describe(),
        "fingerprint": learner.encoder.fingerprint,
        "label": learner.label,
        **({} if learner.absent == "refuse" else {"absent": learner.absent}),
        "weight": learner.weight,
        "evaluation": {"window": learner.evaluation.window, "windows": learner.evaluation.windows},
        "groups": learner.groups.describe(),
        "ranking": learner.rankings.policy.describe(),
        "slots": learner.slots.policy.describe(),
        **({"holdout": learner.holdout.share} if learner.holdout.share else {}),
        "settings": dict(settings),
    }


def image(learner: Learner, progress: TrainerProgress, settings: Mapping[str, Any]) -> bytes:
    """The bytes of a checkpoint of ``learner`` as it is now; training may go on while they are being stored.

    Only records that differ from an untrained one are in it.

    :raises ModelError: the optimizer state has a value that is not finite; such a model must not be resumed from.
    """
    records = learner.records
    blank = learner.optimizer.blank()
    # Bits are compared, not numbers: -0.0 must come back as -0.0.
    slots = np.flatnonzero((records.view(np.uint32) != blank.view(np.uint32)).any(axis=1))
    touched = records[slots]
    if not np.isfinite(touched).all():
        broken = int(slots[~np.isfinite(touched).all(axis=1)][0])
        raise ModelError(
            f"the optimizer state is not finite (first at slot {broken}): the model has diverged and was not "
            "checkpointed; lower alpha or raise l2, and resume from the last checkpoint"
        )
    header = {
        "format": FORMAT,
        "kind": "checkpoint",
        "configuration": describe(learner, settings),
        "positions": {topic: _keyed(offsets) for topic, offsets in progress.positions.items()},
        "source_filter": _keyed(progress.source_filter),
        "accounts": [list(account) for account in progress.accounts],
    }
    parts = {
        "evaluation": learner.evaluation.state(), "groups": learner.groups.state(),
        "rankings": learner.rankings.state(), "slots": learner.slots.state(),
    }  # fmt: skip
    named = {f"{part}_{name}": array for part, arrays in parts.items() for name, array in arrays.items()}
    model: dict[str, npt.NDArray[Any]] = {
        "slots": slots.astype(np.uint32),
        "records": touched,
        "blank": blank,
        "moments": learner.moments,
    }
    return pack(header, {**model, **named})


def resume(checkpoint: Checkpoint, learner: Learner, settings: Mapping[str, Any]) -> Learner:
    """A learner that goes on from ``checkpoint`` exactly as the one that wrote it would have.

    ``learner`` is the configured one, untrained; it is not changed. Rankings begin anew where the checkpoint is from
    before there were any.

    :raises ModelError: the configuration differs from the stored one; names every field that does.
    """
    configured = describe(learner, settings)
    if not checkpoint.rankings:
        del configured["ranking"]
    differences = list(_differences(checkpoint.configuration, configured))
    if differences:
        raise ModelError(
            f"checkpoint {checkpoint.sequence} was written under another configuration: {'; '.join(differences)}. "
            "Restore the stored values, or train a new model in another checkpoint directory"
        )
    policy = learner.slots.policy
    groups = Groups(**learner.groups.describe())
    groups.restore(checkpoint.groups)
    resumed = Learner(
        learner.encoder,
        learner.optimizer,
        label=learner.label,
        absent=learner.absent,
        weight=learner.weight,
        evaluation=checkpoint.evaluation,
        groups=groups,
        ranking=learner.rankings.policy,
        slots=policy,
        holdout=learner.holdout,
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
        records=_scatter(configuration["encoder"]["bits"], arrays),
        evaluation=Evaluation.restore(_part(arrays, "evaluation")),
        moments=arrays["moments"],
        groups=_part(arrays, "groups"),
        slots=_part(arrays, "slots"),
        rankings=_part(arrays, "rankings"),
        progress=TrainerProgress(
            positions={topic: _unkeyed(offsets) for topic, offsets in header["positions"].items()},
            source_filter=_unkeyed(header["source_filter"]),
            accounts=tuple(Account(*account) for account in header["accounts"]),
        ),
    )


def _part(arrays: Mapping[str, npt.NDArray[Any]], part: str) -> dict[str, npt.NDArray[Any]]:
    return {name.removeprefix(f"{part}_"): array for name, array in arrays.items() if name.startswith(f"{part}_")}


def _scatter(bits: int, arrays: Mapping[str, npt.NDArray[Any]]) -> Float32:
    records = np.empty((1 << bits, RECORD_WIDTH), np.float32)
    records[:] = arrays["blank"]
    records[arrays["slots"]] = arrays["records"]
    return records


def _differences(stored: object, configured: object, field: str = "") -> Iterator[str]:
    """``field: stored A, configured B`` for every leaf that differs."""
    if isinstance(stored, dict) and isinstance(configured, dict):
        for key in sorted(stored.keys() | configured.keys()):
            yield from _differences(stored.get(key), configured.get(key), f"{field}.{key}" if field else str(key))
    elif isinstance(stored, list) and isinstance(configured, list) and len(stored) == len(configured):
        for index, (one, other) in enumerate(zip(stored, configured, strict=True)):
            yield from _differences(one, other, f"{field}[{index}]")
    elif stored != configured:
        yield f"{field}: stored {stored!r}, configured {configured!r}"


def _keyed(numbers: Mapping[int, int]) -> dict[str, int]:
    """JSON has no integer keys."""
    return {str(key): numbers[key] for key in sorted(numbers)}


def _unkeyed(numbers: Mapping[str, int]) -> dict[int, int]:
    return {int(key): value for key, value in numbers.items()}
