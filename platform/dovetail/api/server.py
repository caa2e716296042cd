"""Serves the HTTP API, or the console, in the event loop of a process, for as long as that runs."""

from __future__ import annotations

import asyncio
import resource
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from dovetail.platform.config.served.listening import ListeningConfig
from dovetail.platform.errors import ConfigError

__all__ = ["listening", "served", "url_of"]

#: Connections that wait to be accepted.
_BACKLOG = 256
# How long a call may take to be told that the worker stops.
_LAST_WORDS_S = 2
_KEEP_ALIVE_S = 15
# How long a connection may be without a whole head of a request, and how often that is looked at.
_SILENT_S, _LOOK_S = 20.0, 5.0
#: Connections for each call that may wait, and the share of the process's files that they may take.
_CONNECTIONS_PER_CALL, _FILES_SHARE = 2, 4


class _Server(uvicorn.Server):
    """Leaves the signals to the process."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Capture none."""
        yield


def _bounded(most: int) -> type[H11Protocol]:
    """A protocol that ends connections which say nothing; of more than ``most``, the oldest that is not in a call."""

    class Bounded(H11Protocol):
        _looking: asyncio.TimerHandle | None = None
        _last = 0.0

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._last = self.loop.time()
            self._look()
            if len(self.connections) > most:
                idle = [other for other in self.connections if isinstance(other, Bounded) and not other.in_call]
                if idle:
                    min(idle, key=lambda other: other._last).transport.close()  # noqa: SLF001 - of this class

        def connection_lost(self, exc: Exception | None) -> None:
            if self._looking is not None:
                self._looking.cancel()
            super().connection_lost(exc)

        def on_response_complete(self) -> None:
            self._last = self.loop.time()
            super().on_response_complete()

        @property
        def in_call(self) -> bool:
            """Whether the head of a request is here and its answer is not complete."""
            return self.cycle is not None and not self.cycle.response_complete

        def _look(self) -> None:
            if not self.in_call and self.loop.time() - self._last > _SILENT_S:
                self.transport.close()
            else:
                self._looking = self.loop.call_later(_LOOK_S, self._look)

    return Bounded


def _most_connections(config: ListeningConfig) -> int:
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max(8, min(config.max_waiting * _CONNECTIONS_PER_CALL, files // _FILES_SHARE))


def listening(config: ListeningConfig) -> socket.socket:
    """A socket that listens where ``config`` says, taken before anything is started.

    Raises:
        ConfigError: the address cannot be listened on.
    """
    try:
        family = socket.getaddrinfo(config.host, config.port, type=socket.SOCK_STREAM)[0][0]
        # By its protocol asyncio knows to send small packets at once; else an answer waits 40 ms to be acknowledged.
        listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((config.host, config.port))
        listener.listen(_BACKLOG)
    except OSError as error:
        raise ConfigError(
            f"[{config.section}] host and port: cannot listen on {config.host}:{config.port}: {error}; choose another "
            "port, or 0 for any free one"
        ) from error
    return listener


def url_of(listener: socket.socket, config: ListeningConfig) -> str:
    """The address that a section's server has on ``listener``, without a path."""
    host, port = listener.getsockname()[:2]
    name = f"[{host}]" if ":" in host else host
    return f"{'http' if config.cert_file is None else 'https'}://{name}:{port}"


@asynccontextmanager
async def served(
    app: FastAPI,
    listener: socket.socket,
    config: ListeningConfig,
    path: Callable[[Path], Path] = Path,
    *,
    closing: Callable[[], None] = lambda: None,
    grace_s: float = 1.0,
) -> AsyncIterator[str]:
    """Serve ``app`` as long as the block lasts; gives its URL. ``path`` resolves relative files.

    At the end, calls that are being answered have ``grace_s``; then ``closing`` is called, which ends them.

    Raises:
        ConfigError: the certificate or key cannot be used.
    """
    settings = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        lifespan="off",
        server_header=False,
        timeout_keep_alive=_KEEP_ALIVE_S,
        timeout_graceful_shutdown=round(grace_s) + _LAST_WORDS_S,
        http=_bounded(_most_connections(config)),
        ws="none",
        ssl_certfile=None if config.cert_file is None else str(path(config.cert_file)),
        ssl_keyfile=None if config.key_file is None else str(path(config.key_file)),
    )
    try:
        settings.load()
    except OSError as error:  # ssl.SSLError is one
        raise ConfigError(
            f"[{config.section}] cert_file and key_file are not a PEM certificate and its key: {error}"
        ) from error
    server = _Server(settings)
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        yield url_of(listener, config)
    finally:
        server.should_exit = True
        await asyncio.wait({serving}, timeout=grace_s)
        closing()
        await serving
