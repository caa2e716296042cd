"""bytewax: lines of a file, orjson, a fold over tumbling windows; without recovery, and with it in its SQLite files."""

from __future__ import annotations

import datetime as dt
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bytewax.operators as op
import bytewax.operators.windowing as windowing
import orjson
import pyarrow as pa
from bytewax.connectors.files import FileSource
from bytewax.dataflow import Dataflow
from bytewax.recovery import RecoveryConfig, init_db_dir
from bytewax.testing import TestingSink, run_main

PACKAGES = ("bytewax", "orjson")
START = dt.datetime.fromtimestamp(1_700_006_400, dt.UTC)
LATENESS, HOUR = dt.timedelta(minutes=5), dt.timedelta(hours=1)


def begin(folder: Path, way: str) -> Callable[[], pa.Table]:
    """``memory`` or ``recovery``: a snapshot each second."""

    def run() -> pa.Table:
        made: list[tuple[str, tuple[int, list[int]]]] = []
        flow = _flow(folder / "events.jsonl", made)
        if way == "memory":
            run_main(flow)
        else:
            with tempfile.TemporaryDirectory(prefix="dovetail-peers-bytewax-") as name:
                init_db_dir(Path(name), 1)
                run_main(flow, epoch_interval=dt.timedelta(seconds=1), recovery_config=RecoveryConfig(name))
        rows = sorted((user, hour, *values) for user, (hour, values) in made)
        names = ["user_id", "hour", "events", "clicks", "cents", "most"]
        return pa.table([list(column) for column in zip(*rows, strict=True)], names=names)

    return run


def _flow(path: Path, made: list[Any]) -> Any:
    flow = Dataflow("hours")
    lines = op.input("lines", flow, FileSource(path))
    keyed = op.map("parse", lines, _parsed)
    windows = windowing.fold_window(
        "hours",
        keyed,
        windowing.EventClock(_time, LATENESS),
        windowing.TumblingWindower(HOUR, align_to=START),
        _nothing,
        _with,
        _together,
        ordered=False,
    )
    op.output("out", windows.down, TestingSink(made))
    return flow


def _parsed(line: str) -> tuple[str, dict[str, Any]]:
    event = orjson.loads(line)
    return event["user_id"], event


def _time(event: dict[str, Any]) -> dt.datetime:
    return dt.datetime.fromisoformat(event["event_time"]).replace(tzinfo=dt.UTC)


def _nothing() -> list[int]:
    return [0, 0, 0, 0]


def _with(state: list[int], event: dict[str, Any]) -> list[int]:
    cents = event["cents"]
    state[0] += 1
    state[1] += event["action"] == "click"
    state[2] += cents
    state[3] = max(state[3], cents)
    return state


def _together(one: list[int], other: list[int]) -> list[int]:
    return [one[0] + other[0], one[1] + other[1], one[2] + other[2], max(one[3], other[3])]
