"""Bounds of what callers may take: bytes of a body, seconds of a call, calls at a time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

from dovetail.api.bodies import BadBody

__all__ = ["Busy", "Places", "read_body", "too_large"]


class Busy(Exception):
    """As many calls as may be are being answered."""


class Places:
    """So many calls at a time. Belongs to the event loop."""

    def __init__(self, places: int) -> None:
        self._free = places

    @contextmanager
    def one(self) -> Iterator[None]:
        """Take a place for the block. Raises Busy when there is none: nobody queues, for queues are memory."""
        if self._free <= 0:
            raise Busy
        self._free -= 1
        try:
            yield
        finally:
            self._free += 1


def too_large(max_bytes: int) -> BadBody:
    """The error of a body that is larger than it may be."""
    return BadBody(413, f"the body is larger than {max_bytes} bytes ([api] max_body_bytes)")


async def read_body(chunks: AsyncIterator[bytes], max_bytes: int, timeout_s: float) -> bytes:
    """The whole body.

    Raises:
        BadBody: it is larger than ``max_bytes`` (413), or is not here within ``timeout_s`` (408).
    """
    parts, size = [], 0
    try:
        async with asyncio.timeout(timeout_s):
            async for chunk in chunks:
                size += len(chunk)
                if size > max_bytes:
                    raise too_large(max_bytes)
                parts.append(chunk)
    except TimeoutError as error:
        raise BadBody(408, f"the body was not here within {timeout_s:g} s ([api] timeout)") from error
    return b"".join(parts)
