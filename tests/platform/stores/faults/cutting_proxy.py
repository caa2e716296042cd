"""A TCP proxy before a Redis that cuts connections at a chosen byte or answer."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from typing import Any

from redis.connection import parse_url

__all__ = ["CuttingProxy"]


class CuttingProxy:
    """Forwards to the Redis at ``url``; use as a context.

    ``after``: called with a script's answer in hand, which the client then does not get, as often as ``cuts`` says.
    ``within``: of a script's call, only so many bytes reach the server, and then the connection is gone.
    """

    def __init__(self, url: str) -> None:
        self._upstream: dict[str, Any] = parse_url(url)  # type: ignore[no-untyped-call]
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"redis://127.0.0.1:{self._listener.getsockname()[1]}"
        self.cuts = 0
        self.after: Callable[[], None] = lambda: None
        self.within: int | None = None
        self.connections = 0

    def __enter__(self) -> CuttingProxy:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, self._connect() as server:
            while request := client.recv(1 << 20):
                script = b"EVALSHA" in request
                if script and self.within is not None:
                    server.sendall(request[: self.within])
                    return
                server.sendall(request)
                answer = server.recv(1 << 20)
                if script and self.cuts > 0:
                    self.cuts -= 1
                    self.after()
                    return
                client.sendall(answer)

    def _connect(self) -> socket.socket:
        if path := self._upstream.get("path"):
            connection = socket.socket(socket.AF_UNIX)
            connection.connect(path)
            return connection
        return socket.create_connection((self._upstream.get("host", "localhost"), self._upstream.get("port", 6379)))
