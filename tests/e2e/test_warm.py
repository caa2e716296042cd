"""A worker compiles what it runs before it joins its group: the first polls find every kernel ready."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent / "warmed.py"
HOUR = "RANGE BETWEEN INTERVAL 1 HOUR PRECEDING AND CURRENT ROW"
HOP = "RANGE BETWEEN hop(event_time, INTERVAL 1 HOUR, INTERVAL 1 MINUTE) PRECEDING AND CURRENT ROW"
EVER = "RANGE BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW"
ROWS = "ROWS BETWEEN 4 PRECEDING AND CURRENT ROW"
FOLDED = ("count(*)", "sum(n)", "avg(n)", "min(n)", "max(n)", "stddev_samp(n)")
COLLECTED = ("first(t)", "last(n)", "arg_max(t, n)", "arg_min(n, event_time, 3)", "min(t)", "count(DISTINCT t)",
             "histogram(t)", "avg(n) FILTER (WHERE n > 3)")  # fmt: skip


def run(*arguments: str) -> tuple[list[str], list[str]]:
    """In a process of its own: in this one, earlier tests have compiled what they ran."""
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *arguments], capture_output=True, text=True, check=False, timeout=300
    )
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
    outputs = ", ".join(f"{aggregate} OVER w AS f{i}" for i, aggregate in enumerate(aggregates))
    views = [
        f"SELECT user_id, {outputs} FROM events WINDOW w AS (PARTITION BY user_id ORDER BY event_time {frame})"
        for frame in (HOUR, HOP, EVER, ROWS)
    ]
    before, after = run(*views)
    assert after == []
    of_these = "finish._quotients" if aggregates is FOLDED else "stream.collections.prune."
    assert any(of_these in name for name in before)
