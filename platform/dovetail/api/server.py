"""Serves the HTTP API in the event loop of a worker, for as long as that runs."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import uvicorn
from fastapi import FastAPI

from dovetail.platform.config.api import ApiConfig
from dovetail.platform.errors import ConfigError

__all__ = ["listening", "served"]

#: Connections that wait to be accepted.
_BACKLOG = 256
# How long calls that are being answered may take when the worker stops.
_GRACE_S = 5
_KEEP_ALIVE_S = 15


class _Server(uvicorn.Server):
    """Leaves the signals to the process."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Capture none."""
        yield


def listening(config: ApiConfig) -> socket.socket:
    """A socket that listens where ``[api]`` says, taken before anything is started.

    Raises:
        ConfigError: the address cannot be listened on.
    """
    try:
        family = socket.getaddrinfo(config.host, config.port, type=socket.SOCK_STREAM)[0][0]
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((config.host, config.port))
        listener.listen(_BACKLOG)
    except OSError as error:
        raise ConfigError(
            f"[api] host and port: cannot listen on {config.host}:{config.port}: {error}; choose another port, or 0 "
            "for any free one"
        ) from error
    return listener


@asynccontextmanager
async def served(
    app: FastAPI, listener: socket.socket, config: ApiConfig, path: Callable[[Path], Path] = Path
) -> AsyncIterator[str]:
    """Serve ``app`` as long as the block lasts; gives its URL. ``path`` resolves relative files.

    Raises:
        ConfigError: the certificate or key cannot be used.
    """
    tls = config.cert_file is not None
    settings = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        lifespan="off",
        server_header=False,
        timeout_keep_alive=_KEEP_ALIVE_S,
        timeout_graceful_shutdown=_GRACE_S,
        ssl_certfile=None if config.cert_file is None else str(path(config.cert_file)),
        ssl_keyfile=None if config.key_file is None else str(path(config.key_file)),
    )
    try:
        settings.load()
    except OSError as error:  # ssl.SSLError is one
        raise ConfigError(f"[api] cert_file and key_file are not a PEM certificate and its key: {error}") from error
    server = _Server(settings)
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        host, port = listener.getsockname()[:2]
        name = f"[{host}]" if ":" in host else host
        yield f"{'https' if tls else 'http'}://{name}:{port}"
    finally:
        server.should_exit = True
        await serving
