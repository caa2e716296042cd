"""Processes known by number alone: whether they live, whose children they are, and signals that cannot hit a stranger.

A process number may be given to another process once its own has ended, so a process is a number and a start time.
Linux: it reads ``/proc``.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

__all__ = ["alive", "family", "send", "start_time", "wait_until"]


def start_time(pid: int) -> str | None:
    """When the process started, in the kernel's ticks; None when there is none, or only its exit code is left."""
    fields = _stat(pid)
    return None if fields is None or fields[0] in "ZX" else fields[19]


def alive(pid: int, started: str) -> bool:
    """Whether the process that had this number at that time still runs (or is stopped by a signal)."""
    return start_time(pid) == started


def family(pid: int) -> list[int]:
    """The process and all its descendants, parents first."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (fields := _stat(int(entry.name))) is not None:
            children.setdefault(int(fields[1]), []).append(int(entry.name))
    found = [pid]
    for member in found:
        found += children.get(member, [])
    return found


def send(pids: list[int], number: signal.Signals) -> None:
    """Send the signal to each that is still there."""
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            continue


def wait_until(holds: Callable[[], bool], seconds: float) -> bool:
    """Whether it holds within this time, looked at twenty times a second."""
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def _stat(pid: int) -> list[str] | None:
    """Fields of /proc/PID/stat from the state on: state, parent, ..., start time at 19."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return text.rpartition(")")[2].split()
