"""The console on real Kafka, Redis and PostgreSQL, with logins that may read and nothing else."""

from __future__ import annotations

import asyncio
import html
import re
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pyarrow as pa
import pytest
import redis
import sqlalchemy as sa

from dovetail.app.worker import Worker, assemble
from dovetail.features import Project, load
from dovetail.platform.rows import wire
from tests.console.shown_run import on_the_console
from tests.faults.broker import Broker
from tests.faults.world import Urls, World, make_world

pytestmark = [pytest.mark.services, pytest.mark.slow]

PASSWORD = "only-reads"


@dataclass(frozen=True, slots=True)
class Shop:
    """A world on servers, and its project for somebody who may read."""

    world: World
    reader: Project
    broker: Broker


@pytest.fixture(scope="module")
def shop(
    kafka_url: str, redis_url: str, postgresql_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Shop]:
    """A world of its own topics, keys and schema; a role of PostgreSQL and a user of Redis that read these."""
    name, folder = f"t{uuid.uuid4().hex[:8]}", tmp_path_factory.mktemp("on-servers") / "shop"
    engine = sa.create_engine(postgresql_url)
    admin: Any = redis.Redis.from_url(redis_url)
    statements = (
        f"CREATE SCHEMA {name}",
        f"CREATE ROLE {name}_reader LOGIN",
        f"GRANT USAGE ON SCHEMA {name} TO {name}_reader",
        f"ALTER DEFAULT PRIVILEGES IN SCHEMA {name} GRANT SELECT ON TABLES TO {name}_reader",
    )
    with engine.begin() as connection:
        for statement in statements:
            connection.execute(sa.text(statement))
    allowed = (f"~{{{name}*", "+@read", "+@connection", "+multi", "+exec")
    admin.execute_command("ACL", "SETUSER", f"{name}-reader", "reset", "on", f">{PASSWORD}", *allowed)
    registry = f"{postgresql_url}?options=-csearch_path%3D{name}"
    world = make_world(folder, name, Urls(kafka_url, redis_url, redis_url, registry), 3, requests=80, portions=1)
    toml = folder / "dovetail.toml"
    toml.write_text(toml.read_text().replace('max_delay = "2s"', 'max_delay = "1h"'))
    broker = Broker(kafka_url)
    try:
        yield Shop(world, _reader_of(folder, name, registry), broker)
    finally:
        broker.close()
        admin.acl_deluser(f"{name}-reader")
        for key in admin.scan_iter(f"{{{name}*"):
            admin.delete(key)
        admin.close()
        with engine.begin() as connection:
            connection.execute(sa.text(f"DROP SCHEMA {name} CASCADE"))
            connection.execute(sa.text(f"DROP ROLE {name}_reader"))
        engine.dispose()


def _reader_of(folder: Path, name: str, registry: str) -> Project:
    """The project with the readers' logins."""
    password = folder / "password"
    password.write_text(PASSWORD)
    user = sa.make_url(registry).username
    return load(
        folder,
        storage={"registry": registry.replace(f"//{user}@", f"//{name}_reader@")},
        redis={"username": f"{name}-reader", "password_file": str(password)},
    )


async def _all_handled(worker: Worker, broker: Broker) -> None:
    """Wait until every stage has handled all that its topics hold, what other stages have published among it."""
    topics = worker.project.config.topics()
    handled = worker.runtime.handled
    ends: dict[tuple[str, int], int] = {}
    while (now := await asyncio.to_thread(broker.ends, topics)) != ends:
        ends = now
        wanted = {
            (name, topic, partition): ends[topic, partition]
            for name, stage in worker.stages.items()
            for topic in stage.topics
            for partition in range(topics[topic])
        }
        await worker.runtime.wait_for(lambda: all(handled.get(key, 0) >= end for key, end in wanted.items()))  # noqa: B023


