"""Keys of any content on PostgreSQL, whose texts hold no U+0000 and whose index rows are at most 2,704 bytes.

A text that has a U+0000 is written with an escape; one that is longer than :data:`LONGEST` bytes is kept as its
SHA-256, by which it is found again. Other texts are kept as they are.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence

__all__ = ["LONGEST", "by_stored", "escaped", "storable", "storable_bytes", "unescaped"]

#: Bytes of a part of a key that is kept as it is: two parts and a name fit into an index row.
LONGEST = 1_024
_ESCAPE = "\x1a"
_HASHED = _ESCAPE + "#"
#: No canonical key of an entity begins with it, see ``stream/keys.py``.
_HASHED_BYTES = b"#"


def escaped(text: str) -> str:
    """``text`` without U+0000; equal only for equal texts."""
    if "\0" not in text and _ESCAPE not in text:
        return text
    return text.replace(_ESCAPE, _ESCAPE + "1").replace("\0", _ESCAPE + "0")


def unescaped(text: str) -> str:
    """The inverse of :func:`escaped`."""
    return text if _ESCAPE not in text else text.replace(_ESCAPE + "0", "\0").replace(_ESCAPE + "1", _ESCAPE)


def storable(text: str) -> str:
    """``text`` as it stands in an index: escaped, or its hash; equal only for equal texts."""
    if len(text) * 4 <= LONGEST or len(text.encode()) <= LONGEST:
        return escaped(text)
    return _HASHED + hashlib.sha256(text.encode()).hexdigest()


def storable_bytes(key: bytes) -> bytes:
    """The same for an entity's key, which may hold any byte."""
    return key if len(key) <= LONGEST else _HASHED_BYTES + hashlib.sha256(key).digest()


def by_stored(asked: Sequence[str], stored: Iterable[str]) -> Mapping[str, str]:
    """The text of each of the ``stored`` ones that is not as it was given: one of those ``asked`` for, or unescaped."""
    given = {storable(text): text for text in asked if len(text) * 4 > LONGEST}
    return {text: given.get(text) or unescaped(text) for text in set(stored) if _ESCAPE in text}
