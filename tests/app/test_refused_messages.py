"""Messages that nobody foresaw, through the whole worker: dead letters everywhere, and the accounts balance."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from dovetail.app.label_meanings import with_meanings
from dovetail.app.reports import audit_worker, consistency_of
from dovetail.app.reports.archived import archived_labels, archived_letters
from dovetail.app.worker import assemble
from dovetail.features.stream.engine import StreamEngine
from dovetail.features.stream.keys import encode_keys
from dovetail.joiners import snapshot_agent
from dovetail.platform.archive.writer import read_dataset
from dovetail.platform.config.load import load_config
from dovetail.platform.rows.intake import time_us
from dovetail.platform.stage import Outgoing
from dovetail.platform.testing import ManualClock
from dovetail.platform.transports.embedded.log import EmbeddedLog
from tests.app.small_project import END_US, NOON_MS, at, finished, project_in, write_project

ROLES = ("features", "snapshots", "labels", "samples", "archive")


def send(folder: Path, topic: str, *rows: dict[str, Any], stamp_ms: int = NOON_MS) -> None:
    with EmbeddedLog.open(folder / "state" / "log.sqlite") as log:
        log.create_topic(topic, load_config(folder).topics()[topic])
        log.append([Outgoing(topic, json.dumps(row).encode(), partition=0, timestamp_ms=stamp_ms) for row in rows])


def live(folder: Path, look: Callable[[Any], None], clock: ManualClock | None = None) -> None:
    """One life of the worker to the end of everything; ``look`` at it when it has stopped."""

    async def main() -> None:
        worker = assemble(project_in(folder), roles=ROLES, clock=clock)
        try:
            async with asyncio.timeout(100):
                await worker.runtime.start()
                await worker.runtime.wait_for(lambda: finished(worker))
                await worker.runtime.stop()
            look(worker)
        finally:
            await worker.runtime.stop()
            worker.stores.close()

    asyncio.run(main())


def letters(worker: Any) -> list[tuple[str, int, str]]:
    rows = archived_letters(worker.stores).to_pylist()
    return [(row["stage"], row["offset"], row["reason"]) for row in rows]


@pytest.mark.slow
def test_what_raises_is_turned_away_by_every_reader_and_all_adds_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Planted in the three agents: the archives of their topics cannot know by themselves."""
    folder = tmp_path / "project"
    write_project(folder)
    send(folder, "behaviour", *({"user_id": user, "event_time": at(2)} for user in ("u", "poison", "u", "v")))
    send(
        folder,
        "requests",
        {"request_id": "p", "user_id": "poison", "request_time": at(1_502), "candidates": [{"item_id": 1}]},
    )
    send(folder, "exposure", {"request_id": "poison", "item_id": 1, "event_time": at(1_502)})
    apply, snapshot, times = StreamEngine.apply_in_chunks, snapshot_agent.SnapshotStage._snapshot, time_us

    def choking_apply(self: StreamEngine, states: Any, rows: Any, read: Any) -> Any:
        if any(b"poison" in key for key in keys_seen[-1]):
            raise IndexError("planted in the state")
        return apply(self, states, rows, read)

    keys_seen: list[list[bytes]] = [[]]

    def seen(columns: Any) -> Any:
        keys, codes = encode_keys(columns)
        keys_seen.append(keys)
        return keys, codes

    def choking_snapshot(self: Any, candidates: pa.Table, served: Any, answerable: Any) -> pa.Table:
        if "poison" in candidates.column("user_id").to_pylist():
            raise KeyError("planted in the snapshot")
        return snapshot(self, candidates, served, answerable)

    def choking_times(table: pa.Table, column: str) -> Any:
        if "request_id" in table.column_names and "poison" in table.column("request_id").to_pylist():
            raise AttributeError("planted in the label")
        return times(table, column)

    monkeypatch.setattr("dovetail.features.serving.feature_agent.encode_keys", seen)
    monkeypatch.setattr(StreamEngine, "apply_in_chunks", choking_apply)
    monkeypatch.setattr(snapshot_agent.SnapshotStage, "_snapshot", choking_snapshot)
    monkeypatch.setattr("dovetail.joiners.label_agent.time_us", choking_times)

    def look(worker: Any) -> None:
        audit = audit_worker(worker)
        assert audit.balanced, audit.unbalanced
        said = {stage: reason for stage, _, reason in letters(worker) if "planted" in reason}
        assert said == {
            "features.behaviour": "IndexError: planted in the state",
            "snapshots": "KeyError: 'planted in the snapshot'",
            "labels.exposure": "AttributeError: planted in the label",
        }
        stores = worker.stores
        for dataset, column in (("behaviour", "user_id"), ("requests", "user_id"), ("exposure", "request_id")):
            values = read_dataset(stores.registry, stores.offline, dataset).column(column).to_pylist()
            assert values
            assert "poison" not in values
        _, meanings = with_meanings(worker.project, stores)
        exposures = archived_labels(worker.project, stores, meanings)["exposure"]
        assert "poison" not in exposures.column("request_id").to_pylist()
        verdict = consistency_of(worker.project, stores)
        assert verdict.compared
        assert not verdict.mismatched

    live(folder, look)


