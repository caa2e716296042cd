"""The accounts, added up."""

from __future__ import annotations

from dovetail.platform.rows.accounts import Account
from dovetail.platform.rows.audit import Check, audit


def accounts(applied: int) -> list[Account]:
    return [
        Account("s", "t", 0, "read", 5),
        Account("s", "t", 0, "applied", applied),
        Account("s", "t", 0, "dead_letter", 1),
        Account("s", "t", 1, "read", 2),
        Account("s", "t", 1, "applied", 2),
    ]


def test_balanced_accounts_are_summed_over_partitions() -> None:
    result = audit(accounts(4), [Check("a and b", 3, 3)])
    assert result.balanced
    (stage,) = result.stages
    assert (stage.read, stage.outcomes, stage.difference) == (7, {"applied": 6, "dead_letter": 1}, 0)
    assert result.to_json()["balanced"] is True


def test_a_partition_that_does_not_balance_is_named() -> None:
    result = audit(accounts(3))
    assert not result.balanced
    assert result.unbalanced == ["s read t[0]: +1 rows not accounted for"]


def test_partitions_that_are_wrong_in_opposite_ways_do_not_hide_each_other() -> None:
    wrong = [*accounts(3), Account("s", "t", 1, "applied", 1)]
    assert len(audit(wrong).unbalanced) == 2


def test_a_check_that_fails_unbalances_the_audit() -> None:
    result = audit(accounts(4), [Check("given and got", 3, 2)])
    assert result.unbalanced == ["given and got: 3 and 2"]
    assert result.to_json()["checks"][0]["holds"] is False


def test_what_is_on_the_way_is_no_difference_but_nothing_comes_from_nowhere() -> None:
    assert audit(accounts(4), [Check("given and got", 3, 2, on_the_way=True)]).balanced
    assert audit(accounts(4), [Check("given and got", 2, 3, on_the_way=True)]).unbalanced == ["given and got: 2 and 3"]
