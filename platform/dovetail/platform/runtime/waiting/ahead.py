"""Computes of a poll that waits for its turn what depends on none before it, while others' effects are waited for.

Until the next poll of a partition has its turn, the effects of the one before are waited for: the broker's
acknowledgements and the commit, for as long as computing takes or longer, in which the computing thread is idle. A
stage that says so (:attr:`Stage.looks_ahead`) is given the waiting poll meanwhile, to compute and to keep what it may
without knowing of the one before. Nothing else changes: there is no effect, the poll is handled in its turn, and what
was not computed by then, was dropped, or has failed, is computed in it.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Generic, TypeVar

from dovetail.platform.runtime.computing import compute
from dovetail.platform.runtime.trial import Trial
from dovetail.platform.runtime.turns import Turns
from dovetail.platform.stage import Poll, Stage

__all__ = ["Ahead"]

_log = logging.getLogger(__name__)

P = TypeVar("P", bound=tuple[str, int])


class Ahead(Generic[P]):
    """Lets stages look ahead, one poll of a partition at a time. Belongs to the event loop.

    ``local``: there is no server to wait for, so nothing is done. What is computed from outside is on ``trial`` as long
    as it is, like all that is; messages that a process died at are left for their turn, in which they are looked at.
    """

    def __init__(self, turns: Turns[P], trial: Trial | None, *, local: bool) -> None:
        self._turns, self._trial, self._local = turns, trial, local
        self._looking: dict[tuple[str, P], asyncio.Task[None]] = {}

    def look(self, stage: Stage, partition: P, poll: Poll) -> None:
        """``poll`` has come to wait: let ``stage`` compute of it what it may, if the poll waits for another."""
        key = stage.name, partition
        waits = self._turns.taken(stage.name, partition if stage.by_partition else None)
        if self._local or not stage.looks_ahead or not waits or key in self._looking:
            return
        trial = None if stage.refusals is None else self._trial
        if trial is not None and not trial.begin_ahead(stage, poll):
            return
        self._looking[key] = asyncio.create_task(self._look(stage, poll, trial))
        self._looking[key].add_done_callback(lambda _: self._looking.pop(key))

    async def _look(self, stage: Stage, poll: Poll, trial: Trial | None) -> None:
        try:
            await compute(stage.ahead, poll)
        except Exception:  # noqa: BLE001 - whatever it is, the poll's turn will tell, and that it ends the worker
            _log.debug("%s has computed nothing ahead of %s", stage.name, poll.topic, exc_info=True)
        if trial is not None:
            trial.end_ahead(stage, poll)
