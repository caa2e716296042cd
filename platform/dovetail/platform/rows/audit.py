"""The accounts, added up: every row that went in, its outcome, and sums that must agree from stage to stage."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from dovetail.platform.rows.accounts import READ, Account, balance

__all__ = ["Audit", "Check", "StageAccount", "audit"]


class StageAccount(NamedTuple):
    """The outcomes of the rows that one stage read of one topic, all partitions together."""

    stage: str
    topic: str
    read: int
    outcomes: dict[str, int]

    @property
    def difference(self) -> int:
        """Rows read and not accounted for; 0 when the account balances."""
        return self.read - sum(self.outcomes.values())


class Check(NamedTuple):
    """Two numbers that must be equal: what one stage gave and the next one got.

    ``on_the_way``: the next one may not have read all of it yet; then it must not have got more than was given.
    """

    what: str
    left: int
    right: int
    on_the_way: bool = False

    @property
    def holds(self) -> bool:
        """Whether they are as they must be."""
        return self.left >= self.right if self.on_the_way else self.left == self.right


class Audit(NamedTuple):
    """The audit's result; ``balanced`` is the verdict over everything in it, ``notes`` help to read it."""

    stages: Sequence[StageAccount]
    checks: Sequence[Check]
    unbalanced: Sequence[str]
    notes: Sequence[str] = ()

    @property
    def balanced(self) -> bool:
        """True when every account of every partition adds up and every check holds."""
        return not self.unbalanced

    def to_json(self) -> dict[str, Any]:
        """As JSON-ready data."""
        return {
            "balanced": self.balanced,
            "stages": [{**stage._asdict(), "difference": stage.difference} for stage in self.stages],
            "checks": [{**check._asdict(), "holds": check.holds} for check in self.checks],
            "unbalanced": list(self.unbalanced),
            "notes": list(self.notes),
        }


def audit(accounts: Iterable[Account], checks: Sequence[Check] = (), notes: Sequence[str] = ()) -> Audit:
    """Add the accounts up, partition by partition, and put them together by stage and topic."""
    accounts = list(accounts)
    wrong = [
        f"{stage} read {topic}[{partition}]: {difference:+d} rows not accounted for"
        for (stage, topic, partition), difference in sorted(balance(accounts).items())
        if difference
    ]
    wrong += [f"{check.what}: {check.left} and {check.right}" for check in checks if not check.holds]
    stages: dict[tuple[str, str], StageAccount] = {}
    for account in accounts:
        key = (account.stage, account.topic)
        before = stages.get(key, StageAccount(*key, 0, {}))
        if account.outcome == READ:
            stages[key] = before._replace(read=before.read + account.rows)
        else:
            before.outcomes[account.outcome] = before.outcomes.get(account.outcome, 0) + account.rows
            stages[key] = before
    return Audit([stages[key] for key in sorted(stages)], list(checks), wrong, list(notes))
