"""Messages computed in a child process, within limits: which of them end it.

The child computes all of them at once; only if it does not survive that, it computes them one by one, and says before
each which it is. What was last said when it ended is the message that ended it, and another child goes on behind it.
"""

from __future__ import annotations

import json
import logging
import os
import pickle
import queue
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NamedTuple

from dovetail.platform.errors import EngineFailed
from dovetail.platform.stage import Poll, Stage

__all__ = ["ChildProber", "Limits", "Task", "serve"]

_log = logging.getLogger(__name__)
_ENDED = "ended the process that read it"


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of a child: seconds to start, for all messages at once and for one; bytes of memory for computing."""

    start_s: float = 180.0
    poll_s: float = 180.0
    message_s: float = 60.0
    memory_bytes: int = 2 << 30


class Task(NamedTuple):
    """The task of a child: compute ``poll`` with ``stage``, which it makes from ``project``."""

    project: Any
    stage: str
    poll: Poll
    singly: bool
    memory_bytes: int


class ChildProber:
    """Probes in processes that are started with ``command`` and call :func:`serve`; ``project`` must be picklable."""

    def __init__(self, command: Sequence[str], project: Any, limits: Limits | None = None) -> None:
        self._command, self._project, self._limits = command, project, limits or Limits()
        self._stopped = threading.Event()
        self._child: subprocess.Popen[bytes] | None = None

    def __call__(self, stage: str, poll: Poll, beat: Callable[[], None]) -> Mapping[int, str]:
        """The messages that end a process, by offset, with how. Nothing, where no child could say."""
        memory = self._limits.memory_bytes
        if self._run(Task(self._project, stage, poll, singly=False, memory_bytes=memory), beat).sound:
            return {}
        reasons: dict[int, str] = {}
        while len(poll) and not self._stopped.is_set():
            end = self._run(Task(self._project, stage, poll, singly=True, memory_bytes=memory), beat)
            if end.sound or end.at is None:
                break
            offset = int(poll.offsets[end.at])
            reasons[offset] = f"{_ENDED}: {end.how}"
            poll = poll.since(offset + 1)
        return {} if self._stopped.is_set() else reasons

    def stop(self) -> None:
        """End the child that is at work, if any, and begin no further one."""
        self._stopped.set()
        child = self._child
        if child is not None:
            child.kill()

    def _run(self, task: Task, beat: Callable[[], None]) -> _End:
        if self._stopped.is_set():
            return _End(None, "", sound=True)
        try:
            child = subprocess.Popen(self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)  # noqa: S603 - our own
        except OSError as error:
            _log.error("a child process to compute messages in did not start: %s", error)
            return _End(None, "", sound=True)
        self._child = child
        assert child.stdin is not None  # noqa: S101 - PIPE
        assert child.stdout is not None  # noqa: S101 - PIPE
        lines: queue.Queue[bytes | None] = queue.Queue()
        reading = threading.Thread(target=_read, args=(child.stdout, lines), daemon=True)
        reading.start()
        with suppress(BrokenPipeError):  # it has ended already, and the lines say so
            pickle.dump(task, child.stdin)
            child.stdin.close()
        try:
            return self._follow(child, lines, task, beat)
        finally:
            child.kill()
            child.wait()
            reading.join()
            self._child = None

    def _follow(
        self, child: subprocess.Popen[bytes], lines: queue.Queue[bytes | None], task: Task, beat: Callable[[], None]
    ) -> _End:
        """Read what the child says until it ends."""
        at: int | None = None
        seconds = self._limits.start_s
        while True:
            try:
                line = lines.get(timeout=seconds)
            except queue.Empty:
                return _End(at, f"it took longer than {seconds:g} s", sound=at is None)
            beat()
            if line is None:
                child.wait()
                if at is None:
                    _log.error(
                        "a child process that should compute messages did not start (exit code %s)", child.returncode
                    )
                return _End(at, _how(child.returncode), sound=at is None)
            said = json.loads(line)
            if "at" in said:
                at, seconds = said["at"], self._limits.message_s if task.singly else self._limits.poll_s
            elif "failed" in said:
                return _End(at, said["failed"], sound=False)
            else:
                return _End(None, "", sound=True)


class _End(NamedTuple):
    """How a child ended: at which message, and ``sound`` when that says nothing against any."""

    at: int | None
    how: str
    sound: bool


def _read(pipe: IO[bytes], lines: queue.Queue[bytes | None]) -> None:
    with pipe:
        for line in pipe:
            lines.put(line)
    lines.put(None)


def _how(code: int) -> str:
    if code < 0:
        return signal.Signals(-code).name
    return f"exit code {code}"


def serve(make: Callable[[Any, str], Stage]) -> None:
    """The child: read a task from standard input, compute, say how far it is on standard output.

    ``make`` makes a stage by name of what the task calls its project.
    """
    # Whatever prints, libraries included, must not be taken for what is said here.
    said = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    task: Task = pickle.load(sys.stdin.buffer)  # noqa: S301 - from the parent process
    stage = make(task.project, task.stage)
    stage.resume(task.poll.topic)
    _limit(task.memory_bytes)
    cuts = task.poll.offsets.tolist() if task.singly else [task.poll.first]
    ends = [cut + 1 for cut in cuts] if task.singly else [task.poll.last + 1]
    parts = [task.poll.since(first).before(end) for first, end in zip(cuts, ends, strict=True)]
    for number, part in enumerate(parts):
        said.write(json.dumps({"at": number}).encode() + b"\n")
        try:
            stage.probe(part)
        except (EngineFailed, MemoryError) as error:
            said.write(json.dumps({"failed": f"{type(error).__name__}: {error}"}).encode() + b"\n")
            return
        except Exception as error:  # noqa: BLE001 - it has survived that; whoever computes it next sees it raised
            _log.info("offset %d raises %r", part.first, error)
    said.write(b"{}\n")


def _limit(memory_bytes: int) -> None:
    """Let this process take ``memory_bytes`` more than it has, where the system counts that, and leave no core."""
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        status = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        held = next(int(line.split()[1]) << 10 for line in status if line.startswith("VmData:"))
        resource.setrlimit(resource.RLIMIT_DATA, (held + memory_bytes, resource.RLIM_INFINITY))
