"""Durations as text: ``"90s"``, ``"15m"``, ``"1h"``, ``"7d"``; microseconds inside."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import BeforeValidator, PlainSerializer

__all__ = ["DAY_US", "DurationUs", "parse_duration", "render_duration"]

#: A day, in microseconds.
DAY_US = 86_400_000_000

_UNITS = {"us": 1, "ms": 1_000, "s": 1_000_000, "m": 60_000_000, "h": 3_600_000_000, "d": 86_400_000_000}
_DURATION = re.compile(r"(\d+)\s*(us|ms|s|m|h|d)")


def parse_duration(text: object) -> int:
    """``"90s"``, ``"15m"``, ``"1h"``, ``"7d"`` as microseconds.

    Raises:
        ValueError: anything else.
    """
    if isinstance(text, str) and (match := _DURATION.fullmatch(text.strip())):
        return int(match[1]) * _UNITS[match[2]]
    raise ValueError(f'{text!r} is not a duration; write a whole number and a unit, like "90s", "15m", "1h" or "7d"')


def render_duration(us: int) -> str:
    for unit in ("d", "h", "m", "s", "ms"):
        if us and us % _UNITS[unit] == 0:
            return f"{us // _UNITS[unit]}{unit}"
    return f"{us}us"


#: A duration in microseconds, written as text in the file.
DurationUs = Annotated[int, BeforeValidator(parse_duration), PlainSerializer(render_duration, return_type=str)]
