"""Which kernels are compiled, for which types, before the first poll, and which only after it.

Usage: warmed.py demo | warmed.py SQL... Prints JSON: names of kernels ``before`` and names with types ``after``.
``warmed.py demo views`` compiles what other views need, too, in the same process.
"""

from __future__ import annotations

import asyncio
import gc
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from numba.core.dispatcher import Dispatcher

from dovetail.demo.logs.simulator import SimulatorConfig, simulate
from dovetail.demo.run import run_demo
from dovetail.features.duck.binding import Binder
from dovetail.features.language.source import Source
from dovetail.features.language.streaming_views import parse_stream_view
from dovetail.features.plan.definitions import Stream
from dovetail.features.stream.rerun import ViewReplay, with_positions
from dovetail.platform.rows.schema import TableSchema
from dovetail.platform.runtime.runner import Runtime

HOUR = "RANGE BETWEEN INTERVAL 1 HOUR PRECEDING AND CURRENT ROW"
HOP = "RANGE BETWEEN hop(event_time, INTERVAL 1 HOUR, INTERVAL 1 MINUTE) PRECEDING AND CURRENT ROW"
EVER = "RANGE BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW"
ROWS = "ROWS BETWEEN 4 PRECEDING AND CURRENT ROW"
FOLDED = ("count(*)", "sum(n)", "avg(n)", "min(n)", "max(n)", "stddev_samp(n)")
COLLECTED = ("first(t)", "last(n)", "arg_max(t, n)", "arg_min(n, event_time, 3)", "min(t)", "count(DISTINCT t)",
             "histogram(t)", "entropy(t)", "kurtosis(n)", "avg(n) FILTER (WHERE n > 3)")  # fmt: skip

Compiled = set[tuple[str, str]]


def compiled() -> Compiled:
    """Every kernel of Dovetail's with every signature that is compiled, or loaded, in this process."""
    kernels = [kernel for kernel in gc.get_objects() if isinstance(kernel, Dispatcher)]
    return {
        (f"{kernel.py_func.__module__}.{kernel.py_func.__qualname__}", str(signature))
        for kernel in kernels
        if kernel.py_func.__module__.startswith("dovetail.")
        for signature in kernel.signatures
    }


def of_the_demo(patch: pytest.MonkeyPatch) -> Compiled:
    """What is compiled when the demo's stages have started; the demo has run to its end since."""
    before: Compiled = set()
    prepare = Runtime.before_start

    async def prepared(self: Runtime) -> None:
        await prepare(self)
        before.update(compiled())

    patch.setattr(Runtime, "before_start", prepared)
    with tempfile.TemporaryDirectory() as keep:
        outcome = asyncio.run(
            run_demo(
                replace(simulate(SimulatorConfig(seed=11, requests=120, days=1)), slice_us=30 * 60_000_000),
                Path(keep),
                on_progress=lambda _: None,
                overrides={"model": {"publish_every": 100}},
            )
        )
    assert outcome.passed
    return before


FIELDS = {"user_id": pa.int64(), "n": pa.int32(), "t": pa.string(), "event_time": pa.timestamp("us")}


def views(aggregates: Sequence[str]) -> list[str]:
    """Views of these aggregates, one for each kind of frame."""
    outputs = ", ".join(f"{aggregate} OVER w AS f{i}" for i, aggregate in enumerate(aggregates))
    return [
        f"SELECT user_id, {outputs} FROM events WINDOW w AS (PARTITION BY user_id ORDER BY event_time {frame})"
        for frame in (HOUR, HOP, EVER, ROWS)
    ]


def of_views(sqls: Sequence[str]) -> Compiled:
    """What is compiled when views' engines are warm; events have come and values have been asked for since."""
    schema = pa.schema(FIELDS.items())
    table = TableSchema("events", "events.sql", 1, schema)
    streams = {"events": Stream(table, "events", "event_time", "user_id", 10_000_000, 0)}
    binder = Binder({"events": schema})
    replays = [ViewReplay(parse_stream_view("view", Source("view.sql", sql), streams, binder)) for sql in sqls]
    for replay in replays:
        replay.engine.warm_apply()
        replay.engine.warm_values()
    before = compiled()
    asked = pa.array([7_000_000_000] * 9, pa.timestamp("us"))
    requests = pa.table({"user_id": pa.array(range(9), pa.int64()), "request_time": asked})
    for replay in replays:
        for first in (0, 4_000, 2_000):  # in order, far behind it, between what is kept
            replay.apply(events(schema, first))
        replay.values(requests)
    return before


def events(schema: pa.Schema, first: int) -> pa.Table:
    """A thousand events of seven users, three seconds apart; ``first`` is their first second and offset."""
    seconds = first + np.arange(0, 3_000, 3)
    times = (seconds * 1_000_000).view("datetime64[us]")
    columns = [seconds % 7, seconds % 11, (seconds % 5).astype(str), times]
    rows = pa.table([pa.array(c, t) for c, t in zip(columns, schema.types, strict=True)], schema=schema)
    return with_positions(rows).drop_columns(["_offset"]).append_column("_offset", pa.array(seconds, pa.int64()))


def main(*what: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        before = of_the_demo(patch) if what[:1] == ("demo",) else of_views(what)
    if what[1:] == ("views",):
        of_views([sql for aggregates in (FOLDED, COLLECTED) for sql in views(aggregates)])
    after = sorted(f"{name} {types}" for name, types in compiled() - before)
    print(json.dumps({"before": sorted({name for name, _ in before}), "after": after}))


if __name__ == "__main__":
    main(*sys.argv[1:])
