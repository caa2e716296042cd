"""A full model that was trained elsewhere, waiting beside a trainer's checkpoints for the trainer to take it in."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from dovetail.platform.errors import ConfigError, ModelError
from dovetail.platform.owned import owned_folder
from dovetail.trainer.models.checkpoint import TrainerProgress, progress_of
from dovetail.trainer.models.container import create, parse
from dovetail.trainer.models.state_files import require_same

__all__ = ["Bounds", "Mailbox", "unbounded"]

_log = logging.getLogger(__name__)

#: The first offset that a topic still has of a partition, and the next one.
Bounds = Callable[[int], tuple[int, int]]

_WAITING = "handed-over.npz"
_REFUSED = "handed-over-refused.npz"


def unbounded(_partition: int) -> tuple[int, int]:
    """The bounds of a topic that has everything."""
    return 0, sys.maxsize


class Mailbox:
    """The one place, in the folder of a trainer's checkpoints, where a model waits."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / _WAITING
        self._refused = folder / _REFUSED

    @property
    def waits(self) -> bool:
        """Whether a model waits."""
        return self._path.exists()

    def put(self, content: bytes) -> None:
        """Hand over the image of a checkpoint: durably, whole or not at all.

        :raises ConfigError: another one waits.
        """
        owned_folder(self._path.parent)
        try:
            create(self._path, content)
        except FileExistsError:
            raise ConfigError(
                f"{self._path}: a model that was handed over before waits here; a running worker with the trainer "
                "takes it in within seconds. Start one, or delete the file to hand over another"
            ) from None

    def take(
        self,
        topic: str,
        configured: Callable[[], Mapping[str, Any]],
        last: str,
        trained: Mapping[int, int],
        bounds: Bounds,
    ) -> bytes | None:
        """The image of the model that waits, which stays here until :meth:`done`; None where none is for the trainer.

        One that does not fit is put aside, and the log says why: it is torn or corrupt, of another configuration than
        ``configured``, or it lacks samples that the trainer has ``trained`` on, up to these offsets, and that ``topic``
        does not have within its ``bounds``. ``last`` is the :attr:`TrainerProgress.handed_over` of the trainer's state;
        that one was taken in before.
        """
        try:
            content = self._path.read_bytes()
        except FileNotFoundError:
            return None
        try:
            header = parse(self._path, content).header
            require_same(str(self._path), header.get("configuration"), configured())
            progress = progress_of(header)
            if progress.handed_over and progress.handed_over == last:
                self.done()
                return None
            _require_all(progress, topic, trained, bounds)
        except ModelError as error:
            self._path.replace(self._refused)
            _log.error("a model is not taken in, and was moved to %s: %s", self._refused, error)
            return None
        return content

    def done(self) -> None:
        """Let go of the model that waits: the trainer has it."""
        self._path.unlink(missing_ok=True)


def _require_all(progress: TrainerProgress, topic: str, trained: Mapping[int, int], bounds: Bounds) -> None:
    """Refuse a model for which samples would be lost that the trainer has had."""
    if not progress.handed_over:
        raise ModelError("it is the checkpoint of a trainer, and was not made to be handed over to one")
    included = progress.positions.get(topic, {})
    for partition in sorted({*trained, *included}):
        position = included.get(partition, 0)
        start, end = bounds(partition)
        what = f"it includes the samples of {topic}, partition {partition}, before offset {position}; "
        if position > end:
            raise ModelError(
                f"{what}the topic ends at {end}, so it is another one: train it on the samples of this one"
            )
        if position < min(start, trained.get(partition, 0)):
            raise ModelError(
                f"{what}the next ones have left the topic, which begins at {start}: train it on newer samples"
            )
