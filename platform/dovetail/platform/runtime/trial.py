"""Notes the polls that a process is about to compute, so that the next start finds those on which it died.

Some messages do not raise but end the process: a segmentation fault in a library, memory that the system takes back.
Where nobody knows which, each start would read them and die again. So the polls from outside that a process is about to
compute stand in a small file of its own (a write to the page cache, which outlives the process; not the machine, and
need not). A file whose process is gone says what it was computing: those messages are first computed in a child process
(:class:`Prober`), and what ends that is refused, as whatever raises is (``refusing.py``).

A process that was killed in the middle of good messages costs its successor one such look, and changes no result.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import logging
import os
import uuid
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import NamedTuple, Protocol

from dovetail.platform.owned import owned_folder
from dovetail.platform.rows.refusals import Refusals
from dovetail.platform.stage import Poll, Stage

__all__ = ["Mark", "Prober", "Trial", "TrialFile"]

_log = logging.getLogger(__name__)
_SLOT_BYTES = 512


class Mark(NamedTuple):
    """A stage was computing these offsets of a topic's partition."""

    stage: str
    topic: str
    partition: int
    first: int
    last: int


class Prober(Protocol):
    """Computes messages where their doing harm harms nobody."""

    def __call__(self, stage: str, poll: Poll, beat: Callable[[], None]) -> Mapping[int, str]:
        """The messages that end the process which computes them, by offset, with the reason. ``beat``: it gets on."""

    def stop(self) -> None:
        """Let it be: a call that is going on returns soon. From any thread."""


class TrialFile:
    """The polls that this process is computing, a slot for each stage, in a file locked for as long as it lives."""

    def __init__(self, folder: Path) -> None:
        owned_folder(folder)
        self._path = folder / f"{os.getpid()}-{uuid.uuid4().hex[:8]}.trial"
        self._handle = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._handle, fcntl.LOCK_EX)
        self._slots: dict[tuple[str, int | None, bool], int] = {}

    def write(self, mark: Mark, *, by_partition: bool = False, ahead: bool = False) -> None:
        """The stage of ``mark`` begins to compute; beside other polls, where it handles partitions each by itself.

        ``ahead``: beside the poll that it handles, one that waits.
        """
        self._put(mark.stage, mark.partition if by_partition else None, json.dumps(mark).encode(), ahead=ahead)

    def clear(self, stage: str, partition: int | None = None, *, ahead: bool = False) -> None:
        """The stage has computed what it had, of one partition where it handles each by itself."""
        self._put(stage, partition, b"", ahead=ahead)

    def _put(self, stage: str, partition: int | None, said: bytes, *, ahead: bool) -> None:
        slot = self._slots.setdefault((stage, partition, ahead), len(self._slots))
        os.pwrite(self._handle, said[:_SLOT_BYTES].ljust(_SLOT_BYTES), slot * _SLOT_BYTES)

    def close(self, *, keep: bool) -> None:
        """Give the file up; ``keep`` it for the next start."""
        if not keep:
            self._path.unlink(missing_ok=True)
        os.close(self._handle)

    @staticmethod
    def left(folder: Path) -> list[Mark]:
        """The polls that processes which are gone were computing. Their files are removed."""
        marks: list[Mark] = []
        for path in sorted(folder.glob("*.trial")):
            try:
                handle = os.open(path, os.O_RDWR | os.O_CLOEXEC)
            except FileNotFoundError:
                continue  # another start was faster
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                said = os.pread(handle, os.fstat(handle).st_size, 0)
                path.unlink(missing_ok=True)
            except BlockingIOError:
                continue  # its process lives
            finally:
                os.close(handle)
            marks += _marks(said)
        return marks


def _suspects(mark: Mark, poll: Poll) -> Poll:
    """The messages of ``poll`` that ``mark`` is of, which may be none."""
    end = mark.last + 1 if (mark.topic, mark.partition) == (poll.topic, poll.partition) else mark.first
    return poll.since(mark.first).before(end)


