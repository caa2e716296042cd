"""What both transports are asked to be: a broker, and stages that record what they were handed."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from dovetail.platform.runtime.runner import (
    App,
    Resume,
    Runtime,
    create_app,
)
from dovetail.platform.stage import Outgoing, Poll, Stage, Work

PARTITIONS = 4
TIMEOUT = 60  # of a hanging test; nothing here waits for time to pass


class Broker(Protocol):
    url: str
    max_message: int
    settings: Mapping[str, Any]

    def create(self, *topics: str) -> Mapping[str, int]: ...
    def produce(self, messages: Sequence[Outgoing]) -> None: ...


class Row(NamedTuple):
    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...]


class Store(dict[tuple[str, int], int]):
    """Positions that outlive the app."""


class Recorder(Stage):
    """Remembers what it was given; commits its position with each poll."""

    def __init__(self, name: str, topics: Sequence[str], store: Store | None = None) -> None:
        self.name = name
        self.topics = topics
        self.store = Store() if store is None else store
        self.rows: defaultdict[str, list[Row]] = defaultdict(list)
        self.polls: list[tuple[str, int, int, int]] = []

    def resume(self, topic: str) -> Mapping[int, int]:
        return {partition: offset for (name, partition), offset in self.store.items() if name == topic}

    async def handle(self, poll: Poll) -> AsyncIterator[Work]:
        self.note(poll)
        yield Work(commit=lambda: self.commit(poll), done=poll.last + 1)

    def note(self, poll: Poll) -> None:
        self.polls.append((poll.topic, poll.partition, poll.first, poll.last))
        for row in zip(
            poll.offsets.tolist(), poll.timestamps_ms.tolist(), poll.keys, poll.values, poll.headers, strict=True
        ):
            self.rows[poll.topic].append(Row(poll.partition, *row[:4], tuple(row[4])))

    def commit(self, poll: Poll) -> None:
        self.store[poll.topic, poll.partition] = poll.last + 1

    def count(self) -> int:
        return sum(map(len, self.rows.values()))

    def values(self, topic: str) -> list[bytes | None]:
        return [row.value for row in self.rows[topic]]


def numbered(topic: str, count: int, *, start: int = 0, partition: int | None = None) -> list[Outgoing]:
    return [
        Outgoing(topic, b"%d" % n, key=b"key-%d" % (n % 37), partition=partition) for n in range(start, start + count)
    ]


def app_for(broker: Broker, name: str, topics: Mapping[str, int], resume: Resume | None = None) -> App:
    return create_app(name, broker.url, resume, topics, **broker.settings)


async def until(runtime: Runtime, stage: Recorder, count: int) -> None:
    await runtime.wait_for(lambda: stage.count() == count)


def run(main: Callable[[], Any]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(TIMEOUT):
            await main()

    asyncio.run(limited())
