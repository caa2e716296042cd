"""The rows asked for on the command line, and the form in which they are shown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dovetail.app.looking.chosen import Asked
from dovetail.cli.looking.printing import Shape, shape_of

__all__ = ["Shown", "shown_as"]

_IN_A_TABLE = 20


@dataclass(frozen=True, slots=True)
class Shown:
    """A choice of rows, the form they are shown in, and whether rows still to come are."""

    asked: Asked
    shape: Shape
    out: Path | None
    following: bool


def shown_as(
    keys: Sequence[str],
    where: str | None,
    columns: Sequence[str],
    limit: int | None,
    form: str | None,
    out: Path | None,
    *,
    following: bool,
) -> Shown:
    """As the options say.

    Raises:
        ConfigError: they contradict each other.
    """
    shape = shape_of(form, out, following=following)
    most = _IN_A_TABLE if limit is None and shape is Shape.table else limit
    return Shown(Asked(keys, where, columns, most), shape, out, following)
