"""Numbered files of a state with its positions, each the successor of the one before: compare-and-set by files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dovetail.platform.errors import ModelError, StaleCommit
from dovetail.trainer.models.container import Container, create, head, unpack
from dovetail.trainer.models.numbered import NumberedFiles

__all__ = ["StateFiles", "differences", "newest_head", "require_same"]


class StateFiles:
    """The states of one owner, in a directory of its own; the last ``keep`` are kept.

    Sequence n + 1 can be created only by a writer that has seen n, and only once. So of two that both believe they own
    the state, one is told :class:`~dovetail.platform.errors.StaleCommit`.
    """

    def __init__(self, directory: Path, *, keep: int = 3) -> None:
        self._files = NumberedFiles(directory, "checkpoint")
        self._keep = keep

    def path(self, sequence: int) -> Path:
        """Where state ``sequence`` is or would be."""
        return self._files.path(sequence)

    def newest(self) -> int:
        """The sequence number of the newest state, 0 when there is none."""
        return self._files.latest()

    def read(self, sequence: int) -> Container:
        """State ``sequence``.

        :raises ModelError: it is torn or corrupt.
        """
        return unpack(self._files.path(sequence))

    def head(self, sequence: int) -> dict[str, Any]:
        """The header of state ``sequence`` alone, however large it is.

        :raises ModelError: it is torn or corrupt.
        """
        return head(self._files.path(sequence))

    def save(self, content: bytes, *, after: int) -> int:
        """Store ``content``, a packed container, as the successor of state ``after``; returns its sequence number.

        Durable when it returns; on an error nothing changed.

        :raises StaleCommit: the newest state is not ``after``: another owner has gone on from there.
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


def newest_head(directory: Path) -> dict[str, Any] | None:
    """The header of the newest state in ``directory``; None where there is none. It only reads.

    :raises ModelError: it is torn or corrupt.
    """
    if not directory.is_dir():
        return None
    files = StateFiles(directory)
    sequence = files.newest()
    return files.head(sequence) if sequence else None


def require_same(
    what: str,
    stored: object,
    configured: object,
    *,
    remedy: str = "Restore the stored values, or train a new model, with another name or folder for checkpoints",
) -> None:
    """Refuse to go on from ``what``, which was written under another configuration; ``remedy`` says what to do.

    :raises ModelError: the configurations differ; names every field that does.
    """
    if found := [f"{field}: stored {old!r}, configured {new!r}" for field, old, new in differences(stored, configured)]:
        raise ModelError(f"{what} was written under another configuration: {'; '.join(found)}. {remedy}")


def differences(stored: object, configured: object, field: str = "") -> Iterator[tuple[str, object, object]]:
    """The path of every leaf that differs, with both values; None where one of them lacks it."""
    if isinstance(stored, dict) and isinstance(configured, dict):
        for key in sorted(stored.keys() | configured.keys()):
            yield from differences(stored.get(key), configured.get(key), f"{field}.{key}" if field else str(key))
    elif isinstance(stored, list) and isinstance(configured, list) and len(stored) == len(configured):
        for index, (one, other) in enumerate(zip(stored, configured, strict=True)):
            yield from differences(one, other, f"{field}[{index}]")
    elif stored != configured:
        yield field, stored, configured
