"""Bad input of every kind, through the whole worker: counted, dead-lettered or merged, and the accounts balance."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dovetail.app.reports import audit_worker, consistency_of
from dovetail.app.worker import Worker, assemble
from dovetail.demo.shipped import project_folder
from dovetail.features import load
from dovetail.platform.rows.audit import Audit
from dovetail.platform.rows.intake import WATERMARK_HEADER
from dovetail.platform.stage import Outgoing
from dovetail.platform.transports.embedded.log import EmbeddedLog

#: 2024-01-01 12:00 UTC.
NOON_MS = 1_704_110_400_000


def at(second: int) -> str:
    return f"2024-01-01T12:{second // 60:02d}:{second % 60:02d}Z"


def message(topic: str, value: dict[str, Any] | bytes, partition: int = 0, second: int = 0) -> Outgoing:
    encoded = value if isinstance(value, bytes) else json.dumps(value).encode()
    return Outgoing(topic, encoded, partition=partition, timestamp_ms=NOON_MS + second * 1_000)


def event(user: str, item: int, second: int, action: str = "click") -> dict[str, Any]:
    return {"user_id": user, "item_id": item, "event_time": at(second), "action": action, "price": "9.99"}


def request(name: str, items: list[int], second: int) -> dict[str, Any]:
    candidates = [{"item_id": item, "position": number, "affinity": 0.5} for number, item in enumerate(items)]
    return {"request_id": name, "user_id": "u", "request_time": at(second), "candidates": candidates}


def label(name: str, item: int, second: int) -> dict[str, Any]:
    return {"request_id": name, "item_id": item, "event_time": at(second)}


EVENTS: list[dict[str, Any] | bytes] = [
    event("u", 1, 10),
    event("u", 1, 10),  # sent twice: two events to the features, in stream and batch alike
    event("u", 2, 5),  # out of order
    b"{",
    b"",
    b"not json at all",
    {"user_id": "u"},
    {**event("u", 1, 11), "item_id": "one"},
    {**event("u", 1, 11), "price": "9.999"},
    {**event("u", 1, 11), "event_time": "2099-01-01"},
    {**event("u", 1, 12), "action": "x" * 10_000_000},  # ten megabytes, and nothing wrong with it
    b"x" * 10_000_000,
    event("v", 1, 13),
]
REQUESTS: list[dict[str, Any] | bytes] = [
    request("good", [1, 2, 3], 20),
    request("empty", [], 21),
    b"[]",
    {**request("half", [1], 22), "request_time": None},
    {**request("tomorrow", [1], 22), "request_time": "2024-01-02T12:00:22Z"},  # would keep the next waiting for a day
    request("also good", [2], 23),
]
LABELS: dict[str, list[dict[str, Any] | bytes]] = {
    "exposure": [
        label("good", 1, 25),
        label("good", 1, 26),
        label("good", 2, 26),
        label("unknown request", 1, 27),
        label("good", 99, 28),  # not a candidate
        b"\x00",
        label("also good", 2, 24),
    ],
    "click": [label("good", 1, 40), label("unknown request", 1, 41), {"request_id": "good"}],
    "conversion": [{**label("good", 1, 50), "item_id": None}],
}


def feed_all() -> list[list[Outgoing]]:
    end = (NOON_MS + 86_400_000) * 1_000
    marks = [
        Outgoing(kind, b"", partition=p, timestamp_ms=NOON_MS, headers=((WATERMARK_HEADER, str(end).encode()),))
        for kind in LABELS
        for p in (0, 1)
    ]
    return [
        [message("behaviour", value, partition=number % 2) for number, value in enumerate(EVENTS)],
        [message("requests", value) for value in REQUESTS],
        [message(kind, value) for kind, values in LABELS.items() for value in values] + marks,
    ]


async def live(worker: Worker) -> None:
    runtime = worker.runtime
    topics = worker.project.config.topics()

    def read(stages: list[str]) -> bool:
        return all(
            runtime.handled.get((name, topic, p), 0) >= (runtime.end_offset(topic, p) or 0)
            for name in stages
            for topic in worker.stages[name].topics
            for p in range(topics[topic])
        )

    await runtime.start()
    phases = [["features.behaviour"], ["snapshots"], ["labels.exposure", "labels.click", "labels.conversion"]]
    for batch, stages in zip(feed_all(), phases, strict=True):
        await runtime.publish(batch)
        await runtime.wait_for(lambda stages=stages: read(stages))  # type: ignore[misc]
    await runtime.wait_for(lambda: read(["samples"]))
    await runtime.wait_for(lambda: read(["trainer"]))
    await runtime.stop()


@pytest.fixture(scope="module")
def lived(tmp_path_factory: pytest.TempPathFactory) -> tuple[Worker, Audit, Path]:
    folder = tmp_path_factory.mktemp("bad-input")
    items = pa.table(
        {
            "item_id": pa.array([1], pa.int64()),
            "available_at": pa.array([0], pa.int64()).cast(pa.timestamp("us")),
            "category": ["c"],
            "brand": ["b"],
            "score": [1.0],
        }
    )
    pq.write_table(items, folder / "item.parquet")
    project = load(
        project_folder(),
        storage={"state": str(folder / "state")},
        tables={"item": {"path": str(folder / "item.parquet")}},
    )
    worker = assemble(project)
    asyncio.run(live(worker))
    return worker, audit_worker(worker), folder


def test_the_accounts_balance(lived: tuple[Worker, Audit, Path]) -> None:
    _, audit, _ = lived
    assert audit.balanced, audit.unbalanced


def test_every_bad_message_is_counted_where_it_was_read(lived: tuple[Worker, Audit, Path]) -> None:
    _, audit, _ = lived
    outcomes = {
        stage.stage: {"read": stage.read, **{k: v for k, v in stage.outcomes.items() if v}} for stage in audit.stages
    }
    assert outcomes["features.user_activity"] == {"read": 13, "applied": 5, "dead_letter": 8}
    assert outcomes["archive.behaviour"] == {"read": 13, "archived": 5, "dead_letter": 8}
    assert outcomes["snapshots"] == {"read": 6, "snapshotted": 2, "dead_letter": 4}
    assert outcomes["labels.exposure"] == {"read": 7, "inserted": 5, "duplicate": 1, "dead_letter": 1}
    assert outcomes["labels.click"] == {"read": 3, "inserted": 2, "dead_letter": 1}
    assert outcomes["labels.conversion"] == {"read": 1, "dead_letter": 1}
    assert outcomes["samples"] == {"read": 4, "sampled": 3, "unexposed": 1}
    assert outcomes["trainer"] == {"read": 3, "trained": 3}


def test_labels_that_belong_to_nothing_stay_pending(lived: tuple[Worker, Audit, Path]) -> None:
    worker, _, _ = lived
    assert worker.stores.labels.outcomes() == {
        ("exposure", "sampled"): 3, ("exposure", "pending"): 2, ("click", "sampled"): 1, ("click", "pending"): 1,
    }  # fmt: skip


def test_dead_letters_hold_the_message_its_reason_and_where_it_came_from(lived: tuple[Worker, Audit, Path]) -> None:
    worker, _, folder = lived
    with EmbeddedLog.open(folder / "state" / "log.sqlite") as log:
        topic = worker.project.config.dead_letter_topic
        letters: list[tuple[dict[str, bytes], bytes | None]] = []
        offset = 0
        while (poll := log.read(topic, 0, offset)) is not None:
            letters += [(dict(h), v) for h, v in zip(poll.headers, poll.values, strict=True)]
            offset = poll.last + 1
    assert len(letters) == 8 + 4 + 1 + 1 + 1
    reasons = sorted(headers["dovetail-reason"].decode() for headers, _ in letters)
    for time in ("event_time", "request_time"):
        assert f"{time} is more than max_ahead (3600 s) after the message's timestamp" in reasons
    assert any("requires scale 3" in reason for reason in reasons)
    sources = {headers["dovetail-source"].decode().split("@")[0] for headers, _ in letters}
    assert sources == {"behaviour[0]", "behaviour[1]", "requests[0]", "exposure[0]", "click[0]", "conversion[0]"}
    assert any(value == b"x" * 10_000_000 for _, value in letters)


def test_what_was_served_is_consistent_all_the_same(lived: tuple[Worker, Audit, Path]) -> None:
    worker, _, _ = lived
    result = consistency_of(worker.project, worker.stores)
    assert result.compared == 4 * len(result.features)
    assert result.mismatched == 0