def _mark(stage: Stage, poll: Poll) -> Mark:
    return Mark(stage.name, poll.topic, poll.partition, poll.first, poll.last)


def _marks(said: bytes) -> list[Mark]:
    marks = []
    for start in range(0, len(said), _SLOT_BYTES):
        slot = said[start : start + _SLOT_BYTES].strip()
        try:
            stage, topic, partition, first, last = json.loads(slot) if slot else ("", "", 0, 0, -1)
            marks.append(Mark(stage, topic, int(partition), int(first), int(last)))
        except ValueError:  # a name too long for its slot: nobody knows what it was
            _log.warning("what a process was computing when it died cannot be read: %r", slot[:80])
    return [mark for mark in marks if mark.stage]


class Trial:
    """Keeps the file of a runtime, and looks at what is left of others. Belongs to the event loop."""

    def __init__(self, folder: Path, prober: Prober) -> None:
        self._folder, self._prober = folder, prober
        self._file: TrialFile | None = None
        self._left: list[Mark] = []
        self._stages: Collection[str] = ()
        # By what is looked at: all readers of a topic wait for one look.
        self._looks: dict[tuple[Mark, int, int], asyncio.Task[None]] = {}
        # One after the other: what the first refuses, the next one's child is not given again.
        self._looking = asyncio.Lock()

    def open(self, stages: Collection[str]) -> None:
        """Find what others have left, of these stages or not; blocks for as long as that takes, which is not long."""
        self._stages = stages
        self._left = TrialFile.left(self._folder)
        self._file = TrialFile(self._folder)

    async def begin(self, stage: Stage, poll: Poll, beat: Callable[[], None]) -> None:
        """``stage`` is about to compute ``poll``; returns when what a process died at in it has been looked at."""
        for mark in self._left:
            suspects = _suspects(mark, poll)
            if len(suspects):
                key = mark, suspects.first, suspects.last
                if key not in self._looks:
                    by = mark.stage if mark.stage in self._stages else stage.name
                    self._looks[key] = asyncio.create_task(self._look_at(by, stage.refusals, suspects, beat))
                await asyncio.shield(self._looks[key])
        if self._file is not None:
            self._file.write(_mark(stage, poll), by_partition=stage.by_partition)

    def end(self, stage: Stage, poll: Poll) -> None:
        """``stage`` has computed what it began with."""
        if self._file is not None:
            self._file.clear(stage.name, poll.partition if stage.by_partition else None)

    def begin_ahead(self, stage: Stage, poll: Poll) -> bool:
        """``stage`` is about to compute ``poll`` while another is handled, of each partition one at a time.

        False where it is not to, because a process died at messages of it: :meth:`begin` has them looked at.
        """
        if any(len(_suspects(mark, poll)) for mark in self._left):
            return False
        if self._file is not None:
            self._file.write(_mark(stage, poll), by_partition=True, ahead=True)
        return True

    def end_ahead(self, stage: Stage, poll: Poll) -> None:
        """``stage`` has computed what :meth:`begin_ahead` was told of."""
        if self._file is not None:
            self._file.clear(stage.name, poll.partition, ahead=True)

    def close(self, *, keep: bool) -> None:
        """The runtime stops. ``keep`` what is being computed for the next start to look at."""
        self._prober.stop()
        if self._file is not None:
            self._file.close(keep=keep)
            self._file = None

    async def _look_at(self, stage: str, refusals: Refusals | None, suspects: Poll, beat: Callable[[], None]) -> None:
        where = f"{suspects.topic}, partition {suspects.partition}, offsets {suspects.first} to {suspects.last}"
        _log.warning("a process died while %s computed %s: computing them in a child process first", stage, where)
        async with self._looking:
            reasons = await asyncio.to_thread(self._prober, stage, suspects, beat)
            if reasons and refusals is not None:
                _log.error("%d messages of %s end the process that reads them: dead letters", len(reasons), where)
                await asyncio.to_thread(refusals.add, suspects.topic, suspects.partition, reasons)
