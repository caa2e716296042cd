"""The ledger in Redis: positions and accounts as hashes, changed at the head of the script that changes the state.

==========================  ==========================================================================================
key                         holds
==========================  ==========================================================================================
``{TAG}:progress:SCOPE``    hash: partition to next offset; ``PARTITION:rest``, the rest of the progress as JSON;
                            ``PARTITION:token``, which commit it was
``{TAG}:accounts``          hash: ``stage 0x1f topic 0x1f partition 0x1f outcome`` to rows
==========================  ==========================================================================================

A client repeats a commit whose answer it did not get, and it may have been carried out. So each commit has a token of
its own, stored with the position: a repeated commit that finds its token has succeeded, and does nothing.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from dovetail.platform.errors import StaleCommit, StoreError
from dovetail.platform.rows.accounts import Account
from dovetail.platform.rows.positions import Progress

__all__ = [
    "ADVANCE",
    "Move",
    "account_field",
    "accounts_key",
    "accounts_of",
    "advance",
    "progress_key",
    "progress_of",
    "raise_if_stale",
]

_SEPARATOR = "\x1f"

#: Lua. Keys: accounts, then the progress of each scope. Moves all positions and credits the accounts, or returns which
#: scope is elsewhere and where; leaves ``scopes``, and ``at``, the next argument. Nil also when this commit is known.
ADVANCE = r"""
local token, partition, scopes = ARGV[1], ARGV[2], tonumber(ARGV[3])
local at = 4
for s = 1, scopes do
  local stored = redis.call('HMGET', KEYS[1 + s], partition, partition .. ':token')
  if stored[2] == token then return nil end
  if (stored[1] or '0') ~= ARGV[at] then return {s, stored[1] or '0'} end
  at = at + 3
end
for s = 1, scopes do
  local a = 1 + 3 * s
  redis.call('HSET', KEYS[1 + s], partition, ARGV[a + 1], partition .. ':rest', ARGV[a + 2],
    partition .. ':token', token)
end
for _ = 1, tonumber(ARGV[at]) do
  redis.call('HINCRBY', KEYS[1], ARGV[at + 1], ARGV[at + 2])
  at = at + 2
end
at = at + 1
"""


class Move(NamedTuple):
    """The move of one scope's position."""

    scope: str
    expected: int
    progress: Progress


def progress_key(tag: str, scope: str) -> str:
    """Key of the positions of ``scope``."""
    return f"{tag}:progress:{scope}"


def accounts_key(tag: str) -> str:
    """Key of the accounts."""
    return f"{tag}:accounts"


def account_field(stage: str, topic: str, partition: int, outcome: str) -> str:
    """Field of one account."""
    return _SEPARATOR.join((stage, topic, str(partition), outcome))


def advance(
    tag: str, partition: int, moves: Sequence[Move], accounts: Sequence[Account]
) -> tuple[list[str], list[Any]]:
    """Keys and arguments that :data:`ADVANCE` begins with, under a new token."""
    arguments: list[Any] = [secrets.token_hex(12), partition, len(moves)]
    for _, expected, after in moves:
        rest = json.dumps([after.watermark_us, after.timestamp_ms, after.sources])
        arguments += [expected, after.next_offset, rest]
    credited = [part for account in accounts if account.rows for part in (account_field(*account[:4]), account.rows)]
    keys = [accounts_key(tag), *(progress_key(tag, move.scope) for move in moves)]
    return keys, [*arguments, len(credited) // 2, *credited]


def raise_if_stale(answer: Sequence[Any] | None, partition: int, moves: Sequence[Move]) -> None:
    """Judge the answer of a script that begins with :data:`ADVANCE`.

    Raises:
        StaleCommit: a position is not the expected one.
        StoreError: what the commit is about is not there any more (a script answers -1 for a position).
    """
    if answer is not None:
        stale, found = moves[int(answer[0]) - 1], int(answer[1])
        if found < 0:
            raise StoreError(
                f"{stale.scope}, partition {partition}: rows that were read from Redis a moment ago are gone: it has "
                "lost its last commits. Nothing was written; this worker ends, and goes on from what is stored"
            )
        raise StaleCommit(stale.scope, partition, expected=stale.expected, found=found)


def progress_of(stored: Mapping[bytes, bytes] | Mapping[str, str]) -> dict[int, Progress]:
    """The positions in a hash, by partition."""
    texts = {_text(name): _text(value) for name, value in stored.items() if not _text(name).endswith(":token")}
    progress = {}
    for name, offset in texts.items():
        if name.isdigit():
            watermark_us, timestamp_ms, sources = json.loads(texts[f"{name}:rest"])
            known = {int(source): last for source, last in sources.items()}
            progress[int(name)] = Progress(int(offset), watermark_us, timestamp_ms, known)
    return progress


def accounts_of(stored: Mapping[bytes, bytes] | Mapping[str, str]) -> list[Account]:
    """The accounts in a hash that are not zero."""
    accounts = []
    for name, rows in stored.items():
        stage, topic, partition, outcome = _text(name).split(_SEPARATOR)
        if int(rows):
            accounts.append(Account(stage, topic, int(partition), outcome, int(rows)))
    return accounts


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value
