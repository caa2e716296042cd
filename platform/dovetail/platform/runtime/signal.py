"""A wake-up call between stages of one worker."""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress

__all__ = ["Signal"]


class Signal:
    """Wakes whoever waits for a store to change; may be sent from any thread.

    It carries no data: whoever wakes up looks at the store. In another process nobody sends it, so waiting has a
    timeout after which one looks anyway.
    """

    def __init__(self) -> None:
        #: The event loops of those who wait, the threads these run in, and what ends the waiting.
        self._waiting: set[tuple[asyncio.AbstractEventLoop, int, asyncio.Event]] = set()

    def send(self) -> None:
        """Wake all who wait now."""
        here = threading.get_ident()
        for loop, thread, event in list(self._waiting):
            if thread == here:
                event.set()
            elif not loop.is_closed():
                loop.call_soon_threadsafe(event.set)

    def listen(self) -> Listener:
        """Start listening: a signal sent from now on ends the listener's next wait."""
        return Listener(self._waiting)


class Listener:
    """One who waits for a :class:`Signal`. Listen first, then look at the store, then wait: no signal is missed."""

    def __init__(self, waiting: set[tuple[asyncio.AbstractEventLoop, int, asyncio.Event]]) -> None:
        self._event = asyncio.Event()
        self._entry = (asyncio.get_running_loop(), threading.get_ident(), self._event)
        self._waiting = waiting
        waiting.add(self._entry)

    async def wait(self, timeout_s: float) -> None:
        """Return when a signal came since the last wait, or after ``timeout_s`` seconds."""
        # Not wait_for: before Python 3.12 that loses a cancellation that comes together with the signal.
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._event.wait()
        self._event.clear()

    def close(self) -> None:
        """Stop listening."""
        self._waiting.discard(self._entry)