class Walk:
    """A person with a browser: pages by address, and links by the words in their addresses."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client

    async def page(self, address: str) -> str:
        """The page at an address; it is there."""

        answer = await self._client.get(address)
        assert answer.status_code == 200, f"{address}: {answer.text}"
        return answer.text

    async def clicked(self, page: str, *words: str) -> str:
        """The page behind the first link of ``page`` whose address has all ``words``."""
        links = [html.unescape(link) for link in re.findall(r'href="([^"]+)"', page)]
        return await self.page(next(link for link in links if all(word in link for word in words)))


def told_by(page: str) -> tuple[str, list[tuple[str, int, int, int]]]:
    """The value that a page of a value is about, and the places of the events that it has seen, each with its row."""
    value = re.search(r"<h1>user_events_1d = (?:<[^>]*>)?([^<]*)", page)
    assert value is not None
    places = re.findall(r"<tr><td>([^\[<]+)\[(\d+)\]@(\d+)(?: row (\d+))?<", page)
    return value[1], [(topic, int(partition), int(offset), int(row or 0)) for topic, partition, offset, row in places]


def rows_of(message: bytes) -> pa.Table:
    """The rows of a message that the world has sent."""
    rows = wire.rows_of(message)
    assert rows is not None
    return rows


def test_from_a_requests_id_to_rows_of_the_log_on_servers(shop: Shop) -> None:
    """Before the archive has a row, pages are of what lies in Kafka; after it, a value is the events that it counts."""
    topics = shop.world.project.config.topics()
    config = shop.world.project.config
    requests = [m.value for m in shop.world.portions[0] if m.topic == config.request.topic and m.value]
    asked = rows_of(requests[-1]).to_pylist()[-1]
    request = asked["request_id"]

    async def in_topics(client: httpx.AsyncClient) -> None:
        walk = Walk(client)
        # Several people look at once, and each sees the topic that was asked for.
        pages = await asyncio.gather(
            *(walk.page(address) for address in (f"/sample?id={request}", "/flow", "/model", "/trust") * 2)
        )
        for number, page in enumerate(pages):
            assert (f"Request {request}" in page) == (number % 4 == 0)
        assert f"{shop.world.sent[config.request.topic]:,}" in pages[1]
        candidate = await walk.clicked(pages[0], "/candidate?")
        assert "expression" in candidate

    async def in_the_archive(client: httpx.AsyncClient) -> None:
        walk = Walk(client)
        assert request in await walk.page("/sample")
        candidate = await walk.clicked(await walk.page(f"/sample?id={request}"), "/candidate?")
        value, places = told_by(await walk.clicked(candidate, "/value?", "feature=user_events_1d"))
        assert len(places) == len(set(places)) == int(value) > 0
        stream = shop.world.project.streams["behaviour"]
        polls = await asyncio.to_thread(shop.broker.read, stream.topic, topics[stream.topic])
        log = {
            (stream.topic, *(event[name] for name in ("_partition", "_offset", "_row"))): event
            for poll in polls
            for event in wire.decode(poll, stream.schema).table.to_pylist()
        }
        for place in places:
            assert log[place]["user_id"] == asked["user_id"]
            assert log[place]["event_time"] <= asked["request_time"]
        for address in ("/flow", "/definitions", "/definition?name=user_activity", "/lineage", "/model", "/trust"):
            await walk.page(address)

    async def lived() -> None:
        worker = assemble(shop.world.project)
        try:
            await worker.runtime.start()
            for first in (True, False):  # what requests may have seen is all there before them
                messages = [m for m in shop.world.portions[0] if first == (m.topic != config.request.topic)]
                await asyncio.to_thread(shop.broker.send, messages, topics)
                async with asyncio.timeout(150):
                    await _all_handled(worker, shop.broker)
            await asyncio.to_thread(on_the_console, shop.reader, in_topics)
        finally:
            await worker.runtime.stop()
            worker.stores.close()

    asyncio.run(lived())
    on_the_console(shop.reader, in_the_archive)
