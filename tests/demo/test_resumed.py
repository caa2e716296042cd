"""A demo that failed, and is run again over what it has kept."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from dovetail.demo.logs.simulator import SimulatorConfig, simulate
from dovetail.demo.run import run_demo


class _DiskFull(Exception):
    pass


def test_what_only_the_archives_are_behind_with_is_archived_by_the_next_run(tmp_path: Path) -> None:
    log = simulate(SimulatorConfig(requests=20, seed=7, days=1))
    overrides = {"worker": {"gather": {"archive": "10s"}}}  # so they begin when a run ends
    archived = 0

    def fail(stage: str, _step: str) -> None:
        if stage.startswith("archive."):
            raise _DiskFull

    def count(stage: str, _step: str) -> None:
        nonlocal archived
        archived += stage.startswith("archive.")

    with pytest.raises(_DiskFull):
        asyncio.run(run_demo(log, tmp_path, on_progress=lambda _: None, on_step=fail, overrides=overrides))
    result = asyncio.run(run_demo(log, tmp_path, on_progress=lambda _: None, on_step=count, overrides=overrides))
    assert archived
    assert result.passed
    assert result.consistency.compared > 0
    outcomes = {stage.stage: stage.outcomes for stage in result.audit.stages}
    assert outcomes["archive.behaviour"]["archived"] == log.counts["events"]
