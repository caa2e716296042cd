"""The trace of a call, by the W3C's header ``traceparent``: what the call sends goes on in it."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, MutableMapping
from contextvars import ContextVar
from dataclasses import replace
from typing import Any

from dovetail.platform.stage import Outgoing

__all__ = ["TraceHeaders", "in_the_trace"]

_PARENT = re.compile(rb"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
_STATE_BYTES = 512
_headers: ContextVar[tuple[tuple[str, bytes], ...]] = ContextVar("trace headers", default=())

_Scope = MutableMapping[str, Any]
_App = Callable[[_Scope, Any, Any], Awaitable[None]]


class TraceHeaders:
    """An ASGI application around ``app`` that keeps the trace of each call at hand; a wrong header is none."""

    def __init__(self, app: _App) -> None:
        self._app = app

    async def __call__(self, scope: _Scope, receive: Any, send: Any) -> None:
        """Answer the call."""
        if scope["type"] == "http":
            given = dict(scope["headers"])
            parent, state = given.get(b"traceparent", b""), given.get(b"tracestate", b"")
            found = [("traceparent", parent)] if _PARENT.fullmatch(parent) else []
            found += [("tracestate", state)] if found and state and len(state) <= _STATE_BYTES else []
            _headers.set(tuple(found))
        await self._app(scope, receive, send)


def in_the_trace(message: Outgoing) -> Outgoing:
    """``message``, with the headers of the trace that this call is part of."""
    headers = _headers.get()
    return replace(message, headers=(*message.headers, *headers)) if headers else message
