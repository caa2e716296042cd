"""Jobs of a stage: in a thread while they are long, where they are asked for once they have proved short.

A thread costs more than most jobs do. The hand-over takes two switches, and whoever computes elsewhere meanwhile is
interrupted for the interpreter's lock: with a thread for every job, a worker spent about half of its processor time on
changing threads. A long job in the event loop, on the other hand, keeps every other stage waiting.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import ParamSpec, TypeVar

__all__ = ["SHORT_S", "Offload"]

P = ParamSpec("P")
T = TypeVar("T")

#: A job shorter than this (seconds of processor time) may run in the event loop.
SHORT_S = 0.002
# By how much what is remembered of long jobs shrinks with each shorter one.
_FADING = 0.9


class Offload:
    """Runs one kind of job of one stage. Belongs to the event loop.

    ``waits``: the job may wait for another machine; then it always has a thread. Otherwise it has one as long as one
    of the last jobs took :data:`SHORT_S` or more, and the first job has one. What a job gives or raises is the same.
    """

    def __init__(self, *, waits: bool = False) -> None:
        self._waits = waits
        self._expected_s = float("inf")

    @property
    def inline(self) -> bool:
        """Whether the next job runs in the event loop."""
        return not self._waits and self._expected_s < SHORT_S

    async def __call__(self, job: Callable[P, T], /, *args: P.args, **named: P.kwargs) -> T:
        """What ``job`` returns. Others get their turn in the event loop before this returns."""
        if not self.inline:
            return await asyncio.to_thread(self._timed, job, *args, **named)
        result = self._timed(job, *args, **named)
        await asyncio.sleep(0)
        return result

    def _timed(self, job: Callable[P, T], /, *args: P.args, **named: P.kwargs) -> T:
        # Of the thread, not of the clock: waiting for the interpreter's lock says nothing about the job.
        began = time.thread_time()
        try:
            return job(*args, **named)
        finally:
            took = time.thread_time() - began
            fading = 0.0 if self._expected_s == float("inf") else self._expected_s * _FADING
            self._expected_s = max(took, fading)
