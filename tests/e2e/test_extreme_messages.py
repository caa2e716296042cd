"""Times at the ends of what there is, and messages that are none, through the whole worker: rows or letters, each."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from dovetail.app.reports import audit_worker, consistency_of
from dovetail.app.worker import assemble
from dovetail.platform.archive.writer import read_dataset
from dovetail.platform.rows import wire
from dovetail.platform.transports.embedded.log import EmbeddedLog
from tests.app.small_project import Messages, at, exposure, live, project_in, request, write_project

SQL = """
CREATE TABLE behaviour (user_id VARCHAR, event_time TIMESTAMP NOT NULL, action VARCHAR);
CREATE TABLE request (
    request_id VARCHAR NOT NULL, user_id VARCHAR, request_time TIMESTAMP NOT NULL,
    candidates STRUCT(item_id BIGINT)[] NOT NULL
);
CREATE TABLE exposure (request_id VARCHAR NOT NULL, item_id BIGINT NOT NULL, event_time TIMESTAMP NOT NULL);
CREATE TABLE click (request_id VARCHAR NOT NULL, item_id BIGINT NOT NULL, event_time TIMESTAMP NOT NULL);
"""
TOML = """
name = "small"
[storage]
state = "state"
[streams.behaviour]
key = "user_id"
[labels]
window = "15m"
[labels.streams.exposure]
[labels.streams.click]
"""
FRAMES = {
    "hour": "INTERVAL 1 HOUR",
    "hopping": "hop(event_time, INTERVAL 1 DAY, INTERVAL 1 HOUR)",
    "ever": "UNBOUNDED",
}
ROLES = ("features", "snapshots", "labels", "samples", "archive")
FIRST = "0001-01-01T00:00:00Z"
EPOCH = "1969-12-31T23:59:59.999999Z"


def arrow(time_us: int, **row: object) -> bytes:
    columns = {name: pa.array([value]) for name, value in row.items()}
    return wire.encode(pa.table({**columns, "event_time": pa.array([time_us], pa.int64()).cast(pa.timestamp("us"))}))


def twice(time_us: int) -> bytes:
    """A message with a column that stands in it twice."""
    times = pa.array([time_us], pa.int64()).cast(pa.timestamp("us"))
    user = pa.array(["u"])
    return wire.encode(pa.Table.from_arrays([user, user, times], names=["user_id", "user_id", "event_time"]))


NOT_OBJECTS = [b"null", b"[]", b"7", b'"x"', b"true"]
BEFORE_ALL = int(dt.timedelta(days=400) / dt.timedelta(microseconds=1))
YEAR_1_US = int((dt.datetime(1, 1, 1) - dt.datetime(1970, 1, 1)) / dt.timedelta(microseconds=1))  # noqa: DTZ001 - UTC
#: By kind of message: those that are rows, though of long ago, and those that are dead letters.
COUNTED: list[dict[str, Any] | bytes] = [{"user_id": "u", "event_time": FIRST}, {"user_id": "u", "event_time": EPOCH}]
LETTERS: list[dict[str, Any] | bytes] = [
    *NOT_OBJECTS,
    arrow(YEAR_1_US - BEFORE_ALL, user_id="u"),
    arrow(-(2**63 - 1), user_id="u"),
    arrow(-(2**63), user_id="u"),
    twice(1_704_110_401_000_000),
]
MESSAGES: Messages = {
    "behaviour": [*COUNTED, *LETTERS, {"user_id": "u", "event_time": at(0), "action": "a"}],
    "requests": [request("r", "u", [1], 10), {**request("old", "u", [1], 0), "request_time": FIRST}, *NOT_OBJECTS],
    "exposure": [
        {**exposure("r", 1, 0), "event_time": FIRST},
        exposure("r", 1, 20),
        arrow(-(2**63) + 10**12, request_id="r", item_id=1),
        *NOT_OBJECTS,
    ],
    "click": [{**exposure("r", 1, 0), "event_time": EPOCH}, exposure("r", 1, 30), *NOT_OBJECTS],
}


def life(folder: Path, roles: Sequence[str]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(100):
            await live(folder, roles=roles)

    asyncio.run(limited())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose worker has read all of it, events first, and was started once more."""
    folder = tmp_path_factory.mktemp("extreme") / "project"
    write_project(folder, TOML, MESSAGES)
    (folder / "sql" / "activity.sql").unlink()
    (folder / "sql" / "tables.sql").write_text(SQL)
    for name, begins in FRAMES.items():
        window = f"PARTITION BY user_id ORDER BY event_time RANGE BETWEEN {begins} PRECEDING AND CURRENT ROW"
        values = f"count(*) OVER w AS {name}, last(action) OVER w AS {name}_last"
        (folder / "sql" / f"v_{name}.sql").write_text(f"SELECT user_id, {values} FROM behaviour WINDOW w AS ({window})")
    columns = ", ".join(f"v_{name}.{name}, v_{name}.{name}_last" for name in FRAMES)
    joins = " ".join(f"LEFT JOIN v_{name} USING (user_id)" for name in FRAMES)
    (folder / "sql" / "ranking.sql").write_text(f"SELECT request_id, item_id, {columns} FROM request {joins}")
    for roles in (("features",), ROLES, ROLES):
        life(folder, roles)
    return folder


def test_good_messages_beside_them_are_served_and_labelled(folder: Path) -> None:
    worker = assemble(project_in(folder), roles=ROLES)
    try:
        snapshots = read_dataset(worker.stores.registry, worker.stores.offline, "snapshots").to_pylist()
        samples = read_dataset(worker.stores.registry, worker.stores.offline, "samples").to_pylist()
        books = audit_worker(worker)
        checked = consistency_of(worker.project, worker.stores)
    finally:
        worker.stores.close()
    served = {row["request_id"]: {name: (row[name], row[f"{name}_last"]) for name in FRAMES} for row in snapshots}
    assert served["r"] == {"hour": (1, "a"), "hopping": (1, "a"), "ever": (3, "a")}
    assert [(row["request_id"], row["label"]) for row in samples if row["request_id"] == "r"] == [("r", 1)]
    assert books.balanced, books.unbalanced
    assert checked.mismatched == 0


def test_each_of_the_others_is_one_letter(folder: Path) -> None:
    with EmbeddedLog.open(folder / "state" / "log.sqlite") as log:
        poll = log.read("small-dead-letters", 0, 0)
        assert poll is not None
        sources = [dict(headers)["dovetail-source"].decode().partition("[")[0] for headers in poll.headers]
    counts = {topic: sources.count(topic) for topic in MESSAGES}
    assert counts["behaviour"] == len(LETTERS)
    assert counts["exposure"] == len(NOT_OBJECTS) + 1
    assert counts["click"] == len(NOT_OBJECTS)
    assert counts["requests"] == len(NOT_OBJECTS) + 1  # that of year 1 is older than what the state can answer
