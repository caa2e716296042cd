"""The console on real Kafka, Redis and PostgreSQL, with logins that may read and nothing else."""

from __future__ import annotations

import asyncio
import html
import re
import uuid
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pyarrow as pa
import pytest
import redis
import sqlalchemy as sa

from dovetail.app.storage import open_stores
from dovetail.app.worker import Worker, assemble
from dovetail.features import Project, load
from dovetail.platform.rows import wire
from dovetail.platform.stores.registry.archived.window_sketches import AlertCount
from tests.console.browsing import browsing
from tests.console.shown_run import on_the_console
from tests.faults.broker import Broker
from tests.faults.world import Urls, World, make_world

if TYPE_CHECKING:
    from playwright.async_api import Page

pytestmark = [pytest.mark.services, pytest.mark.slow]

PASSWORD = "only-reads"


@dataclass(slots=True)
class Shop:
    """A world on servers, and its project for somebody who may read; ``archived`` once a worker has lived in it."""

    world: World
    reader: Project
    broker: Broker
    archived: bool = False

    @property
    def asked(self) -> dict[str, Any]:
        """The last request."""
        topic = self.world.project.config.request.topic
        requests = [m.value for m in self.world.portions[0] if m.topic == topic and m.value]
        asked: dict[str, Any] = rows_of(requests[-1]).to_pylist()[-1]
        return asked

    def live(self, look: Callable[[httpx.AsyncClient], Awaitable[None]] | None = None) -> None:
        """A worker's life, in which all is sent and handled; ``look`` at the console before anything is archived."""
        topics, request = self.world.project.config.topics(), self.world.project.config.request.topic

        async def lived() -> None:
            worker = assemble(self.world.project)
            try:
                await worker.runtime.start()
                for first in (True, False):  # what requests may have seen is all there before them
                    messages = [m for m in self.world.portions[0] if first == (m.topic != request)]
                    await asyncio.to_thread(self.broker.send, messages, topics)
                    async with asyncio.timeout(150):
                        await _all_handled(worker, self.broker)
                if look is not None:
                    await asyncio.to_thread(on_the_console, self.reader, look)
            finally:
                await worker.runtime.stop()
                worker.stores.close()

        asyncio.run(lived())
        self.archived = True


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
    asked = shop.asked
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
        for address in (
            "/flow",
            "/definitions",
            "/definition?name=user_activity",
            "/lineage",
            "/model",
            "/experiments",
            "/trust",
        ):
            await walk.page(address)

    shop.live(in_topics)
    on_the_console(shop.reader, in_the_archive)
    windows_are_judged_once(shop.world.project)


def test_in_a_browser_on_servers(shop: Shop) -> None:
    """Three clicks from the request's id to the events of the log that a value counts."""
    if not shop.archived:
        shop.live()
    request = shop.asked["request_id"]

    async def walk(page: Page) -> None:
        await page.goto(f"/sample?id={request}")
        await page.locator("table#candidates tbody tr td.number a").first.click()
        await page.wait_for_url("**/candidate?*")
        await page.locator("table#values tbody tr", has_text="user_events_1d").locator("td a").first.click()
        await page.wait_for_url("**/value?*")
        heading = await page.locator("h1").inner_text()
        places = await page.locator("table.events tbody tr > td:first-child").all_inner_texts()
        assert heading == f"user_events_1d = {len(set(places))}"
        assert all(place.startswith(f"{shop.world.name}-behaviour[") for place in places)

    with browsing(shop.reader) as browser:
        browser.on_a_page(walk)


def windows_are_judged_once(project: Project) -> None:
    """Sketches in PostgreSQL have every archived row; of two who judge a window, one does."""
    with closing(open_stores(project.config)) as stores:
        log = stores.registry.windows
        for name, windows in log.windows().items():
            assert sum(rows for rows, _ in windows.values()) == sum(file.rows for file in stores.registry.files(name))
            assert all(log.sketches(name, start) for start in windows)
        count, oldest = AlertCount("click", "", "rows", "error", 2), min(log.windows()["click"])
        assert [log.judge("click", oldest, [count], 0) for _ in range(2)] == [True, False]
        assert log.judge("click", oldest + 1, [count], oldest + 1)
        assert log.alerts() == [count._replace(alerts=4)]
        assert log.newest_judged() == {"click": oldest + 1}
        assert oldest not in log.windows()["click"]
