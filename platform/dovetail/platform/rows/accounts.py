"""The accounts: every row a stage reads ends in exactly one counted outcome.

An outcome's count is part of the state and is committed with it, so a crash neither loses nor doubles a count.
The outcome ``read`` is the debit side: rows taken from the topic. All other outcomes of the same stage, topic and
partition are the credit side, and must add up to it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

__all__ = ["READ", "Account", "balance"]

#: The debit side: rows taken from a topic, positions already included not counted again.
READ = "read"


class Account(NamedTuple):
    """``rows`` rows that ``stage`` read from ``(topic, partition)`` ended in ``outcome``."""

    stage: str
    topic: str
    partition: int
    outcome: str
    rows: int


def balance(accounts: Iterable[Account]) -> dict[tuple[str, str, int], int]:
    """``read`` minus the sum of all outcomes, by (stage, topic, partition); all zero when the accounts balance."""
    difference: dict[tuple[str, str, int], int] = {}
    for account in accounts:
        key = (account.stage, account.topic, account.partition)
        sign = 1 if account.outcome == READ else -1
        difference[key] = difference.get(key, 0) + sign * account.rows
    return difference
