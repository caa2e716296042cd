"""A real HTTP server of this machine that keeps what it is posted, and answers as it is told."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

__all__ = ["Receiver"]


class Receiver:
    """The server, as long as the block lasts. ``answers`` are the codes of its answers in turn, the last one for good.

    ``received`` has the headers and the document of each call; ``paths`` what was asked for.
    """

    def __init__(self, answers: Sequence[int] = (200,), headers: Mapping[str, str] | None = None) -> None:
        self.received: list[tuple[Mapping[str, str], dict[str, Any]]] = []
        self.paths: list[str] = []
        receiver = self

        class _Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                code = answers[min(len(receiver.received), len(answers) - 1)]
                receiver.received.append((dict(self.headers), json.loads(body)))
                receiver.paths.append(self.path)
                self.send_response(code)
                for name, value in (headers or {}).items():
                    self.send_header(name, value)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def shown(self) -> str:
        """Its address without what may be secret."""
        return f"http://127.0.0.1:{self._server.server_port}/***"

    def url(self, secret: str) -> str:
        """Its address with a secret in user, path and options."""
        return f"http://me:{secret}@127.0.0.1:{self._server.server_port}/{secret}?token={secret}"
