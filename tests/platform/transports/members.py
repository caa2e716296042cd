"""Stages and stores for tests of several members of a group."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

from confluent_kafka.admin import AdminClient

from dovetail.platform.errors import StaleCommit
from dovetail.platform.runtime.runner import Runtime
from dovetail.platform.stage import Poll, Stage, Work


class SharedStore:
    """Sums of numbers with positions, compare-and-set: what a real store is to several workers."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.positions: dict[int, int] = {}
        self.values: dict[int, list[int]] = {}

    def commit(self, poll: Poll) -> None:
        """Store the poll's numbers unless it does not go on where the store is."""
        with self._lock:
            found = self.positions.get(poll.partition, 0)
            if found != poll.first:
                raise StaleCommit(poll.topic, poll.partition, expected=poll.first, found=found)
            self.positions[poll.partition] = poll.last + 1
            self.values.setdefault(poll.partition, []).extend(int(value or b"") for value in poll.values)

    def count(self) -> int:
        """Numbers stored."""
        return sum(map(len, self.values.values()))


class Summing(Stage):
    """Stores numbers; ``gate`` holds polls back while it is closed, ``resuming`` the reading of positions."""

    name = "summing"

    def __init__(self, topic: str, store: SharedStore) -> None:
        self.topics = (topic,)
        self.store = store
        self.gate = asyncio.Event()
        self.gate.set()
        self.entered = asyncio.Event()
        self.resuming = threading.Event()
        self.resuming.set()
        self.asked = threading.Event()

    def resume(self, topic: str) -> Mapping[int, int]:
        self.asked.set()
        self.resuming.wait()
        return dict(self.store.positions)

    async def handle(self, poll: Poll) -> AsyncIterator[Work]:
        self.entered.set()
        await self.gate.wait()
        yield Work(commit=lambda: self.store.commit(poll), done=poll.last + 1)


async def until(holds: Callable[[], bool], *runtimes: Runtime) -> None:
    """Until ``holds()``, tried whenever one of the runtimes gets on. Raises what one of them has failed with."""
    waiting = {asyncio.ensure_future(runtime.wait_for(holds)) for runtime in runtimes}
    try:
        done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        for one in done:
            one.result()
    finally:
        for one in waiting:
            one.cancel()
        await asyncio.wait(waiting)


def group(address: str, name: str) -> Any:
    """The group as its coordinator describes it: ``state`` and ``members``."""
    admin = AdminClient({"bootstrap.servers": address})
    return admin.describe_consumer_groups([name])[name].result()


def member_ids(address: str, name: str) -> set[str]:
    """Ids of the members the coordinator believes in; a member that leaves and comes back has another."""
    return {member.member_id for member in group(address, name).members}
