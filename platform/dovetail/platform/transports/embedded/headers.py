"""Message headers as bytes, for the embedded log."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

__all__ = ["decode_headers", "encode_headers"]

_LENGTHS = struct.Struct("<II")
_NO_VALUE = 0xFFFFFFFF


def encode_headers(headers: Sequence[tuple[str, bytes]]) -> bytes | None:
    """Each header as two little-endian uint32 lengths, the UTF-8 name and the value; None for no headers.

    A header without value, as Kafka knows it, has 2^32 - 1 for the length of one.
    """
    if not headers:
        return None
    parts: list[bytes] = []
    for name, value in headers:
        encoded = name.encode()
        parts += (_LENGTHS.pack(len(encoded), _NO_VALUE if value is None else len(value)), encoded, value or b"")
    return b"".join(parts)


def decode_headers(encoded: bytes | None) -> Sequence[tuple[str, bytes]]:
    """The inverse of :func:`encode_headers`."""
    if encoded is None:
        return ()
    headers: list[tuple[str, Any]] = []
    at = 0
    while at < len(encoded):
        name, value = _LENGTHS.unpack_from(encoded, at)
        at += _LENGTHS.size
        key = encoded[at : at + name].decode()
        at += name
        if value == _NO_VALUE:
            headers.append((key, None))
            continue
        headers.append((key, encoded[at : at + value]))
        at += value
    return headers