@pytest.mark.slow
def test_a_message_from_the_future_by_the_workers_clock_shuts_nothing(tmp_path: Path) -> None:
    """Also one whose timestamp matches, and one whose timestamp is no time at all."""
    folder = tmp_path / "project"
    write_project(folder)
    never, no_time_ms = "9999-12-31T00:00:00Z", 1 << 62
    never_ms = 253_402_214_400_000
    send(folder, "behaviour", {"user_id": "u", "event_time": never}, stamp_ms=never_ms)
    send(folder, "behaviour", {"user_id": "u", "event_time": at(3)}, stamp_ms=no_time_ms)
    send(folder, "behaviour", {"user_id": "u", "event_time": at(4)})
    asked = {"request_id": "future", "user_id": "u", "candidates": [{"item_id": 1}]}
    send(folder, "requests", {**asked, "request_time": never}, stamp_ms=never_ms)
    send(folder, "exposure", {"request_id": "last", "item_id": 2, "event_time": never}, stamp_ms=never_ms)
    send(folder, "click", {"user_id": "u", "item_id": 2, "event_time": at(1_511)}, stamp_ms=no_time_ms)
    reason = "its timestamp is more than max_ahead (3600 s) after the worker's clock"
    clock = ManualClock(END_US)
    places: dict[str, list[tuple[str, int, str]]] = {}

    def look(worker: Any) -> None:
        audit = audit_worker(worker)
        assert audit.balanced, audit.unbalanced
        found = [letter for letter in letters(worker) if letter[2] == reason]
        assert [stage for stage, _, _ in found] == [
            "features.behaviour", "features.behaviour", "labels.click", "labels.exposure", "snapshots",
        ]  # fmt: skip
        places["found"] = found
        events = read_dataset(worker.stores.registry, worker.stores.offline, "behaviour").column("event_time")
        assert max(events.to_pylist()).year == 2024
        # No clock has been moved: labels, requests and features go on from where their own messages are.
        for progress in (
            worker.stores.labels.progress("labels.exposure")[0],
            worker.stores.labels.progress("labels.click")[0],
            worker.stores.registry.progress("snapshots")[0],
            worker.stores.online.progress("activity")[0],
        ):
            assert progress.watermark_us is not None
            assert progress.watermark_us <= END_US
            assert progress.timestamp_ms is not None
            assert progress.timestamp_ms <= END_US // 1_000
        assert not consistency_of(worker.project, worker.stores).mismatched

    live(folder, look, clock)
    # Decided once, for good: read again when that future has come, by a worker that has lost its state.
    clock.advance(8_000 * 365 * 86_400_000_000)
    stores = assemble(project_in(folder), roles=("features",)).stores
    try:
        assert set(stores.registry.refused("behaviour", 0)) == {offset for s, offset, _ in places["found"][:2]}
    finally:
        stores.close()
