"""Numbered model files in a directory: ``checkpoint-000000000012.npz``."""

from __future__ import annotations

import os
import re
from collections.abc import Container, Iterable
from pathlib import Path

from dovetail.platform.owned import owned_folder

__all__ = ["NumberedFiles"]


class NumberedFiles:
    """The files of one kind in ``directory``, which is created when it is absent."""

    def __init__(self, directory: Path, kind: str) -> None:
        self.directory = directory
        self._kind = kind
        self._name = re.compile(rf"{re.escape(kind)}-(\d{{12,}})\.npz")
        owned_folder(directory)

    def path(self, number: int) -> Path:
        """Where file ``number`` is or would be."""
        return self.directory / f"{self._kind}-{number:012d}.npz"

    def numbers(self) -> list[int]:
        """Numbers of the existing files, ascending."""
        return self.among(self.names())

    def names(self) -> list[str]:
        """The names in the directory, those of other kinds of files too. A scorer asks for them at every poll."""
        return os.listdir(self.directory)  # noqa: PTH208 - objects of pathlib take three times as long

    def among(self, names: Iterable[str]) -> list[int]:
        """Numbers of the files of this kind that are among the ``names`` of a directory, ascending."""
        return sorted(int(match[1]) for match in map(self._name.fullmatch, names) if match)

    def latest(self) -> int:
        """The highest number, or 0 when there is no file."""
        return max(self.numbers(), default=0)

    def prune(self, keep: int) -> None:
        """Delete all but the ``keep`` highest, and the drafts a crash left behind for numbers that exist since."""
        self.keep_only(set(self.numbers()[-keep:]))

    def keep_only(self, kept: Container[int]) -> None:
        """Delete all that are not in ``kept``, and the drafts a crash left behind for numbers that exist since."""
        numbers = self.numbers()
        for number in numbers:
            if number not in kept:
                self.path(number).unlink(missing_ok=True)
        for draft in self.directory.glob(f".{self._kind}-*.tmp"):
            match = self._name.match(draft.name[1:])
            # A draft at or below the highest number belongs to a writer that has lost, or is no more.
            if match and numbers and int(match[1]) <= numbers[-1]:
                draft.unlink(missing_ok=True)
