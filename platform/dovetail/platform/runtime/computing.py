"""Decides where a stage computes: in the event loop what is short and waits for nobody, in a thread all else.

Handing a job to a thread costs more than most jobs of a stage do: two threads that compute Python at the same time take
the interpreter's lock from each other, thousands of times a second. So a job runs in the event loop as long as jobs of
its kind have been short, if the worker's stores and broker are files. With servers, which a job may wait for, jobs run
in one thread, one after the other and those that somebody waits for first; commits, which wait far more than they
compute, in threads of their own.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import Executor, Future
from contextvars import ContextVar, copy_context
from functools import partial
from itertools import count
from queue import PriorityQueue
from typing import ParamSpec, TypeVar
from weakref import WeakKeyDictionary

__all__ = ["SHORT_S", "URGENT", "Computing", "UrgentFirst", "compute", "finish", "install"]

#: Seconds that a job may keep the event loop.
SHORT_S = 0.02
#: Each short job takes this off what its kind is taken for: ten times too long is forgotten after some twenty.
_FORGIVEN = 0.9

_P = ParamSpec("_P")
_R = TypeVar("_R")

#: Whether somebody waits for what is submitted in this context.
URGENT: ContextVar[bool] = ContextVar("urgent", default=True)


class UrgentFirst(Executor):
    """Does jobs in a thread of its own, one after the other: the urgent ones first, else in the order they came.

    A job that has begun is done to its end. Whether one is urgent says :data:`URGENT` where it is submitted.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._numbers = count()
        self._jobs: PriorityQueue[tuple[int, int, Callable[[], None] | None]] = PriorityQueue()
        self._thread: threading.Thread | None = None
        self._guard = threading.Lock()
        self._closed = False

    def submit(self, fn: Callable[_P, _R], /, *args: _P.args, **kwargs: _P.kwargs) -> Future[_R]:
        """Let ``fn`` be called. Raises RuntimeError after :meth:`shutdown`."""
        future: Future[_R] = Future()

        def job() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                done = fn(*args, **kwargs)
            except BaseException as error:  # noqa: BLE001 - belongs to whoever submitted it
                future.set_exception(error)
            else:
                future.set_result(done)

        with self._guard:
            if self._closed:
                raise RuntimeError("jobs cannot be submitted any more: it is shut down")
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name=self._name, daemon=True)
                self._thread.start()
            self._jobs.put((0 if URGENT.get() else 1, next(self._numbers), job))
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more jobs; those submitted are done. ``wait`` until they are."""
        with self._guard:
            self._closed = True
            self._jobs.put((2, next(self._numbers), None))
            thread = self._thread
        if wait and thread is not None:
            thread.join()

    def _work(self) -> None:
        while (job := self._jobs.get()[2]) is not None:
            job()
            del job  # and what it refers to, while waiting for the next


class Computing:
    """Runs the jobs of one event loop.

    ``local``: whether no job waits for a server, so that short ones may run in the loop; else none does.
    ``seconds`` is the clock that jobs are timed by: the thread's processor time, so that a job is not taken for long on
    a machine that others keep busy. Only the place of a job depends on it, no result.
    """

    def __init__(self, *, local: bool, seconds: Callable[[], float] = time.thread_time) -> None:
        self._local = local
        self._seconds = seconds
        self._lasts: dict[str, float] = {}
        self._thread = UrgentFirst("computing")

    async def run(self, job: Callable[_P, _R], /, *args: _P.args, **kwargs: _P.kwargs) -> _R:
        """Return what ``job`` returns, and raise what it raises. Other tasks of the loop get a turn, too."""
        if not self._local:
            running = partial(copy_context().run, job, *args, **kwargs)
            return await asyncio.get_running_loop().run_in_executor(self._thread, running)
        kind = _kind(job)
        if not self._short(kind):
            return await asyncio.to_thread(self._timed, kind, job, *args, **kwargs)
        done = self._timed(kind, job, *args, **kwargs)
        await asyncio.sleep(0)
        return done

    async def finish(self, job: Callable[[], _R]) -> _R:
        """As :meth:`run`; when cancelled, the job is let finish first: a thread cannot be stopped."""
        if self._local and self._short(_kind(job)):
            return await self.run(job)
        running = asyncio.ensure_future(self.run(job) if self._local else asyncio.to_thread(job))
        try:
            return await asyncio.shield(running)
        except asyncio.CancelledError:
            await asyncio.wait({running})
            raise

    def close(self) -> None:
        """Let the threads go; what runs in them goes on to its end."""
        self._thread.shutdown(wait=False)

    def _short(self, kind: str) -> bool:
        return self._lasts.get(kind, SHORT_S) < SHORT_S  # nothing is known of the first of its kind

    def _timed(self, kind: str, job: Callable[_P, _R], /, *args: _P.args, **kwargs: _P.kwargs) -> _R:
        began = self._seconds()
        try:
            return job(*args, **kwargs)
        finally:
            self._lasts[kind] = max(self._seconds() - began, self._lasts.get(kind, 0.0) * _FORGIVEN)


_of_loops: WeakKeyDictionary[asyncio.AbstractEventLoop, Computing] = WeakKeyDictionary()


def install(computing: Computing) -> None:
    """Let :func:`compute` of the running event loop be ``computing``'s from now on."""
    _of_loops[asyncio.get_running_loop()] = computing


async def compute(job: Callable[_P, _R], /, *args: _P.args, **kwargs: _P.kwargs) -> _R:
    """Run a job of a stage where the runtime of this event loop decides: see :class:`Computing`. In a thread without.

    What is raised and returned is the job's. When cancelled, a job that has begun goes on to its end.
    """
    computing = _of_loops.get(asyncio.get_running_loop())
    if computing is None:
        return await asyncio.to_thread(job, *args, **kwargs)
    return await computing.run(job, *args, **kwargs)


async def finish(job: Callable[[], _R]) -> _R:
    """As :func:`compute`, but returns or raises, also when cancelled, only when the job is over."""
    computing = _of_loops.get(asyncio.get_running_loop())
    return await (Computing(local=False) if computing is None else computing).finish(job)


def _kind(job: Callable[..., object]) -> str:
    """The name of the function, which is the same for all instances of a class and all closures of a method."""
    while isinstance(job, partial):
        job = job.func
    return getattr(job, "__qualname__", type(job).__qualname__)
