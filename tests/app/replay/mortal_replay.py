"""A replay that can be told when to die: it kills itself with SIGKILL after the n-th step of any stage.

Usage: mortal_replay.py FOLDER DIE_AT MINUTES. The project is in FOLDER, with a file for each of its doors that is
replayed, in slices of so many minutes; DIE_AT 0 lets it live.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

from dovetail.app.doors.door import doors
from dovetail.app.replay.conductor import replay
from dovetail.app.replay.prepared import ReplayInput
from dovetail.features import load


def main(folder: Path, die_at: int, minutes: int) -> None:
    steps = 0

    def on_step(_stage: str, _step: str) -> None:
        nonlocal steps
        steps += 1
        if steps == die_at:
            os.kill(os.getpid(), signal.SIGKILL)

    project = load(folder)
    inputs = [
        ReplayInput(door, str(file), "arrival_time")
        for name, door in doors(project).items()
        if (file := folder / f"{name}.parquet").exists()
    ]
    asyncio.run(replay(project, inputs, slice_us=minutes * 60_000_000, until_idle=True, on_step=on_step))
    (folder / "steps").write_text(str(steps))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
