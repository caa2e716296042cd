"""A worker compiles what it runs before it joins its group: the first polls find every kernel ready."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests import forked
from tests.e2e.warmed import COLLECTED, FOLDED, views

SCRIPT = Path(__file__).parent / "warmed.py"


def run(*arguments: str) -> tuple[list[str], list[str]]:
    """In a process of its own: in this one, earlier tests have compiled what they ran."""
    done = forked.run([SCRIPT, *arguments], timeout=300)
    assert done.returncode == 0, done.stderr[-4000:]
    said = json.loads(done.stdout.splitlines()[-1])
    return said["before"], said["after"]


@pytest.mark.slow
def test_the_demos_first_polls_compile_nothing() -> None:
    before, after = run("demo")
    assert after == []
    dear = ("stream.update.merge_states", "stream.values.fold_states", "ftrl._progressive", "scorer._score",
            "pairs.find_pairs", "pairs.hash_pairs", "hashing._hash_strings", "groups._accumulate")  # fmt: skip
    assert [name for name in dear if not any(found.endswith(name) for found in before)] == []


@pytest.mark.parametrize("aggregates", [FOLDED, COLLECTED], ids=["folded", "collected"])
def test_warm_views_compile_nothing_when_events_and_requests_come(aggregates: tuple[str, ...]) -> None:
    before, after = run(*views(aggregates))
    assert after == []
    of_these = "finish._quotients" if aggregates is FOLDED else "stream.collections.prune."
    assert any(of_these in name for name in before)
