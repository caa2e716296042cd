"""What is compared: contestants, and comparisons of ours with theirs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

#: Says how the answers of a contestant, the second table, agree with those of Dovetail. Differences that nothing
#: explains are an error: :class:`DifferentAnswersError`.
Agreement = Callable[[pa.Table, pa.Table], str]


class DifferentAnswersError(Exception):
    """A contestant answers something else, and nothing explains it."""


@dataclass(frozen=True)
class Contestant:
    """One way to do the work: ``begin(folder, way)`` of a module, in an environment; None is Dovetail's."""

    title: str
    module: str
    way: str = ""
    environment: str | None = None
    agrees: Agreement | None = None


@dataclass(frozen=True)
class Comparison:
    """One piece of work. The first contestant is Dovetail, the others are set beside it.

    ``prepare(folder, scale)`` writes the data and returns the number of rows that rates count and a sentence about the
    sizes. ``servers`` run meanwhile; their URLs by name are in the folder's ``servers.json``.
    """

    name: str
    title: str
    unit: str
    prepare: Callable[[Path, float], tuple[int, str]]
    contestants: tuple[Contestant, ...]
    times: int = 2
    servers: tuple[str, ...] = ()
