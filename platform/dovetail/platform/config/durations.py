"""Durations as text: ``"90s"``, ``"15m"``, ``"1h"``, ``"7d"``; microseconds inside."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import BeforeValidator, PlainSerializer

from dovetail.platform.config.refusals.written import written

__all__ = ["DAY_US", "LONGEST_US", "DurationUs", "parse_duration", "render_duration"]

#: A day, in microseconds.
DAY_US = 86_400_000_000
#: The longest duration: some of them together, before or after any time, are still far from what 64 bits hold.
LONGEST_US = 100_000 * DAY_US
#: Those of the longest duration in its smallest unit.
_DIGITS = len(str(LONGEST_US))

_UNITS = {"us": 1, "ms": 1_000, "s": 1_000_000, "m": 60_000_000, "h": 3_600_000_000, "d": 86_400_000_000}
_DURATION = re.compile(r"(\d+)\s*(us|ms|s|m|h|d)")


def parse_duration(text: object) -> int:
    """``"90s"``, ``"15m"``, ``"1h"``, ``"7d"`` as microseconds.

    Raises:
        ValueError: anything else, and what is longer than 100,000 days.
    """
    if isinstance(text, str) and (match := _DURATION.fullmatch(text.strip())):
        us = int(match[1]) * _UNITS[match[2]] if len(match[1]) <= _DIGITS else LONGEST_US + 1
        if us > LONGEST_US:
            raise ValueError(f"it is longer than {render_duration(LONGEST_US)}; write a shorter duration")
        return us
    shown = written(text)
    raise ValueError(f'{shown} is not a duration; write a whole number and a unit, like "90s", "15m", "1h" or "7d"')


def render_duration(us: int) -> str:
    for unit in ("d", "h", "m", "s", "ms"):
        if us and us % _UNITS[unit] == 0:
            return f"{us // _UNITS[unit]}{unit}"
    return f"{us}us"


#: A duration in microseconds, written as text in the file.
DurationUs = Annotated[int, BeforeValidator(parse_duration), PlainSerializer(render_duration, return_type=str)]
