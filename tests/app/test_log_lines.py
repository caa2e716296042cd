"""A worker says what it does, each thing once: in a real run on the embedded log."""

from __future__ import annotations

import asyncio
import json
import logging
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from dovetail.app.worker import Worker, assemble
from dovetail.features import load
from dovetail.platform.logs import Event
from dovetail.platform.stage import Outgoing
from tests.cli.test_worker import NOON_MS, TOML, feed, write_project


async def lived(worker: Worker) -> None:
    """From the log to a model, a request that the model scores, and a rebalance that takes nothing away."""
    runtime = worker.runtime
    try:
        await runtime.start()
        await runtime.wait_for(lambda: worker.trainer is not None and worker.trainer.learner.trained == 6)
        row = {
            "request_id": "c",
            "user_id": "u",
            "request_time": "2026-01-01T13:00:00Z",
            "candidates": [{"item_id": 1}],
        }
        asked = Outgoing("requests", json.dumps(row).encode(), partition=0, timestamp_ms=NOON_MS + 3_600_000)
        await runtime.publish([asked, Outgoing("events", b"{", partition=0, timestamp_ms=NOON_MS)])
        await runtime.wait_for(lambda: runtime.handled["snapshots", "requests", 0] == 3)
        await runtime.wait_for(lambda: runtime.handled["features.events", "events", 0] == 3)
        assigned = set(runtime.tenure.partitions)
        await runtime.on_revoked()
        assert runtime.app.positions is not None
        await runtime.app.positions(assigned)
        await runtime.stop()
    finally:
        await runtime.stop()
        worker.stores.close()


def test_each_thing_a_worker_does_is_one_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_project(tmp_path, TOML.replace("[streams.events]", "[archive]\nmax_delay = '1d'\n[streams.events]"))
    feed(tmp_path)
    caplog.set_level(logging.INFO, "dovetail")

    async def limited() -> None:
        async with asyncio.timeout(100):
            await lived(assemble(load(tmp_path)))

    asyncio.run(limited())
    said = [(r.levelname, r.name, r.msg) for r in caplog.records if isinstance(r.msg, Event)]
    assert {level for level, _, _ in said} == {"INFO"}
    found: dict[str, list[dict[str, Any]]] = {}
    for _, _, event in said:
        found.setdefault(event.what, []).append(event.fields)
    assert {name for name in found if len(found[name]) > 1} == {"partitions assigned", "archive flushed"}
    before, after = found["partitions assigned"]
    assert before == after
    assert before["gone"] == {}
    assert before["partitions"]["events"] == "0"
    assert found["rebalance"] == [{"partitions": before["partitions"]}]
    (published,) = found["model published"]
    weights = published.pop("weights")
    assert weights > 0
    assert published == {"model": "clicks", "version": 1, "kind": "full", "trained": 4}
    assert found["model taken up"] == [{"model": "clicks", "version": 1, "role": "serving"}]
    assert [line["trained"] for line in found["checkpoint stored"]] == [6]
    (letter,) = found["first dead letter of its kind"]
    reason = letter.pop("reason")
    assert reason.startswith("not valid JSON: ")
    assert letter == {"stage": "features.events", "topic": "events", "partition": 0, "offset": 1}
    (count,) = found["dead letters"]
    assert (count["reason"], count["letters"]) == (reason, 2)
    flushes = Counter((line["dataset"], line["partition"]) for line in found["archive flushed"])
    assert max(flushes.values()) == 1
    assert {dataset for dataset, _ in flushes} >= {"events", "requests", "snapshots", "samples", "exposure", "click"}
    assert sum(line["rows"] for line in found["archive flushed"] if line["dataset"] == "samples") == 6
