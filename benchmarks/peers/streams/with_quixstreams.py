"""Quix Streams from Kafka: a tumbling window in RocksDB, with its changelog topic; rows when the window closes."""

from __future__ import annotations

import datetime as dt
import json
import tempfile
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
from quixstreams import Application
from quixstreams.dataframe.windows import Count, Max, Sum

PACKAGES = ("quixstreams",)
START_MS, HOUR_MS, LATENESS_MS = 1_700_006_400_000, 3_600_000, 300_000


def begin(folder: Path, way: str) -> Callable[[], pa.Table]:
    """Each call is a consumer group of its own, from the topic's beginning until all windows have come."""
    assert not way, f"there is one way only, and not {way}"
    broker = json.loads((folder / "servers.json").read_text(encoding="utf-8"))["kafka"].partition("//")[2]
    windows = json.loads((folder / "windows.json").read_text(encoding="utf-8"))

    def run() -> pa.Table:
        with tempfile.TemporaryDirectory(prefix="dovetail-peers-quix-") as name:
            app = Application(
                broker_address=broker,
                consumer_group=f"quix-{uuid.uuid4().hex}",
                auto_offset_reset="earliest",
                state_dir=name,
                loglevel="ERROR",
            )
            _define(app)
            rows = app.run(count=windows, timeout=60, metadata=True)
        made = sorted(map(_row, rows))
        names = ["user_id", "hour", "events", "clicks", "cents", "most"]
        return pa.table([list(column) for column in zip(*made, strict=True)], names=names)

    return run


def _define(app: Any) -> None:
    topic = app.topic("events-closed", value_deserializer="json", timestamp_extractor=_time)
    frame = app.dataframe(topic)
    frame["click"] = frame["action"].apply(_clicked)
    frame = frame.tumbling_window(duration_ms=HOUR_MS, grace_ms=LATENESS_MS).agg(
        events=Count(), clicks=Sum("click"), cents=Sum("cents"), most=Max("cents")
    )
    frame.final(closing_strategy="partition")


def _time(value: Any, headers: object, timestamp: int, kind: object) -> int:  # noqa: ARG001 - Quix gives all four
    at = dt.datetime.fromisoformat(value["event_time"]).replace(tzinfo=dt.UTC)
    return round(at.timestamp() * 1000)


def _clicked(action: str) -> int:
    return int(action == "click")


def _row(output: dict[str, Any]) -> tuple[str, int, int, int, int, int]:
    hour = (output["start"] - START_MS) // HOUR_MS
    return output["_key"].decode(), hour, output["events"], output["clicks"], output["cents"], output["most"]
