"""The console in a process: alone, or beside the stages of a worker."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
from collections.abc import Awaitable, Callable, Mapping

from dovetail.api.server import listening, served, url_of
from dovetail.api.tokens import tokens_of
from dovetail.app.storage import open_stores
from dovetail.console.access import Guard
from dovetail.console.looked import looking_at
from dovetail.console.site import site
from dovetail.features import Project
from dovetail.platform.config.served.console import ConsoleConfig
from dovetail.platform.errors import StoreError
from dovetail.platform.logs import Event

__all__ = ["Console"]

_log = logging.getLogger(__name__)


class Console:
    """The console of one process. It listens from its construction on, and answers within :meth:`beside`.

    It opens the stores for itself, to read.

    Raises:
        ConfigError: the address cannot be listened on, or the tokens cannot be read.
        StoreError: a store is not there yet.
    """

    def __init__(self, project: Project, config: ConsoleConfig, waits: Callable[[], Mapping[str, str]] = dict) -> None:
        """``waits``: of stages that run in this process, what each waits for."""
        self._project, self._config, self._waits = project, config, waits
        self._tokens = tokens_of(config, project.config.path)
        self._listener: socket.socket = listening(config)

    @property
    def url(self) -> str:
        """The address that it listens on."""
        return f"{url_of(self._listener, self._config)}/"

    def beside(self, watch: Callable[[], Awaitable[None]]) -> Callable[[], Awaitable[None]]:
        """``watch``, with the console served for as long as it runs."""

        async def watched() -> None:
            try:
                stores = await asyncio.to_thread(open_stores, self._project.config, read_only=True)
            except StoreError as error:
                raise StoreError(f"{error} The console reads what a worker has stored: start one first") from error
            try:
                async with looking_at(self._project, stores, self._waits) as looked:
                    app = site(looked, Guard(self._tokens, self._config))
                    async with served(app, self._listener, self._config, self._project.config.path):
                        _log.info(Event("console", url=self.url, tokens=bool(self._tokens)))
                        await watch()
            finally:
                stores.close()

        return watched

    async def alone(self, started: Callable[[str], None]) -> None:
        """Serve until SIGINT or SIGTERM. ``started`` is called with the address that the console has."""
        ended = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, ended.set)

        async def watch() -> None:
            started(self.url)
            await ended.wait()

        await self.beside(watch)()

    def close(self) -> None:
        """Listen no more."""
        self._listener.close()
