"""A worker is told to stop in the middle of a rebalance: it ends in time, in good order, and has left its group."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import pytest

from dovetail.platform.runtime.runner import Runtime, create_app
from dovetail.platform.stage import Outgoing, Poll
from tests import forked
from tests.platform.transports.limited import run
from tests.platform.transports.members import SharedStore, Summing, member_ids

pytestmark = [pytest.mark.services, pytest.mark.slow]

WORKER = Path(__file__).parent / "held_worker.py"
PARTITIONS = 4
SESSION: dict[str, Any] = {"broker_session_timeout": 20.0, "broker_heartbeat_interval": 0.3}


class Broker(Protocol):
    url: str
    address: str

    def create(self, *topics: str) -> Mapping[str, int]: ...
    def produce(self, messages: Sequence[Outgoing]) -> None: ...


class SlowStore(SharedStore):
    """Commits while ``open`` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.open, self.committing = threading.Event(), threading.Event()
        self.open.set()

    def commit(self, poll: Poll) -> None:
        self.committing.set()
        self.open.wait()
        super().commit(poll)


def member(broker: Broker, topic: str, store: SharedStore) -> Runtime:
    return Runtime(create_app(topic, broker.url, topics={topic: PARTITIONS}, **SESSION), [Summing(topic, store)])


@contextmanager
def held_worker(broker: Broker, topic: str, place: str) -> Iterator[forked.Forked]:
    """A worker process held at ``place``; none is left over."""
    command: list[str | Path] = [WORKER, broker.url, topic, place]
    with forked.start(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as worker:
        try:
            yield worker
        finally:
            worker.kill()


async def told_to_stop(worker: forked.Forked) -> None:
    """SIGTERM; it must end in good order, within its own ``stop_timeout``."""
    worker.send_signal(signal.SIGTERM)
    _, said = await asyncio.to_thread(worker.communicate)
    assert worker.returncode == 0, said


async def members(broker: Broker, topic: str) -> int:
    return len(await asyncio.to_thread(member_ids, broker.address, topic))


def one_of_each(topic: str) -> list[Outgoing]:
    return [Outgoing(topic, b"1", partition=number) for number in range(PARTITIONS)]


@pytest.mark.parametrize("place", ["positions", "commit", "works"])
def test_a_stop_that_meets_its_own_rebalance(real_kafka: Broker, topic: str, place: str) -> None:
    """Held until the stop has come so far that the rebalance can no longer ask the consumer's thread."""
    real_kafka.create(topic)
    real_kafka.produce(one_of_each(topic))

    async def main(worker: forked.Forked) -> None:
        await asyncio.to_thread(worker.read_until, "started")
        other = member(real_kafka, topic, SharedStore())
        starting = asyncio.create_task(other.start())
        try:
            await asyncio.to_thread(worker.read_until, "rebalancing")
            await told_to_stop(worker)
            assert await members(real_kafka, topic) == 1
            await starting
            await other.wait_for(lambda: len(other.completed) == PARTITIONS)
        finally:
            starting.cancel()
            await other.stop()

    with held_worker(real_kafka, topic, place) as worker:
        run(main(worker))


def test_a_stop_that_meets_a_rebalance_which_waits_for_another_member(real_kafka: Broker, topic: str) -> None:
    """The group may wait for its slowest member; who leaves it does not."""
    real_kafka.create(topic)
    store = SlowStore()

    async def main(worker: forked.Forked) -> None:
        await asyncio.to_thread(worker.read_until, "started")
        slow, third = member(real_kafka, topic, store), member(real_kafka, topic, SharedStore())
        await slow.start()
        await asyncio.to_thread(worker.read_until, "rebalancing")
        await slow.wait_for(lambda: len(slow.completed) == PARTITIONS / 2)
        store.open.clear()
        await slow.publish(one_of_each(topic))
        await asyncio.to_thread(store.committing.wait)
        starting = asyncio.create_task(third.start())
        try:
            await asyncio.to_thread(worker.read_until, "rebalancing")
            await told_to_stop(worker)
            assert await members(real_kafka, topic) == 2
            store.open.set()
            await starting
            await third.wait_for(lambda: len(third.completed) == PARTITIONS / 2)
        finally:
            store.open.set()
            starting.cancel()
            await slow.stop()
            await third.stop()

    with held_worker(real_kafka, topic, "others") as worker:
        run(main(worker))
