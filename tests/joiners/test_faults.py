"""A crash after any step of any agent loses and doubles nothing downstream."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import count
from pathlib import Path

import pytest

from dovetail.platform.rows.accounts import Account, balance
from dovetail.platform.runtime.signal import Signal
from dovetail.platform.stores.sql.labels import SqlLabelStore
from dovetail.platform.testing import MemoryLog, run_stage
from tests.joiners.batch.test_join import oracle, samples_of
from tests.joiners.worlds import KINDS, Label, World, delayed, label_stage, sample_stage

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


def live_and_die(world: World, path: Path, at: int) -> tuple[MemoryLog, SqlLabelStore, str | None]:
    """Crash after step number ``at``, then live on with what is stored; the stage and step of the crash, if any."""
    log, store, steps = world.log(), SqlLabelStore(f"sqlite:///{path}"), count()
    crashed: list[str] = []

    def on_step(stage: str, step: str) -> None:
        if next(steps) == at:
            crashed.append(f"{stage} {step}")
            raise Crash

    try:
        asyncio.run(live(world, log, store, on_step))
    except Crash:
        asyncio.run(live(world, log, store, on_step))
    return log, store, crashed[0] if crashed else None


@pytest.mark.parametrize("policy", sorted(POLICIES))
def test_a_crash_after_any_step_loses_and_doubles_nothing(policy: str, tmp_path: Path) -> None:
    world = World((0, 1, 2), 3, (*SHOWN, *CLICKED, *ODD), POLICIES[policy], lateness=0)
    log, store, _ = live_and_die(world, tmp_path / "whole.sqlite", at=-1)
    expected, books = oracle(world, log).to_pylist(), (sorted(store.accounts()), store.outcomes())
    store.close()
    assert len(expected) >= 7
    seen = set()
    for at in count():
        log, store, crashed = live_and_die(world, tmp_path / f"{at}.sqlite", at)
        assert samples_of(log).to_pylist() == expected, crashed
        accounts = sorted(store.accounts())
        store.close()
        assert not any(balance(accounts).values()), crashed
        if crashed is None:
            assert (accounts, store.outcomes()) == books
            break
        seen.add(crashed)
        # A repetition forwarded to a later lane is counted there as a duplicate; everything else is as without a crash.
        assert _without_repetitions(accounts) == _without_repetitions(books[0]), crashed
    assert {step.split()[-1] for step in seen} == {"computed", "published", "committed", "acknowledged"}
    assert {step.split()[0] for step in seen} == {f"labels.{kind}" for kind in KINDS} | {
        lane.name for lane in world.lanes
    }


def _without_repetitions(accounts: list[Account]) -> list[Account]:
    return [a for a in accounts if not (a.stage.startswith("samples") and a.outcome in ("read", "duplicate"))]
