"""Observes a running worker: whether it is alive, ready and moving, and how far it is behind.

Facts only; what follows from them is :mod:`~dovetail.platform.process.watchdog`'s and the process's business.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

from dovetail.platform.masking import masked
from dovetail.platform.process.metrics import Lag
from dovetail.platform.process.watchdog import Moving
from dovetail.platform.runtime.runner import Runtime

__all__ = ["FETCH", "Monitor", "Pulse"]

#: In place of a stage's name: what the consumer has yet to hand out.
FETCH = "fetch"
_BEAT_S = 0.25


class Pulse:
    """Says for how long the event loop has not had a turn. Beats in the loop; read from any thread."""

    def __init__(self, seconds: Callable[[], float] = time.monotonic) -> None:
        self._seconds = seconds
        self._last = seconds()
        #: How often it has beaten.
        self.beats = 0

    def beat(self) -> None:
        """The loop has a turn."""
        self._last = self._seconds()
        self.beats += 1

    async def run(self) -> None:
        """Beat until cancelled."""
        while True:
            self.beat()
            await asyncio.sleep(_BEAT_S)

    def lag_s(self) -> float:
        """Seconds since the loop should have had a turn; 0 when it has."""
        return max(0.0, self._seconds() - self._last - _BEAT_S)


class Monitor:
    """Looks at a runtime. ``alive``, ``ready`` and ``lag`` from any thread, ``moving`` in the event loop."""

    def __init__(self, runtime: Runtime, pulse: Pulse, *, loop_timeout_s: float) -> None:
        """``loop_timeout_s``: an event loop without a turn for longer than this is not alive; 0: however long."""
        self._runtime, self._pulse, self._loop_timeout_s = runtime, pulse, loop_timeout_s

    def alive(self) -> tuple[bool, dict[str, Any]]:
        """Whether nothing has failed and the event loop turns."""
        lag_s = self._pulse.lag_s()
        body: dict[str, Any] = {"status": "ok", "event_loop_lag_seconds": round(lag_s, 3)}
        failure = self._runtime.failure
        if failure is not None:
            body |= {"status": "failed", "reason": masked(f"{type(failure).__name__}: {failure}")}
        elif 0 < self._loop_timeout_s < lag_s:
            body |= {"status": "blocked", "reason": f"the event loop has had no turn for {lag_s:.1f} s"}
        return body["status"] == "ok", body

    def ready(self) -> tuple[bool, dict[str, Any]]:
        """Whether the stages have started and read from sought positions: a request sent now is answered."""
        runtime = self._runtime
        reason = ""
        if runtime.failure is not None:
            reason = masked(f"{type(runtime.failure).__name__}: {runtime.failure}")
        elif runtime.stopping:
            reason = "stopping"
        elif not runtime.started:
            reason = "stages have not started"
        elif not runtime.tenure.settled:
            reason = "partitions are being assigned, or their positions are not yet known"
        topics = sorted({tp.topic for tp in runtime.tenure.partitions})
        partitions = {
            topic: sorted(tp.partition for tp in runtime.tenure.partitions if tp.topic == topic) for topic in topics
        }
        body: dict[str, Any] = {"ready": not reason, "partitions": partitions}
        return not reason, body | ({"reason": reason} if reason else {})

    def lag(self) -> Lag:
        """Messages not completed, of every partition assigned here, by stage; what the broker does not tell is absent.

        Asks the broker.
        """
        runtime = self._runtime
        ends = runtime.end_offsets(runtime.tenure.partitions) if runtime.started else {}
        return {
            (stage.name, *tp): max(0, end - runtime.completed.get((stage.name, *tp), 0))
            for tp, end in ends.items()
            for stage in runtime.readers(tp.topic)
        }

    async def moving(self) -> dict[tuple[str, str, int], Moving]:
        """The work that each stage has in hand, and the data that the consumer has yet to hand out. Asks the broker."""
        runtime, consumer = self._runtime, self._runtime.consumer
        partitions = runtime.tenure.partitions
        ends = await asyncio.to_thread(runtime.end_offsets, partitions)
        seen: dict[tuple[str, str, int], Moving] = {}
        for tp in partitions:
            handed = consumer.handed_out(tp)
            if handed is None:
                # Assigned, and never sought: nobody reads it, and nothing will ever be in hand.
                seen[FETCH, tp.topic, tp.partition] = Moving(None, 0, ends.get(tp))
                continue
            for stage in runtime.readers(tp.topic):
                key = (stage.name, *tp)
                done = runtime.handled.get(key, handed)
                mark: tuple[Any, ...] = (done, runtime.given(stage.name, tp), runtime.steps[key])
                busy = None if stage.by_partition else runtime.at_work(stage.name)
                if busy is not None and busy != tp:
                    # It takes one poll at a time: what it does with the other one is movement too.
                    mark = (*mark, busy, runtime.given(stage.name, busy), runtime.steps[stage.name, *busy])
                seen[key] = Moving(mark, done, handed, stage.waiting)
            end = ends.get(tp)
            # Full: whoever has not finished its polls is looked at above.
            held = "enough is handed out" if consumer.full(tp) else None
            at = handed
            if held is None and end is not None and end > handed:
                # Control records of transactions are read and never handed out.
                at = max(handed, await consumer.position(tp) or 0)
            seen[FETCH, tp.topic, tp.partition] = Moving(at, at, end, held)
        return seen
