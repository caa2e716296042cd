"""Declarations of model inputs, shared by encoder and configuration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

from dovetail.platform.errors import ConfigError

__all__ = ["InputSpec", "Kind"]

Kind = Literal["categorical", "numeric", "bucketed", "standardised", "list", "cross"]


@dataclass(frozen=True, slots=True)
class InputSpec:
    """One declared model input.

    ============ =================================================== ============================================
    kind         slot                                                value
    ============ =================================================== ============================================
    categorical  hash of the column's value; NULL is a value         1
    bucketed     hash of the number of ``boundaries`` at or below    1
                 the value; NULL and NaN have their own
    numeric      one per column; NULL, NaN and ±infinity use another sign(x)·log1p(\\|x\\|), 1
    standardised one per column; NULL, NaN, ±infinity and            (x - mean) / deviation of the rows trained
                 \\|x\\| > 1e150 use another                           before this one, within ±10; 1
    list         hash of each of the first ``length`` elements;      1, or the second field of elements that are
                 NULL and the empty list have their own              structs of a name and a number
    cross        hash of the values of all ``columns`` together;     1
                 NULL is a value
    ============ =================================================== ============================================

    Elements of a list past ``length`` are not read; places it does not fill are absent: they have the value 0.

    :raises ConfigError: the kind is unknown, or what it needs is missing, wrong, or given to another kind.
    """

    column: str = ""
    kind: Kind = "categorical"
    #: ``bucketed``: ascending edges.
    boundaries: tuple[float, ...] | None = None
    #: ``cross``: two or more columns.
    columns: tuple[str, ...] = ()
    #: ``list``: how many elements are read, 1…1024.
    length: int = 0

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            known = ", ".join(get_args(Kind))
            raise ConfigError(f"model input {self.column!r}: kind {self.kind!r} is unknown; use one of {known}")
        given = {"boundaries": self.boundaries is not None, "columns": bool(self.columns), "length": bool(self.length)}
        owner = {"boundaries": "bucketed", "columns": "cross", "length": "list"}
        for setting, present in given.items():
            if present and self.kind != owner[setting]:
                raise ConfigError(
                    f"model input {self.name!r} is {self.kind} but has {setting}; remove them or declare it "
                    f"{owner[setting]}"
                )
        if (self.kind == "cross") == bool(self.column):
            raise ConfigError(
                f"model input {self.name!r} is {self.kind}, and only a cross has columns instead of a column; "
                "give a cross columns, and other kinds one column"
            )
        if self.kind == "bucketed":
            self._check_boundaries()
        if self.kind == "list" and not 1 <= self.length <= 1024:
            raise ConfigError(
                f"model input {self.column!r} is a list, and length = {self.length} does not say how many elements "
                "are read; write a length from 1 to 1024"
            )
        if self.kind == "cross" and (len(self.columns) < 2 or len(set(self.columns)) != len(self.columns)):
            raise ConfigError(f"model input {self.name!r}: a cross is of different columns; give two or more")

    @property
    def name(self) -> str:
        """The input's name in reports: its column, or its columns joined by ``*``."""
        return self.column or "*".join(self.columns)

    @property
    def reads(self) -> tuple[str, ...]:
        """The columns it reads."""
        return self.columns or (self.column,)

    @property
    def width(self) -> int:
        """How many places of an encoded row it takes."""
        return self.length or 1

    def describe(self) -> dict[str, Any]:
        """As JSON-ready values."""
        edges = None if self.boundaries is None else [float(edge) for edge in self.boundaries]
        described: dict[str, Any] = {"column": self.column, "kind": self.kind, "boundaries": edges}
        if self.columns:
            described["columns"] = list(self.columns)
        if self.length:
            described["length"] = self.length
        return described

    def _check_boundaries(self) -> None:
        edges = np.asarray(self.boundaries or (), np.float64)
        if len(edges) == 0 or not np.isfinite(edges).all() or (np.diff(edges) <= 0).any():
            raise ConfigError(
                f"model input {self.column!r}: boundaries {self.boundaries} are none; write one or more finite, "
                "strictly ascending numbers"
            )
