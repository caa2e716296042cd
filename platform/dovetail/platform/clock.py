"""Where "now" comes from. A clock is handed in, never reached for, so tests move time instead of waiting for it."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Protocol

__all__ = ["Clock", "SystemClock", "moment_of"]


class Clock(Protocol):
    """Source of wall-clock time."""

    def now_us(self) -> int:
        """Microseconds since 1970-01-01 UTC."""
        ...


class SystemClock:
    """The machine's own clock."""

    def now_us(self) -> int:
        return time.time_ns() // 1_000


def moment_of(us: int) -> datetime:
    """Microseconds since 1970-01-01 UTC as a time in UTC, without saying so, as columns have it."""
    seconds, rest = divmod(us, 1_000_000)
    return datetime.fromtimestamp(seconds, UTC).replace(microsecond=rest, tzinfo=None)
