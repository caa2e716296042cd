"""A demo that can be told when to die: the process kills itself with SIGKILL after the n-th step of any stage.

Usage: mortal_demo.py LOG KEEP RESULT DIE_AT. LOG is ``simulator`` or a folder; DIE_AT 0 lets it live. The simulator's
log is replayed in slices of half an hour: fewer and fuller polls than the demo's, each as deadly.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path

from dovetail.demo.logs.find import find_log
from dovetail.demo.logs.recorded import RecordedLog
from dovetail.demo.logs.simulator import SimulatorConfig, simulate
from dovetail.demo.run import run_demo


def the_log(name: str) -> RecordedLog:
    if name == "simulator":
        return replace(simulate(SimulatorConfig(seed=11, requests=160, days=1)), slice_us=30 * 60_000_000)
    return find_log(Path(name))


def main(name: str, keep: str, result: str, die_at: int) -> None:
    steps = 0

    def on_step(_stage: str, _step: str) -> None:
        nonlocal steps
        steps += 1
        if steps == die_at:
            os.kill(os.getpid(), signal.SIGKILL)

    outcome = asyncio.run(
        run_demo(
            the_log(name),
            Path(keep),
            on_progress=lambda _: None,
            on_step=on_step,
            # Often enough that a crash falls between versions, and between checkpoints.
            overrides={"model": {"publish_every": 100, "checkpoint_every": 250}},
        )
    )
    Path(result).write_text(json.dumps({"steps": steps, "passed": outcome.passed, **outcome.summary}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]))
