"""Refuses the one message from outside on which a stage raises, so that no other shares its fate.

What comes from outside may be wrong in ways nobody has thought of, and a message that ends the worker ends it again at
every start. So when a stage that reads from outside raises on a poll, before it has had an effect, the poll is halved
(:meth:`Stage.probe`, pure computing) until what raises is a single message. That message is refused, durably and for
all readers of the topic (``rows/refusals.py``), and the poll is handled anew: the intakes turn it away, as a dead
letter with the exception's type and text for a reason, counted as any other.

It is not the fault of a message, and ends the worker: what a store, a broker, the disk or the configuration raises, a
lack of memory, a state that cannot be read; and a poll that cannot be computed although each of its messages can.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from typing import cast

from dovetail.platform.errors import blameless, reason_of
from dovetail.platform.rows.halving import halved
from dovetail.platform.runtime.computing import compute
from dovetail.platform.runtime.trial import Trial
from dovetail.platform.stage import Poll, Stage, Work

__all__ = ["refusing", "tried"]

_log = logging.getLogger(__name__)


async def tried(stage: Stage, poll: Poll, trial: Trial | None, beat: Callable[[], None]) -> AsyncIterator[Work]:
    """As :func:`refusing`; of a stage that reads from outside, the poll is on ``trial`` until it is handled."""
    watched = None if stage.refusals is None else trial
    if watched is not None:
        await watched.begin(stage, poll, beat)
    async with aclosing(refusing(stage, poll)) as works:
        async for work in works:
            yield work
    if watched is not None:
        watched.end(stage, poll)


async def refusing(stage: Stage, poll: Poll) -> AsyncGenerator[Work]:
    """The works of ``stage`` for ``poll``; messages that it cannot compute are refused.

    Raises what the stage raises where that is no single message's fault.
    """
    while True:
        known = 0 if stage.refusals is None else stage.refusals.additions
        effect = False
        async with aclosing(_works(stage, poll)) as works:
            try:
                async for work in works:
                    effect = effect or work.commit is not None
                    yield work
            except Exception as error:
                if stage.refusals is None or effect or blameless(error):
                    raise
                # Beside another partition's poll nothing of a stage is computed.
                run = compute if stage.by_partition else asyncio.to_thread
                reasons = await run(_culprits, stage, poll)
                if reasons:
                    _log.exception(
                        "%s cannot compute %d messages of %s, partition %d (offset %d is the first): dead letters",
                        stage.name, len(reasons), poll.topic, poll.partition, min(reasons),
                    )  # fmt: skip
                    await asyncio.to_thread(stage.refusals.add, poll.topic, poll.partition, reasons)
                # Another reader of the topic may have refused it meanwhile.
                if stage.refusals.additions == known:
                    raise  # no message alone, so no message
            else:
                return


def _works(stage: Stage, poll: Poll) -> AsyncGenerator[Work]:
    return cast("AsyncGenerator[Work]", stage.handle(poll))


def _culprits(stage: Stage, poll: Poll) -> dict[int, str]:
    """The messages that ``stage`` cannot compute by themselves, by offset, with the reason.

    Raises what is no message's fault.
    """
    _, bad = halved(poll.offsets.tolist(), lambda some: stage.probe(poll.since(some[0]).before(some[-1] + 1)))
    return {offset: reason_of(error) for offset, error in bad}
