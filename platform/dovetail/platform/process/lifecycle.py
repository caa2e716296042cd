"""The worker as a process: signals, time-outs, exit codes.

====  ==============================================================================================================
code  the process
====  ==============================================================================================================
0     was told to stop (SIGINT, SIGTERM) and stopped in good order: works finished, commits made, group left
1     failed: an exception of a stage, a store or the broker, or the watchdog; the last line says which
2     was not started: a wrong argument, configuration or definition
3     was told to stop and had not within ``stop_timeout``
128+n got signal n a second time, and ended at once
====  ==============================================================================================================

Whatever the code, nothing is lost and nothing is counted twice: the next start resumes from the stored positions.
"""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import sys
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from types import FrameType

from dovetail.platform.masking import masked
from dovetail.platform.process.monitor import Pulse
from dovetail.platform.runtime.runner import Runtime

__all__ = ["FAILED", "LATE", "LoopGuard", "StopSignals", "leave", "run_process"]

FAILED, LATE = 1, 3
_GUARD_S = 1.0
# Python's own 5 ms is what the event loop would wait for each time that a thread computes and it has something to do,
# several times on the way of a request.
_THREAD_TURN_S = 0.000_5


class StopSignals:
    """The first SIGINT or SIGTERM asks for a stop, which must be over within ``timeout_s``; the second ends at once.

    ``exit_now`` ends the process without further ado; it and ``timer`` are handed in by tests.
    """

    def __init__(
        self,
        timeout_s: float,
        on_stop: Callable[[], None],
        *,
        exit_now: Callable[[int], None] = os._exit,
        timer: Callable[[float, Callable[[], None]], threading.Timer] = threading.Timer,
    ) -> None:
        self._timeout_s, self._on_stop, self._exit, self._timer = timeout_s, on_stop, exit_now, timer
        self._armed = False
        self._received = False

    def install(self) -> None:
        """Take the two signals over; in the main thread."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self.receive)

    def receive(self, number: int, _frame: FrameType | None = None) -> None:
        """A signal has come."""
        if self._received:
            _say("told a second time: ends at once; the next start resumes from the stored positions")
            self._exit(128 + number)
            return
        self._received = True
        self.arm(LATE)
        self._on_stop()

    def arm(self, code: int, why: str = "") -> None:
        """From now on the process has ``timeout_s`` to end by itself; else it ends with ``code``, and says ``why``."""
        if self._armed:
            return
        self._armed = True

        def late() -> None:
            failed = f"{why}; and " if why else ""
            _say(
                f"{failed}not stopped within {self._timeout_s:g} s ([worker] stop_timeout): ends at once; "
                "nothing is lost, the next start resumes from the stored positions"
            )
            self._exit(code)

        timer = self._timer(self._timeout_s, late)
        timer.daemon = True
        timer.start()


class LoopGuard:
    """Notices an event loop that no longer turns, so that nothing in it could notice anything.

    It counts its own looks, not time: a process that was paused as a whole has not hung.
    """

    def __init__(self, looks: int) -> None:
        self._looks = looks
        self._beats, self._same = -1, 0

    def hangs(self, beats: int) -> bool:
        """Whether ``beats`` has been the same for as many looks as allowed."""
        self._same = self._same + 1 if beats == self._beats else 0
        self._beats = beats
        return self._same >= self._looks


def run_process(
    runtime: Runtime,
    *,
    watch: Callable[[], Awaitable[None]],
    pulse: Pulse,
    stop_timeout_s: float,
    loop_timeout_s: float,
    on_started: Callable[[], Awaitable[None]],
) -> None:
    """Run until told to stop, or until ``watch`` returns. Raises what ended the worker otherwise.

    ``watch`` runs beside the worker, and what it raises ends it, too; ``on_started`` is awaited when polls are flowing.
    ``loop_timeout_s``: an event loop that has not turned for longer ends the process; 0: never.

    Threads may go on computing what was cancelled, without effect; see :func:`leave`.
    """
    asyncio.run(_run(runtime, watch, pulse, stop_timeout_s, loop_timeout_s, on_started))


def leave() -> None:
    """End the process now, with code 0: for one that has stopped in good order and has closed what it had open.

    Python itself would first wait for threads, which cannot be stopped (compiling a kernel may take half a minute),
    and then take its modules apart, which takes seconds on a busy machine.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


async def _run(
    runtime: Runtime,
    watch: Callable[[], Awaitable[None]],
    pulse: Pulse,
    stop_timeout_s: float,
    loop_timeout_s: float,
    on_started: Callable[[], Awaitable[None]],
) -> None:
    loop, told = asyncio.get_running_loop(), asyncio.Event()
    sys.setswitchinterval(_THREAD_TURN_S)
    threads = ThreadPoolExecutor()
    loop.set_default_executor(threads)
    signals = StopSignals(stop_timeout_s, lambda: _call_soon(loop, told.set))
    signals.install()
    if loop_timeout_s:
        threading.Thread(target=_guard, args=(pulse, loop_timeout_s), name="loop guard", daemon=True).start()
    beating = asyncio.create_task(pulse.run())
    stopping = asyncio.create_task(told.wait())
    running = asyncio.create_task(_work(runtime, watch, on_started))
    try:
        await asyncio.wait({stopping, running}, return_when=asyncio.FIRST_COMPLETED)
        if not running.done():
            # Told to stop: the start, or the watch, is over.
            running.cancel()
        else:
            error = running.exception()
            failed = "" if error is None else masked(f"failed: {type(error).__name__}: {error}")
            signals.arm(FAILED if error is not None else LATE, failed)
        await asyncio.wait({running})
        await runtime.stop()
    finally:
        beating.cancel()
        stopping.cancel()
        # The loop waits for the threads of its executor when it closes: it is given one without any.
        threads.shutdown(wait=False, cancel_futures=True)
        loop.set_default_executor(ThreadPoolExecutor(1))
    if not running.cancelled():
        running.result()
    if runtime.failure is not None:
        raise runtime.failure


async def _work(
    runtime: Runtime, watch: Callable[[], Awaitable[None]], on_started: Callable[[], Awaitable[None]]
) -> None:
    """Start, and go on until something fails or ``watch`` returns."""
    await runtime.start()
    await on_started()
    _spare_what_is_there()
    watching = asyncio.ensure_future(watch())
    failing = asyncio.create_task(runtime.wait_for(lambda: False, hasten=()))
    try:
        done, _ = await asyncio.wait({watching, failing}, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        watching.cancel()
        failing.cancel()
        await asyncio.wait({watching, failing})


def _spare_what_is_there() -> None:
    """Let no later collection of garbage look at what the start has made, most of which stays: each would take as long
    as some requests."""
    gc.collect()
    gc.freeze()


def _call_soon(loop: asyncio.AbstractEventLoop, function: Callable[[], None]) -> None:
    if not loop.is_closed():
        loop.call_soon_threadsafe(function)


def _guard(pulse: Pulse, timeout_s: float) -> None:
    guard = LoopGuard(max(1, round(timeout_s / _GUARD_S)))
    pause = threading.Event()
    while not guard.hangs(pulse.beats):
        pause.wait(_GUARD_S)
    _say(f"the event loop has had no turn for {timeout_s:g} s ([worker] watchdog_timeout): ends at once")
    os._exit(FAILED)


def _say(what: str) -> None:
    # By the descriptor: a lock of a stream may be held by whatever hangs.
    os.write(sys.__stderr__.fileno() if sys.__stderr__ is not None else 2, f"dovetail worker: {what}\n".encode())
