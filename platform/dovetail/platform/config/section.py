"""The base of every section of ``dovetail.toml``: fixed once read, without unknown keys or useless values."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

__all__ = ["AnyNumber", "Name", "Section"]

#: A name that is also an SQL identifier.
Name = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
#: Marks a number that may be NaN or infinite.
AnyNumber = object()
#: Whole numbers beyond are no doubles any more, and not far from what 64 bits take.
_LARGEST = 2**53


class Section(BaseModel):
    """A section; unknown keys are refused, and so are numbers and texts that no engine and no file system takes."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @field_validator("*", mode="after")
    @classmethod
    def _usable(cls, value: Any, info: ValidationInfo) -> Any:
        marked = info.field_name is not None and AnyNumber in cls.model_fields[info.field_name].metadata
        _refuse(value, any_number=marked)
        return value


def _refuse(value: object, *, any_number: bool) -> None:
    """Refuse U+0000 in texts, numbers that are not finite, and whole ones of too many digits, wherever they stand.

    Raises:
        ValueError: one of them; it says which.
    """
    if isinstance(value, str | Path) and "\0" in str(value):
        raise ValueError("it has the character U+0000; write it without")
    if isinstance(value, float) and not any_number and not math.isfinite(value):
        raise ValueError(f"{value} is not finite; write a number like 0.5")
    if isinstance(value, int) and abs(value) > _LARGEST:
        raise ValueError(f"it is beyond {_LARGEST}; write a smaller number")
    if isinstance(value, tuple | frozenset | Mapping):
        for each in value:
            _refuse(each, any_number=any_number)
    if isinstance(value, Mapping):
        for each in value.values():
            _refuse(each, any_number=any_number)
