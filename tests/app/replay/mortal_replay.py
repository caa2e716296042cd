"""A replay that can be told when to die: it kills itself with SIGKILL after the n-th step of any stage.

Usage: mortal_replay.py FOLDER DIE_AT. The project and its files are in FOLDER; DIE_AT 0 lets it live.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

from dovetail.app.doors.door import door_of
from dovetail.app.replay.conductor import replay
from dovetail.app.replay.prepared import ReplayInput
from dovetail.features import load


def main(folder: Path, die_at: int) -> None:
    steps = 0

    def on_step(_stage: str, _step: str) -> None:
        nonlocal steps
        steps += 1
        if steps == die_at:
            os.kill(os.getpid(), signal.SIGKILL)

    project = load(folder)
    files = ("requests", "reads", "shown", "click")
    inputs = [
        ReplayInput(door_of(project, name, name), str(folder / f"{name}.parquet"), "arrival_time") for name in files
    ]
    asyncio.run(replay(project, inputs, slice_us=1_800_000_000, until_idle=True, on_step=on_step))
    (folder / "steps").write_text(str(steps))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
