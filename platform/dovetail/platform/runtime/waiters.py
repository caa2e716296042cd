"""Those who wait until something is so: predicates that are tried again after every change."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

__all__ = ["Waiters"]


class Waiters:
    """Predicates and who waits for them. They run in the event loop that :meth:`listen` was called in."""

    def __init__(self) -> None:
        self._waiting: list[tuple[Callable[[], bool], asyncio.Future[None]]] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = 0

    def listen(self) -> None:
        """Changes are told to this event loop from now on."""
        self._loop, self._thread = asyncio.get_running_loop(), threading.get_ident()

    async def wait_for(self, predicate: Callable[[], bool]) -> None:
        """Wait until ``predicate()``, which is tried now and after every :meth:`notify`. Raises what it raises."""
        if predicate():
            return
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        entry = (predicate, waiter)
        self._waiting.append(entry)
        try:
            await waiter
        finally:
            self._waiting.remove(entry)

    def notify(self, failure: BaseException | None) -> None:
        """Try all predicates again; with a ``failure``, all who wait get it raised. From any thread."""
        if threading.get_ident() == self._thread:
            self._try(failure)
        elif self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._try, failure)

    def _try(self, failure: BaseException | None) -> None:
        for predicate, waiter in self._waiting:
            if waiter.done():
                continue
            if failure is not None:
                waiter.set_exception(failure)
                continue
            try:
                if predicate():
                    waiter.set_result(None)
            except Exception as error:  # noqa: BLE001 - belongs to the one who waits
                waiter.set_exception(error)
