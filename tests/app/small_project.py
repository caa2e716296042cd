"""A small project that is lived through step by step: clicks without request, a request that is refused, bad messages.

Everything is sent before the worker starts, so what it does between two steps is all there is to its life.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from dovetail.app.storage import Stores, open_stores
from dovetail.app.worker import Worker, assemble
from dovetail.features import Project, load
from dovetail.platform.config.load import load_config
from dovetail.platform.rows.intake import WATERMARK_HEADER
from dovetail.platform.stage import Outgoing
from dovetail.platform.transports.embedded.log import EmbeddedLog

#: 2024-01-01 12:00 UTC.
NOON_MS = 1_704_110_400_000
END_US = (NOON_MS + 86_400_000) * 1_000

SQL = """
CREATE TABLE behaviour (user_id VARCHAR NOT NULL, event_time TIMESTAMP NOT NULL);
CREATE TABLE request (
    request_id VARCHAR NOT NULL, user_id VARCHAR NOT NULL, request_time TIMESTAMP NOT NULL,
    candidates STRUCT(item_id BIGINT)[] NOT NULL
);
CREATE TABLE exposure (request_id VARCHAR NOT NULL, item_id BIGINT NOT NULL, event_time TIMESTAMP NOT NULL);
CREATE TABLE click (user_id VARCHAR NOT NULL, item_id BIGINT NOT NULL, event_time TIMESTAMP NOT NULL);
"""
VIEW = """
SELECT user_id, count(*) OVER w AS events FROM behaviour
WINDOW w AS (PARTITION BY user_id ORDER BY event_time RANGE BETWEEN INTERVAL 1 HOUR PRECEDING AND CURRENT ROW)
"""
FEATURES = "SELECT request_id, item_id, activity.events FROM request LEFT JOIN activity USING (user_id)"
TOML = """
name = "small"
[storage]
state = "state"
[streams.behaviour]
key = "user_id"
[request]
feature_set = "ranking"
[labels]
window = "15m"
corrections = "15m"
[labels.order]
block_rows = 2
[labels.streams.exposure]
[labels.streams.click]
attribute = "latest_request"
attribute_within = "10m"
"""


#: By topic.
Messages = dict[str, list[dict[str, Any] | bytes]]


def at(second: int) -> str:
    return f"2024-01-01T{12 + second // 3600:02d}:{second % 3600 // 60:02d}:{second % 60:02d}Z"


def request(name: str, user: str, items: list[int], second: int) -> dict[str, Any]:
    candidates = [{"item_id": item} for item in items]
    return {"request_id": name, "user_id": user, "request_time": at(second), "candidates": candidates}


def exposure(name: str, item: int, second: int) -> dict[str, Any]:
    return {"request_id": name, "item_id": item, "event_time": at(second)}


def click(user: str, item: int, second: int) -> dict[str, Any]:
    return {"user_id": user, "item_id": item, "event_time": at(second)}


MESSAGES: Messages = {
    "behaviour": [{"user_id": "u", "event_time": at(1)}],
    "requests": [
        request("first", "u", [1, 2, 3], 10),
        request("second", "u", [1, 4], 60),
        request("empty", "u", [], 61),
        request("third", "v", [1, 2], 70),
        request("last", "u", [2], 1_500),
    ],
    "exposure": [
        *(exposure("first", item, 12) for item in (1, 2)),
        *(exposure("second", item, 62) for item in (1, 4)),
        exposure("third", 1, 72),
        exposure("third", 1, 73),
        b"{",
        exposure("last", 2, 1_501),
    ],
    "click": [
        click("u", 1, 50),  # first
        click("u", 1, 90),  # second, the latest that had it
        click("u", 2, 95),  # first, of all that came before
        click("u", 9, 96),  # of no request
        b"not json",
        click("u", 2, 1_000),  # more than ten minutes after
        click("u", 2, 1_510),  # last
        click("v", 1, 300),  # out of order: takes effect at 1510 s, after the window: a correction
    ],
}


def write_project(folder: Path, toml: str = TOML, messages: Messages | None = None) -> None:
    """The definitions, and a log with everything in it, ended by announcements a day later in partition 0."""
    (folder / "sql").mkdir(parents=True)
    (folder / "dovetail.toml").write_text(toml)
    (folder / "sql" / "tables.sql").write_text(SQL)
    (folder / "sql" / "activity.sql").write_text(VIEW)
    (folder / "sql" / "ranking.sql").write_text(FEATURES)
    (folder / "state").mkdir()
    with EmbeddedLog.open(folder / "state" / "log.sqlite") as log:
        for topic, values in (MESSAGES if messages is None else messages).items():
            log.create_topic(topic, load_config(folder).topics()[topic])
            sent = [value if isinstance(value, bytes) else json.dumps(value).encode() for value in values]
            log.append([Outgoing(topic, value, partition=0, timestamp_ms=NOON_MS) for value in sent])
            header = ((WATERMARK_HEADER, str(END_US).encode()),)
            log.append([Outgoing(topic, b"", partition=0, timestamp_ms=END_US // 1_000, headers=header)])


def project_in(folder: Path) -> Project:
    return load(folder)


def stores_of(folder: Path) -> Stores:
    return open_stores(project_in(folder).config)


async def live(
    folder: Path,
    on_step: Callable[[str, str], None] | None = None,
    roles: Sequence[str] = ("snapshots", "labels", "samples", "archive"),
) -> None:
    """One life of the worker, to the end of everything; raises what ``on_step`` raises."""
    worker = assemble(project_in(folder), roles=roles, on_step=on_step)
    try:
        await worker.runtime.start()
        await worker.runtime.wait_for(lambda: finished(worker))
        await worker.runtime.stop()
    finally:
        await worker.runtime.stop()
        worker.stores.close()


def finished(worker: Worker) -> bool:
    """Whether every stage has handled all that its topics hold."""
    runtime, topics = worker.runtime, worker.project.config.topics()
    return all(
        runtime.handled.get((name, topic, partition), 0) >= (runtime.end_offset(topic, partition) or 0)
        for name, stage in worker.stages.items()
        for topic in stage.topics
        for partition in range(topics[topic])
    )


def run(folder: Path, on_step: Callable[[str, str], None] | None = None) -> None:
    async def limited() -> None:
        async with asyncio.timeout(100):
            await live(folder, on_step)

    asyncio.run(limited())
