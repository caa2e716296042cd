"""Times on the command line."""

from __future__ import annotations

from datetime import UTC, datetime

from dovetail.platform.config.durations import parse_duration
from dovetail.platform.errors import ConfigError
from dovetail.platform.rows.conversion import MAX_TIME_US

__all__ = ["duration_us_of", "short_duration", "time_us_of"]

_UNITS = ((86_400_000_000, "d"), (3_600_000_000, "h"), (60_000_000, "m"), (1_000_000, "s"))
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def time_us_of(option: str, text: str) -> int:
    """A time like ``2024-02-29T12:00:00Z`` in microseconds since 1970-01-01 UTC; without an offset it is UTC.

    Raises:
        ConfigError: it is none, or before 1970; ``option`` is what the command line calls it.
    """
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise ConfigError(f"{option} {text!r}: write a time like 2024-02-29T12:00:00Z") from None
    since = (time.replace(tzinfo=UTC) if time.tzinfo is None else time) - _EPOCH
    us = (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds
    if not 0 <= us <= MAX_TIME_US:
        raise ConfigError(f"{option} {text!r}: give a time since 1970")
    return us


def duration_us_of(option: str, text: str) -> int:
    """A duration like ``90s`` in microseconds.

    Raises:
        ConfigError: it is none; ``option`` is what the command line calls it.
    """
    try:
        return parse_duration(text)
    except ValueError as error:
        raise ConfigError(f"{option}: {error}") from None


def short_duration(us: int) -> str:
    """A duration in its two largest units, rounded: ``2d 3h``, ``15m``, ``41.3s``, ``250ms``.

    >>> [short_duration(us) for us in (183_600_000_000, 900_000_000, 41_300_000, 250_400, 0)]
    ['2d 3h', '15m', '41.3s', '250ms', '0ms']
    """
    if us < 1_000_000:
        return f"{round(us / 1_000)}ms"
    if us < 60_000_000:
        return f"{us / 1_000_000:.1f}".removesuffix(".0") + "s"
    at = next(number for number, (size, _) in enumerate(_UNITS) if us >= size)
    size, smaller = _UNITS[at][0], _UNITS[at + 1][0]
    steps = round(us / smaller)
    whole, rest = divmod(steps, size // smaller)
    return f"{whole}{_UNITS[at][1]}" + (f" {rest}{_UNITS[at + 1][1]}" if rest else "")
