"""The number that a request row has in a span: its day, its split of the day, its row in the split."""

from __future__ import annotations

__all__ = ["CHUNK", "day_of_chunk", "first_of"]

_DAY, _SPLIT = 48, 32
#: Bits of a number within a chunk: values of a chunk's rows travel together.
CHUNK = 20


def first_of(day: int, split: int) -> int:
    """The number of the first row of a day's split."""
    return (day << _DAY) + (split << _SPLIT)


def day_of_chunk(chunk: int) -> int:
    """The day of the rows whose numbers are ``chunk`` above their lowest ``CHUNK`` bits."""
    return chunk >> (_DAY - CHUNK)
