"""``/healthz``, ``/readyz`` and ``/metrics``, from a thread of their own.

A thread, because the answer matters most when the event loop does not turn: then ``/healthz`` still answers, says for
how long the loop has not, and turns to 503 when that is longer than it may be.
"""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from dovetail.platform.errors import ConfigError
from dovetail.platform.masking import masked

__all__ = ["CONNECTIONS", "CONNECTION_S", "Health", "HealthServer"]

#: An answer: whether all is well, and the JSON that says so or why not.
Health = Callable[[], tuple[bool, dict[str, Any]]]


#: Connections at a time, and seconds that one may take.
CONNECTIONS, CONNECTION_S = 16, 10.0
# How long the thread of a connection that was ended may take to notice.
_MAKE_WAY_S = 1.0


class HealthServer:
    """Serves from construction to :meth:`close`.

    ``alive`` and ``ready`` are called in the asker's thread: 200 when all is well, else 503, with their JSON.
    ``seconds`` is the clock by which connections are ended.

    Raises:
        ConfigError: the address cannot be listened on.
    """

    def __init__(
        self,
        host: str,
        port: int,
        alive: Health,
        ready: Health,
        registry: CollectorRegistry,
        *,
        seconds: Callable[[], float] = time.monotonic,
    ) -> None:
        answers = {"/healthz": _json_of(alive), "/readyz": _json_of(ready), "/metrics": _metrics_of(registry)}

        class Handler(_Handler):
            routes = answers

        try:
            self._server = _Server((host, port), Handler, seconds)
        except (OSError, OverflowError) as error:
            raise ConfigError(
                f"[worker] health_host and health_port: cannot listen on {host}:{port}: {error}; "
                "choose another port, or 0 for any free one"
            ) from error
        self._thread = threading.Thread(target=self._server.serve_forever, name="health", daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        """Where it listens."""
        host, port = self._server.server_address[:2]
        return f"http://{host!s}:{port}"

    def close(self) -> None:
        """Stop answering."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Server(ThreadingHTTPServer):
    """A thread for each of at most :data:`CONNECTIONS` connections."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(
        self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler], seconds: Callable[[], float]
    ) -> None:
        self._seconds = seconds
        self._since: dict[socket.socket, float] = {}  # the oldest first
        self._guard = threading.Lock()
        self._free = threading.Semaphore(CONNECTIONS)
        super().__init__(address, handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Give the connection a thread, and take it from the oldest when there are too many."""
        if not self._free.acquire(blocking=False):
            with self._guard:
                if self._since:
                    self._end(next(iter(self._since)))
            if not self._free.acquire(timeout=_MAKE_WAY_S):
                super().shutdown_request(request)  # all answer, none of them waits for its asker: they need the machine
                return
        with self._guard:
            self._since[request] = self._seconds()
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Answer; then the thread's place is free."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def shutdown_request(self, request: Any) -> None:
        """The connection is over."""
        with self._guard:
            self._since.pop(request, None)
        super().shutdown_request(request)

    def service_actions(self) -> None:
        """Twice a second: end what takes too long."""
        with self._guard:
            for request, since in list(self._since.items()):
                if self._seconds() - since > CONNECTION_S:
                    self._end(request)

    def _end(self, request: socket.socket) -> None:
        """Let the connection's thread read the end of it; it closes it then."""
        del self._since[request]
        with suppress(OSError):  # it has been closed at the other end
            request.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Nothing: who asks and goes away, or is sent away, is no error of ours."""


#: Status, content type and body, for the Accept header of a request.
_Answer = Callable[[str], tuple[int, str, bytes]]


def _json_of(health: Health) -> _Answer:
    def answer(_accept: str) -> tuple[int, str, bytes]:
        well, body = health()
        return 200 if well else 503, "application/json", json.dumps(body).encode() + b"\n"

    return answer


def _metrics_of(registry: CollectorRegistry) -> _Answer:
    def answer(accept: str) -> tuple[int, str, bytes]:
        encode, content_type = choose_encoder(accept)
        return 200, content_type, encode(registry)

    return answer


class _Handler(BaseHTTPRequestHandler):
    routes: dict[str, _Answer]

    def do_GET(self) -> None:
        """Answer."""
        route = self.routes.get(self.path.partition("?")[0])
        if route is None:
            status, kind, body = 404, "text/plain", f"there are {', '.join(self.routes)}\n".encode()
        else:
            try:
                status, kind, body = route(self.headers.get("Accept", ""))
            except Exception as error:  # noqa: BLE001 - a store that does not answer must not look like no worker
                status, kind, body = 500, "text/plain", f"{masked(repr(error))}\n".encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - http.server's signature
        """Nothing: probes come every few seconds."""
