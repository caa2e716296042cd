"""Runs one contestant in its own environment and prints one line of JSON about it.

    python -m benchmarks.peers.one MODULE WAY FOLDER TIMES [ANSWERS]

``MODULE`` is a module below ``benchmarks.peers``. Its ``begin(folder, way)`` does what is not measured, and returns the
work: a function that does all of it at each call, and returns an Arrow table of answers. Of ``TIMES`` calls the one
with the least processor time counts, so that compilers have warmed up. ``PACKAGES`` names distributions whose versions
are told. Needs nothing but the standard library and pyarrow.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
from importlib.metadata import version
from pathlib import Path


def descendants(pid: int) -> list[int]:
    """The processes that ``pid`` has started and that still run, and theirs."""
    found = []
    for task in Path(f"/proc/{pid}/task").glob("*"):
        children = (task / "children").read_text() if (task / "children").exists() else ""
        for child in map(int, children.split()):
            found += [child, *descendants(child)]
    return found


def processor_seconds() -> float:
    """Processor seconds of this process and of the processes it has started, the ended ones that it waited for, too."""
    spent = time.process_time()
    ended = os.times()
    spent += ended.children_user + ended.children_system
    for pid in descendants(os.getpid()):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        spent += sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")
    return spent


def main(module: str, way: str, folder: Path, times: int, answers: Path | None) -> None:
    """Do the work so many times, keep the last answers and print the least time."""
    contestant = importlib.import_module(f"benchmarks.peers.{module}")
    work = contestant.begin(folder, way)
    taken = []
    for _ in range(times):
        began, spent = time.perf_counter(), processor_seconds()
        result = work()
        taken.append((processor_seconds() - spent, time.perf_counter() - began))
    if answers is not None:
        feather = importlib.import_module("pyarrow.feather")
        feather.write_feather(result, str(answers), compression="uncompressed")
    processor, clock = min(taken)
    versions = {name: version(name) for name in contestant.PACKAGES}
    print(json.dumps({"processor": processor, "clock": clock, "versions": versions}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]), int(sys.argv[4]), Path(sys.argv[5]) if sys.argv[5:] else None)
