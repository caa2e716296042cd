"""Decides where a stage computes: in the event loop what is short and waits for nobody, in a thread all else.

Handing a job to a thread costs more than most jobs of a stage do: two threads that compute Python at the same time take
the interpreter's lock from each other, thousands of times a second. So a job runs in the event loop as long as jobs of
its kind have been short, if the worker's stores and broker are files. A job that waits for a server runs in a thread.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from functools import partial
from typing import ParamSpec, TypeVar
from weakref import WeakKeyDictionary

__all__ = ["SHORT_S", "Computing", "compute", "install"]

#: Seconds that a job may keep the event loop.
SHORT_S = 0.02
#: Each short job takes this off what its kind is taken for: ten times too long is forgotten after some twenty.
_FORGIVEN = 0.9

_P = ParamSpec("_P")
_R = TypeVar("_R")


class Computing:
    """Runs the jobs of one event loop.

    ``local``: whether no job waits for a server, so that short ones may run in the loop; else all run in threads.
    ``seconds`` is the clock that jobs are timed by. Only the place of a job depends on it, no result.
    """

    def __init__(self, *, local: bool, seconds: Callable[[], float] = time.perf_counter) -> None:
        self._local = local
        self._seconds = seconds
        self._lasts: dict[str, float] = {}

    async def run(self, job: Callable[_P, _R], /, *args: _P.args, **kwargs: _P.kwargs) -> _R:
        """Return what ``job`` returns, and raise what it raises. Other tasks of the loop get a turn, too."""
        if not self._local:
            return await asyncio.to_thread(job, *args, **kwargs)
        kind = _kind(job)
        if self._lasts.get(kind, SHORT_S) >= SHORT_S:  # nothing is known of the first of its kind
            return await asyncio.to_thread(self._timed, kind, job, *args, **kwargs)
        done = self._timed(kind, job, *args, **kwargs)
        await asyncio.sleep(0)
        return done

    def _timed(self, kind: str, job: Callable[_P, _R], /, *args: _P.args, **kwargs: _P.kwargs) -> _R:
        began = self._seconds()
        try:
            return job(*args, **kwargs)
        finally:
            self._lasts[kind] = max(self._seconds() - began, self._lasts.get(kind, 0.0) * _FORGIVEN)


_IN_THREADS = Computing(local=False)
_of_loops: WeakKeyDictionary[asyncio.AbstractEventLoop, Computing] = WeakKeyDictionary()


def install(computing: Computing) -> None:
    """Let :func:`compute` of the running event loop be ``computing``'s from now on."""
    _of_loops[asyncio.get_running_loop()] = computing


async def compute(job: Callable[_P, _R], /, *args: _P.args, **kwargs: _P.kwargs) -> _R:
    """Run a job of a stage where the runtime of this event loop decides: see :class:`Computing`. In a thread without.

    What is raised and returned is the job's. When cancelled, a job that has begun goes on to its end.
    """
    return await _of_loops.get(asyncio.get_running_loop(), _IN_THREADS).run(job, *args, **kwargs)


def _kind(job: Callable[..., object]) -> str:
    """The name of the function, which is the same for all instances of a class and all closures of a method."""
    while isinstance(job, partial):
        job = job.func
    return getattr(job, "__qualname__", type(job).__qualname__)
