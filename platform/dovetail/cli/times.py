"""Times on the command line."""

from __future__ import annotations

from datetime import UTC, datetime

from dovetail.platform.errors import ConfigError
from dovetail.platform.rows.conversion import MAX_TIME_US

__all__ = ["time_us_of"]

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
