"""Topics are looked at from outside, also while another process has the log, and nothing changes by that."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from dovetail.platform.stage import Outgoing
from dovetail.platform.transports.embedded.log import EmbeddedLog
from dovetail.platform.transports.faust_app import App, create_app
from dovetail.platform.transports.publishing import publisher
from dovetail.platform.transports.viewing import TopicView, follow, read_all, view_topics

TOPICS = {"one": 2, "two": 1}
HOLDER = """
import sys
from dovetail.platform.transports.embedded.log import EmbeddedLog
from dovetail.platform.stage import Outgoing
with EmbeddedLog.open(sys.argv[1]) as log:
    log.append([Outgoing("two", b"from there")])
    print("held", flush=True)
    sys.stdin.read()
"""


async def send_and_look(app: App) -> None:
    messages = [Outgoing("one", b"%d" % n, key=b"k", partition=n % 2, headers=(("h", b"x"),)) for n in range(5_000)]
    async with view_topics(app) as view:
        assert dict(await view.bounds("unknown")) == {}
        async with publisher(app) as there:
            assert await view.bounds("one") == {0: (0, 0), 1: (0, 0)}
            assert await view.read("one", 0, 0) is None
            await there.publish(messages)
        assert await view.bounds("one") == {0: (0, 2_500), 1: (0, 2_500)}
        found: dict[int, list[bytes | None]] = {0: [], 1: []}
        async for poll in read_all(view, "one", {1: 2_000}):
            found[poll.partition] += poll.values
            assert set(poll.keys) == {b"k"}
            assert all(list(headers) == [("h", b"x")] for headers in poll.headers)
        assert found == {0: [b"%d" % n for n in range(0, 5_000, 2)], 1: [b"%d" % n for n in range(4_001, 5_000, 2)]}
        # Tasks that share the view each get the messages of the partition they ask for.
        readers = [counted(view, number % 2) for number in range(6)]
        assert await asyncio.gather(*readers) == [2_500] * 6
        seen: list[bytes | None] = []
        async for poll in follow(view, "two", {0: 0}):
            seen += poll.values
            if len(seen) == 2:
                break
            async with publisher(app) as there:
                await there.publish([Outgoing("two", b"later")])
        assert seen == [b"before", b"later"]


async def counted(view: TopicView, partition: int) -> int:
    """How many messages of its own somebody reads out of a partition, from its beginning."""
    found, other = 0, {1 - partition: 2_500}
    async for poll in read_all(view, "one", other):
        assert list(poll.values) == [
            b"%d" % n for n in range(partition + 2 * found, partition + 2 * (found + len(poll)), 2)
        ]
        found += len(poll)
    return found


def test_the_embedded_log(tmp_path: Path) -> None:
    app = create_app("look", f"embedded://{tmp_path / 'log.sqlite'}", topics=TOPICS)

    async def run() -> None:
        async with view_topics(app) as view:
            assert dict(await view.bounds("two")) == {}
        async with publisher(app) as there:
            await there.publish([Outgoing("two", b"before")])
        await send_and_look(app)

    asyncio.run(run())


@pytest.mark.services
def test_kafka(kafka_url: str) -> None:
    app = create_app("look", kafka_url, topics=TOPICS)

    async def run() -> None:
        async with publisher(app) as there:
            await there.publish([Outgoing("two", b"before")])
        await send_and_look(app)

    asyncio.run(run())


def test_a_log_that_another_process_has_is_read_and_not_changed(tmp_path: Path) -> None:
    path = tmp_path / "log.sqlite"
    with EmbeddedLog.open(path) as log:
        for topic, partitions in TOPICS.items():
            log.create_topic(topic, partitions)
    command = [sys.executable, "-c", HOLDER, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        app = create_app("look", f"embedded://{path}", topics=TOPICS)

        async def look() -> list[bytes | None]:
            async with view_topics(app) as view:
                return [value async for poll in read_all(view, "two", {}) for value in poll.values]

        assert asyncio.run(look()) == [b"from there"]
        holder.communicate("", timeout=60)
