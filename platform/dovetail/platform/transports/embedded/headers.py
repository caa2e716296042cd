"""Message headers as bytes, for the embedded log."""

from __future__ import annotations

import struct
from collections.abc import Sequence

__all__ = ["decode_headers", "encode_headers"]

_LENGTHS = struct.Struct("<II")


def encode_headers(headers: Sequence[tuple[str, bytes]]) -> bytes | None:
    """Each header as two little-endian uint32 lengths, the UTF-8 name and the value; None for no headers."""
    if not headers:
        return None
    parts: list[bytes] = []
    for name, value in headers:
        encoded = name.encode()
        parts += (_LENGTHS.pack(len(encoded), len(value)), encoded, value)
    return b"".join(parts)


def decode_headers(encoded: bytes | None) -> Sequence[tuple[str, bytes]]:
    """The inverse of :func:`encode_headers`."""
    if encoded is None:
        return ()
    headers: list[tuple[str, bytes]] = []
    at = 0
    while at < len(encoded):
        name, value = _LENGTHS.unpack_from(encoded, at)
        at += _LENGTHS.size
        headers.append((encoded[at : at + name].decode(), encoded[at + name : at + name + value]))
        at += name + value
    return headers
