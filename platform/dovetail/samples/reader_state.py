"""The state of a reader as it is saved, validated: it comes from a file that anything may have happened to."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Annotated, Any

from pydantic import BaseModel, Field, ValidationError

from dovetail.platform.errors import StateError
from dovetail.samples.merge import Cursor

__all__ = ["SavedPlace"]

_Count = Annotated[int, Field(strict=True, ge=0, lt=1 << 62)]
_Day = Annotated[int, Field(strict=True, ge=-(1 << 31), lt=1 << 31)]
_Place = Annotated[int, Field(strict=True, ge=-(1 << 63), lt=1 << 63)]
_Partition = Annotated[str, Field(pattern=r"^(0|[1-9][0-9]{0,8})$")]


class SavedPlace(BaseModel):
    """Where a reader is: cursors where its block begins, which block it is, where it ends, and what is given of it."""

    cursors: dict[_Partition, tuple[_Count, _Day, dict[_Partition, _Place]]]
    number: _Count
    ends: dict[_Partition, _Count]
    given: _Count

    @classmethod
    def of(cls, state: Mapping[str, Any], partitions: Collection[int]) -> SavedPlace:
        """The place that ``state`` names in a log that has ``partitions``, or had the first of them when it was saved.

        Raises:
            StateError: it is damaged, or of another log.
        """
        try:
            place = cls.model_validate({name: state[name] for name in cls.model_fields if name in state})
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise StateError(f"the state of the reader is damaged: {where}: {first['msg']}") from None
        known, ends = sorted(int(number) for number in place.cursors), {int(number) for number in place.ends}
        if known != sorted(partitions)[: len(known)] or (partitions and not known) or not ends <= {*known}:
            raise StateError(
                f"the state of the reader is damaged, or of another topic: it is of the partitions {known}, and its "
                f"block of {sorted(ends)}; the topic has {sorted(partitions)}"
            )
        if any(end < place.cursors[number][0] for number, end in place.ends.items()):
            raise StateError("the state of the reader is damaged: its block ends before it begins")
        return place

    def block_begins(self, partitions: Collection[int]) -> dict[int, Cursor]:
        """The cursor of each of the ``partitions``; those that the state does not know begin at their beginnings."""
        found = {
            int(number): Cursor(offset, day, {int(source): last for source, last in sources.items()})
            for number, (offset, day, sources) in self.cursors.items()
        }
        return {number: found.get(number, Cursor()) for number in partitions}

    def block_ends(self) -> dict[int, int]:
        """The offset where the block ends, by partition."""
        return {int(number): end for number, end in self.ends.items()}
