"""The base of every section of ``dovetail.toml``: fixed once read, without unknown keys or useless values."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo, field_validator

from dovetail.platform.config.refusals.written import KINDS, written

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

    @field_validator("*", mode="before")
    @classmethod
    def _of_its_kind(cls, value: Any, info: ValidationInfo) -> Any:
        field = cls.model_fields[info.field_name or ""]
        if not any(isinstance(each, BeforeValidator) for each in field.metadata):
            _require_kind(value, set(_kinds(field.annotation)))
        return value

    @field_validator("*", mode="after")
    @classmethod
    def _usable(cls, value: Any, info: ValidationInfo) -> Any:
        marked = info.field_name is not None and AnyNumber in cls.model_fields[info.field_name].metadata
        _refuse(value, any_number=marked)
        return value


def _kinds(annotation: object) -> Iterator[object]:
    """The types that a value, or an entry of it, may have; ``object`` where a check of its own reads it."""
    inner = get_args(annotation)
    if any(isinstance(each, BeforeValidator) for each in inner):
        yield object
    elif not inner:
        yield annotation
    for each in inner:
        yield from _kinds(each)


def _not_of_kind(value: object, kind: str) -> str:
    what, remedy = KINDS[kind]
    return f"{written(value)} is {what}; {remedy}"


def _require_kind(value: object, kinds: set[object]) -> None:
    """Refuse true and false for numbers, numbers for true and false, texts for either, and the empty path.

    Raises:
        ValueError: it is one of these.
    """
    numbers = kinds & {int, float}
    if object in kinds or not kinds & {bool, int, float, Path}:
        return
    if value == "" and Path in kinds:
        raise ValueError('it is empty; write a path, like "data"')
    text = isinstance(value, str) and not any(isinstance(kind, str) or kind in (str, Path) for kind in kinds)
    if numbers and (text or (isinstance(value, bool) and bool not in kinds)):
        raise ValueError(_not_of_kind(value, "float" if float in kinds else "int"))
    if bool in kinds and not numbers and (text or (isinstance(value, int | float) and not isinstance(value, bool))):
        raise ValueError(_not_of_kind(value, "bool"))
    if isinstance(value, list | tuple):
        for each in value:
            _require_kind(each, kinds)
    if isinstance(value, Mapping) and dict not in kinds:
        for each in value.values():
            _require_kind(each, kinds - {str})


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
