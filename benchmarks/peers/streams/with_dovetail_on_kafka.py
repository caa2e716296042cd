"""Dovetail's feature stage in its runtime on Kafka, state in SQLite; asked for the last hour when it has all events."""

from __future__ import annotations

import asyncio
import logging
import tempfile
import uuid
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json as pj

from dovetail.features import load
from dovetail.features.serving.feature_agent import FeatureStage
from dovetail.features.stream.vetting import vet_events
from dovetail.platform.rows.intake import Intake
from dovetail.platform.runtime.runner import Runtime, create_app

from .data import HOUR_US, HOURS, START_US
from .on_kafka import broker_of
from .with_dovetail import Served, opened

PACKAGES = ("aiokafka", "faust-streaming", "numba", "pyarrow")
LOOK_S = 0.02


def begin(folder: Path, way: str) -> Callable[[], pa.Table]:
    """Each call is a consumer group of its own, from the topic's beginning."""
    assert not way, f"there is one way only, and not {way}"
    logging.disable(logging.CRITICAL)
    table = pj.read_json(folder / "events.jsonl")
    times = table.column("event_time").cast(pa.timestamp("us")).cast(pa.int64()).to_numpy()
    last = table.filter(pa.array(times >= START_US + (HOURS - 1) * HOUR_US))
    users = pc.unique(last.column("user_id")).sort()

    def run() -> pa.Table:
        with tempfile.TemporaryDirectory(prefix="dovetail-peers-state-") as name, opened(load(folder), name) as served:
            asyncio.run(_fed(served, broker_of(folder), table.num_rows))
            return served.values(users, HOURS - 1)

    return run


async def _fed(served: Served, broker: str, events: int) -> None:
    project = served.project
    stream, views = project.streams["events"], list(project.stream_views.values())
    intake = Intake(stream.schema, stream.event_time, None, vet_events(stream, views))
    stage = FeatureStage(stream, views, intake, served.store, dead_letter_topic="dead")
    app = create_app(f"peers-{uuid.uuid4().hex}", broker, topics={stream.topic: 1, "dead": 1})
    runtime = Runtime(app, [stage])
    await runtime.start()
    try:
        while _included(served) < events:  # noqa: ASYNC110 - a store tells nobody
            await asyncio.sleep(LOOK_S)
    finally:
        await runtime.stop()


def _included(served: Served) -> int:
    (view,) = served.project.stream_views
    progress = served.store.progress(view).get(0)
    return progress.next_offset if progress is not None else 0
