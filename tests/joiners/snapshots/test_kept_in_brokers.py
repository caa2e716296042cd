"""The same on the transports themselves: a runtime ended after each step, and the next one on the same broker."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from dovetail.features.plan.request import flatten_requests
from dovetail.joiners.snapshot_agent import Ranking, RequestTopic, SnapshotStage
from dovetail.joiners.snapshots.messages import REPLY_HEADER, Answers
from dovetail.platform.rows.intake import Intake
from dovetail.platform.runtime.runner import Runtime, create_app
from dovetail.platform.stage import Outgoing
from dovetail.platform.stores.registry.store import Registry
from dovetail.platform.testing import MemoryLog
from dovetail.platform.transports.topic_reader import TopicReader
from tests.joiners.snapshots.test_kept import TOPICS, Changing, Crash, check
from tests.joiners.test_snapshots import SCHEMA, request
from tests.platform.transports.limited import run


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    with caplog.at_level(logging.CRITICAL):  # a crash is logged by every service it takes down
        yield


@pytest.fixture(params=["embedded", pytest.param("kafka", marks=pytest.mark.services)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "embedded":
        return f"embedded://{tmp_path / 'log.sqlite'}"
    return str(request.getfixturevalue("kafka_url"))


class World:
    """Topics of one run, and the store."""

    def __init__(self, url: str, folder: Path) -> None:
        self.url, self.name = url, f"kept-{uuid.uuid4().hex[:8]}"
        self.registry = Registry(f"sqlite:///{folder / 'registry.sqlite'}")

    def topic(self, name: str) -> str:
        return f"{self.name}-{name}"

    def runtime(self, life: int, dies_at: int | None = None) -> Runtime:
        """A worker whose features and scores are those of ``life``; it dies at that step of the snapshot agent."""
        steps = count()

        def on_step(_stage: str, _step: str) -> None:
            if next(steps) == dies_at:
                raise Crash

        made: list[Runtime] = []
        answers = Answers(self.topic("snapshots"), self.topic("dead"), [self.topic("replies")], rows_per_message=2)
        stage = SnapshotStage(
            RequestTopic(self.topic("requests"), Intake(SCHEMA, "request_time", None), flatten_requests),
            Ranking(Changing(life), Changing(life)),
            answers,
            self.registry,
            snapshots=TopicReader(lambda: made[0].consumer, answers.snapshots_topic),
        )
        app = create_app(self.name, self.url, topics={self.topic(name): 1 for name in TOPICS})
        made.append(Runtime(app, [stage], on_step=on_step))
        return made[0]

    async def live(self, life: int, dies_at: int | None, send: list[Outgoing], total: int) -> MemoryLog | None:
        """One life, to the end or its death; what the topics hold at the end of one that does not die."""
        runtime, topic = self.runtime(life, dies_at), self.topic("requests")
        try:
            await runtime.start()
            if send:
                await runtime.publish(send)
            await runtime.wait_for(lambda: runtime.completed.get(("snapshots", topic, 0), 0) >= total)
            return await asyncio.to_thread(self.copied, runtime) if dies_at is None else None
        except Crash:
            return None
        finally:
            await runtime.stop()

    def copied(self, runtime: Runtime) -> MemoryLog:
        """The topics of answers as a log in memory."""
        log = MemoryLog(TOPICS)
        for name in ("snapshots", "replies"):
            reader = TopicReader(lambda: runtime.consumer, self.topic(name))
            at, end = reader.bounds(0)
            while at < end:
                poll = reader.read(0, at)
                assert poll is not None
                log.append([Outgoing(name, value or b"") for value in poll.values])
                at = poll.last + 1
            assert reader.read(0, end) is None
        return log


@pytest.mark.parametrize("dies_at", range(9))
def test_ended_after_any_step_what_was_told_is_what_is_kept(url: str, tmp_path: Path, dies_at: int) -> None:
    world = World(url, tmp_path)
    header = ((REPLY_HEADER, world.topic("replies").encode()),)
    prices = [[1.0], [2.0, 3.0], [4.0], [-1.0], [5.0]]
    asking = [b"r0", b"r1", b"r4"]
    sent = [
        Outgoing(world.topic("requests"), request(f"r{n}", p), headers=header if b"r%d" % n in asking else ())
        for n, p in enumerate(prices)
    ]

    async def main() -> None:
        await world.live(0, dies_at, sent, len(sent))
        log = await world.live(1, None, [], len(sent))
        assert log is not None
        check(log, world.registry, asking)

    run(main())
    world.registry.close()
