"""A crash after any step of any agent loses and doubles nothing downstream."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable
from itertools import count
from pathlib import Path

import pytest

from dovetail.platform.rows.accounts import Account, balance
from dovetail.platform.runtime.signal import Signal
from dovetail.platform.stores.sql.labels import SqlLabelStore
from dovetail.platform.testing import MemoryLog, run_stage
from tests.joiners.batch.lives import oracle, samples_of
from tests.joiners.worlds import KINDS, Label, World, delayed, label_stage, sample_stage
from tests.seeds import some

POLICIES = {
    "delayed": delayed(5, corrections="10s", unexposed_fraction=0.5, negative_fraction=0.5),
    "fast_emit": delayed(9, policy="fast_emit", emit_after=["2s", "5s"]),
    "return_days": delayed(5, policy="return_days", days=[1, 2]),
}
SHOWN = [Label("exposure", request, item, request + 1, item % 2) for request in range(3) for item in range(3)]
CLICKED = [
    Label("click", 0, 0, 2, 0),
    Label("click", 1, 1, 5, 1),
    Label("click", 2, 0, 10, 0),
    Label("click", 2, 2, 13, 1),
]
#: Repeated, too late, of nobody.
ODD = [SHOWN[0], CLICKED[0], Label("exposure", 2, 1, 14, 0), Label("click", 9, 9, 14, 0)]


class Crash(Exception):
    """What ends a life."""


async def live(world: World, log: MemoryLog, store: SqlLabelStore, on_step: Callable[[str, str], None]) -> None:
    """One agent after the other, three messages to a poll."""
    moved = Signal()
    stages = [label_stage(world, kind, store, moved) for kind in KINDS]
    lanes = [sample_stage(world, store, moved, log, k, retention_us=0) for k in range(len(world.lanes))]
    for stage in [*stages, *lanes]:
        await run_stage(stage, log, max_records=lambda: 3, on_step=on_step)


def live_and_die(world: World, path: Path, at: int) -> tuple[MemoryLog, SqlLabelStore, list[str]]:
    """Crash after step number ``at``, if there is one, then live on with what is stored; stage and step of each."""
    log, store, numbers = world.log(), SqlLabelStore(f"sqlite:///{path}"), count()
    steps: list[str] = []

    def on_step(stage: str, step: str) -> None:
        steps.append(f"{stage} {step}")
        if next(numbers) == at:
            raise Crash

    try:
        asyncio.run(live(world, log, store, on_step))
    except Crash:
        asyncio.run(live(world, log, store, on_step))
    return log, store, steps


@pytest.mark.parametrize("policy", sorted(POLICIES))
def test_a_crash_after_any_step_loses_and_doubles_nothing(policy: str, tmp_path: Path) -> None:
    world = World((0, 1, 2), 3, (*SHOWN, *CLICKED, *ODD), POLICIES[policy], lateness=0)
    log, store, steps = live_and_die(world, tmp_path / "whole.sqlite", at=-1)
    expected, books = oracle(world, log).to_pylist(), sorted(store.accounts())
    assert samples_of(log).to_pylist() == expected
    assert not any(balance(books).values())
    store.close()
    assert len(expected) >= 7
    moments = defaultdict(list)
    for number, crashed in enumerate(steps):
        moments[crashed].append(number)
    for at in (number for crashed, numbers in moments.items() for number in some(numbers, crashed)):
        crashed = steps[at]
        log, store, lived = live_and_die(world, tmp_path / f"{at}.sqlite", at)
        assert lived[at] == crashed
        assert samples_of(log).to_pylist() == expected, crashed
        accounts = sorted(store.accounts())
        store.close()
        assert not any(balance(accounts).values()), crashed
        # A repetition forwarded to a later lane is counted there as a duplicate; everything else is as without a crash.
        assert _without_repetitions(accounts) == _without_repetitions(books), crashed
    assert {step.split()[-1] for step in moments} == {"computed", "published", "committed", "acknowledged"}
    assert {step.split()[0] for step in moments} == {f"labels.{kind}" for kind in KINDS} | {
        lane.name for lane in world.lanes
    }


def _without_repetitions(accounts: list[Account]) -> list[Account]:
    return [a for a in accounts if not (a.stage.startswith("samples") and a.outcome in ("read", "duplicate"))]
