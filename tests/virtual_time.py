"""An event loop whose time is its own: it does not pass while there is something to do, and jumps when there is not."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

__all__ = ["run_in_virtual_time"]

T = TypeVar("T")


class _Jumping(selectors.DefaultSelector):
    """Where nothing happens at once, the time that one would wait for it has passed."""

    def __init__(self, jump: Callable[[float], None]) -> None:
        super().__init__()
        self._jump = jump

    def select(self, timeout: float | None = None) -> Any:
        """Events that are there; ``timeout`` None is a wait for other threads, which takes as long as it takes."""
        found = super().select(None if timeout is None else 0)
        if not found and timeout:
            self._jump(timeout)
        return found


class _VirtualTime(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._now = 0.0
        super().__init__(_Jumping(self._jump))

    def time(self) -> float:
        """Seconds since the loop was made."""
        return self._now

    def _jump(self, seconds: float) -> None:
        self._now += seconds


def run_in_virtual_time(main: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run ``main`` in a loop of its own, whose ``time()`` begins at 0. Nothing in it may wait for another thread with
    a time-out, which passes at once."""
    with asyncio.Runner(loop_factory=_VirtualTime) as runner:
        return runner.run(main())
