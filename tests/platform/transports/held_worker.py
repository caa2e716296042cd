"""A worker whose rebalance is held at a place until its stop has come to another: run by ``test_stop_in_rebalance``.

Usage: held_worker.py KAFKA_URL TOPIC PLACE; it says on standard output where it is. Places:

``positions``  the store is being asked where to go on; it answers when aiokafka is being closed
``commit``     offsets are about to be committed, before partitions go; they are when aiokafka is being closed
``works``      works are ending, before partitions go; aiokafka is closed when they have
``others``     nothing is held here: the group waits for another member
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

from aiokafka import AIOKafkaConsumer
from aiokafka.consumer.group_coordinator import CoordinatorGroupRebalance
from faust.types import TP

from dovetail.platform.process.lifecycle import leave, run_process
from dovetail.platform.process.monitor import Pulse
from dovetail.platform.runtime.runner import Runtime, create_app
from dovetail.platform.stage import Poll, Stage, Work
from dovetail.platform.transports.coalescing import CoalescingConsumer
from dovetail.platform.transports.kafka.driver import Consumer

STOP_TIMEOUT_S = 15.0


class Places:
    """Where the worker is: events that threads wait for."""

    def __init__(self, held: str) -> None:
        self._held: str | None = held
        self.closing, self.stopping, self.revoked = threading.Event(), threading.Event(), threading.Event()

    async def hold(self, place: str, until: threading.Event) -> None:
        """The first time ``place`` is come to in a rebalance after the start, wait there."""
        if started.is_set() and self._held == place:
            self._held = None
            say("rebalancing")
            await asyncio.to_thread(until.wait)


class Reading(Stage):
    """Keeps nothing."""

    name = "reading"

    def __init__(self, topic: str) -> None:
        self.topics = (topic,)

    def resume(self, topic: str) -> Mapping[int, int]:
        asyncio.run(places.hold("positions", places.closing))
        return {}

    async def handle(self, poll: Poll) -> AsyncIterator[Work]:
        yield Work(done=poll.last + 1)

    def hurry(self) -> None:
        places.stopping.set()


def before(kind: Any, name: str, first: Callable[..., Awaitable[None]]) -> None:
    """Let the method ``name`` of a class begin with ``first``."""
    method = getattr(kind, name)

    async def begun(self: Any, *arguments: Any, **named: Any) -> Any:
        await first(self)
        return await method(self, *arguments, **named)

    setattr(kind, name, begun)


async def close(_: AIOKafkaConsumer) -> None:
    places.closing.set()
    if place == "works":
        await asyncio.to_thread(places.revoked.wait)


async def commit(_: Consumer) -> None:
    if not runtime.tenure.settled:
        await places.hold("commit", places.closing)


async def join(_: CoordinatorGroupRebalance) -> None:
    if started.is_set() and place == "others":
        say("rebalancing")


revoke = CoalescingConsumer.on_partitions_revoked


async def revoke_held(self: CoalescingConsumer, revoked: set[TP]) -> None:
    await places.hold("works", places.stopping)
    await revoke(self, revoked)
    if started.is_set():
        places.revoked.set()


def say(what: str) -> None:
    os.write(1, b"%s\n" % what.encode())


async def on_started() -> None:
    started.set()
    say("started")


async def watch() -> None:
    await asyncio.Event().wait()


if __name__ == "__main__":
    url, topic, place = sys.argv[1:]
    places, started = Places(place), threading.Event()
    before(AIOKafkaConsumer, "stop", close)
    before(Consumer, "_commit", commit)
    before(CoordinatorGroupRebalance, "perform_group_join", join)
    CoalescingConsumer.on_partitions_revoked = revoke_held  # type: ignore[method-assign]
    app = create_app(topic, url, topics={topic: 4}, broker_session_timeout=20.0, broker_heartbeat_interval=0.3)
    runtime = Runtime(app, [Reading(topic)])
    run_process(
        runtime, watch=watch, pulse=Pulse(), stop_timeout_s=STOP_TIMEOUT_S, loop_timeout_s=0, on_started=on_started
    )
    leave()
