"""What is the embedded driver's own: its URL, and Faust's ordinary ways of sending."""

from __future__ import annotations

import asyncio
from pathlib import Path

import faust
import pytest
from faust.types import TP, StreamT

from dovetail.platform.errors import TransportError
from dovetail.platform.runtime.runner import create_app
from dovetail.platform.stage import Poll
from dovetail.platform.transports.coalescing import PollSchema
from dovetail.platform.transports.embedded import driver as embedded
from dovetail.platform.transports.embedded.log import EmbeddedLog


@pytest.mark.parametrize("url", ["embedded://Relative/log.db", "embedded:///", "embedded:///a.db;embedded:///b.db"])
def test_a_url_that_is_not_one_absolute_path_is_refused(url: str) -> None:
    app = faust.App("test", broker=url)
    with pytest.raises(TransportError, match="one absolute path after three slashes"):
        embedded.Transport(app.conf.broker_consumer, app)


def test_faust_finds_the_driver_by_its_url(tmp_path: Path) -> None:
    app = faust.App("test", broker=f"embedded://{tmp_path}/log.db")
    assert type(app.transport) is embedded.Transport


def test_an_agent_of_an_undeclared_topic_ends_the_app(tmp_path: Path) -> None:
    async def main() -> None:
        app = create_app("test", f"embedded://{tmp_path}/log.db", topics={"known": 1})

        async def agent(stream: StreamT[Poll]) -> None:
            async for _ in stream:
                pass

        app.agent(app.topic("unknown", schema=PollSchema()))(agent)
        await app.start()
        assert isinstance(app.crash_reason, TransportError)
        assert "has no topic unknown; declare it" in str(app.crash_reason)
        await app.stop()

    asyncio.run(main())


def test_a_client_sends_as_with_any_other_driver(tmp_path: Path) -> None:
    path = tmp_path / "log.db"

    async def main() -> None:
        app = create_app("test", f"embedded://{path}")
        with EmbeddedLog.open(path) as log:
            log.create_topic("t", 4)
            await app.maybe_start_client()
            topic = app.topic("t", key_type=bytes, value_type=bytes)
            first = await (await topic.send(key=b"21", value=b"one", timestamp=1_700_000_000.123, headers={"h": b"v"}))
            second = await (await topic.send(value=b"two", partition=first.partition))
            assert (second.topic_partition, second.offset) == (first.topic_partition, 1)
            soon = topic.send_soon(key=b"21", value=b"three")
            assert (await soon).offset == 2
            assert app.producer.key_partition("t", b"21") == TP("t", first.partition)
            assert app.consumer.key_partition("t", b"21") == first.partition
            assert app.consumer.topic_partitions("t") == 4
            assert app.producer.supports_headers()
            await app.producer.create_topic("made", 2, 1, retention=60)
            await app.consumer.create_topic("made", 2, 1)
            assert log.topics() == {"t": 4, "made": 2}
            poll = log.read("t", first.partition, 0)
            assert poll is not None
            assert list(poll.values) == [b"one", b"two", b"three"]
            assert poll.timestamps_ms[0] == 1_700_000_000_123
            assert list(poll.headers[0]) == [("h", b"v")]
            await app.stop()

    asyncio.run(main())
