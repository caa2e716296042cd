"""Worlds of long lists and frames: views of them, logs with late events, and a store that workers feed."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from dovetail.features.batch.streaming import evaluate_view
from dovetail.features.plan.definitions import StreamView
from dovetail.features.serving.feature_agent import FeatureStage
from dovetail.features.serving.stored_states import read_states
from dovetail.features.stream.engine import StreamEngine, Values
from dovetail.features.stream.keys import encode_keys
from dovetail.features.stream.prepare import NO_WATERMARK
from dovetail.features.stream.rerun import ViewReplay
from dovetail.platform.rows import wire
from dovetail.platform.rows.intake import Intake
from dovetail.platform.stage import Outgoing
from dovetail.platform.stores.online import OnlineStore
from dovetail.platform.testing import MemoryLog, run_stage
from tests.features.parity.replay import bits
from tests.features.parity.strategies import ORIGIN, Schema, view_of

__all__ = ["FRAMES", "LATENESS", "SCHEMA", "World", "events_of", "in_order", "long_view", "probes_at", "some_log"]

SECOND = 1_000_000
LATENESS = 20
PARTITIONS = 2
SCHEMA = Schema({"c0": "BIGINT", "c1": "VARCHAR"})
FRAMES: dict[str, str | None] = {
    "ever": "UNBOUNDED",
    "minutes": "INTERVAL 2 MINUTE",
    "hop": "hop(event_time, INTERVAL 2 MINUTE, INTERVAL 7 SECOND)",
    "rows": None,
}


def long_view(k: int, frame: str, lateness: int = LATENESS) -> StreamView:
    if FRAMES[frame] is None:
        return rows_view(k, lateness)
    text = f"""
        SELECT user_id, arg_max({{'n': c0, 'text': c1}}, event_time, {k}) OVER w AS history,
               arg_max(c1, event_time, {k}) OVER w AS texts, newest(list(c0) OVER w, {k + 2}) AS newest,
               arg_max(c0, event_time, {k + 3}) FILTER (WHERE c0 > 2) OVER w AS some,
               count(*) OVER w AS n, histogram(c0) OVER w AS counts
        FROM events WINDOW w AS (PARTITION BY user_id ORDER BY event_time
                                 RANGE BETWEEN {FRAMES[frame]} PRECEDING AND CURRENT ROW)"""
    return view_of(text, SCHEMA, lateness * SECOND)


def rows_view(n: int, lateness: int) -> StreamView:
    """Frames that count events: long ones, one without its end, one that is filtered, and a short one."""
    order = "PARTITION BY user_id ORDER BY event_time ROWS BETWEEN"
    text = f"""
        SELECT user_id, sum(c0) OVER w AS total, avg(c0) OVER w AS mean, count(*) OVER w AS n,
               histogram(c1) OVER w AS h, count(DISTINCT c1) OVER w AS kinds, max(c1) OVER w AS most,
               last(c0 IGNORE NULLS) OVER w AS last,
               arg_max({{'n': c0, 'text': c1}}, event_time, 3) OVER w AS history,
               stddev_pop(CAST(c0 AS INTEGER)) OVER early AS spread, min(c0) FILTER (WHERE c0 > 1) OVER early AS least,
               count(c0) OVER short AS few
        FROM events WINDOW w AS ({order} {n} PRECEDING AND CURRENT ROW),
                           early AS ({order} {n + 2} PRECEDING AND 3 PRECEDING),
                           short AS ({order} 2 PRECEDING AND CURRENT ROW)"""
    return view_of(text, SCHEMA, lateness * SECOND)


def events_of(rows: Sequence[tuple[int, int, int | None, str | None]], partitions: int = PARTITIONS) -> pa.Table:
    """Events of ``(user, seconds, number, text)`` in order of arrival, a message each, dealt to partitions."""
    table = {
        "user_id": pa.array([row[0] for row in rows], pa.int64()),
        "shop": pa.array(["a"] * len(rows)),
        "event_time": pa.array([ORIGIN + row[1] * SECOND for row in rows], pa.timestamp("us")),
        "c0": pa.array([row[2] for row in rows], pa.int64()),
        "c1": pa.array([row[3] for row in rows], pa.string()),
    }
    made = pa.table({field.name: table[field.name].cast(field.type) for field in SCHEMA.arrow})
    at = np.arange(len(rows))
    places = {"_partition": pa.array(at % partitions, pa.int32()), "_offset": pa.array(at // partitions, pa.int64())}
    for name, column in {**places, "_row": pa.array(np.zeros(len(rows)), pa.int32())}.items():
        made = made.append_column(name, column)
    return made


def probes_at(seconds: Sequence[int]) -> pa.Table:
    users = [user for _ in seconds for user in (1, 2, 3)]
    times = [ORIGIN + each * SECOND for each in seconds for _ in range(3)]
    return pa.table({"user_id": pa.array(users, pa.int64()), "request_time": pa.array(times, pa.timestamp("us"))})


class World:
    """A view in an online store, fed message by message, with a worker that starts anew whenever asked."""

    def __init__(self, view: StreamView, store: OnlineStore) -> None:
        self.view, self.store = view, store
        self.log = MemoryLog({"events": PARTITIONS, "dead": 1})
        self.sent: list[pa.Table] = []

    def send(self, events: pa.Table) -> None:
        self.sent.append(events)
        for row in range(events.num_rows):
            one = events.slice(row, 1)
            message = wire.encode(one.select(SCHEMA.arrow.names))
            self.log.append([Outgoing("events", message, partition=one.column("_partition")[0].as_py())])

    def work(self, records: int) -> None:
        """A worker starts, reads what there is in polls of so many messages, and ends."""
        stream = self.view.stream
        intake = Intake(stream.schema, stream.event_time, None)
        stage = FeatureStage(stream, [self.view], intake, self.store, dead_letter_topic="dead")
        asyncio.run(run_stage(stage, self.log, max_records=lambda: records))

    def values(self, probes: pa.Table) -> Values:
        engine = StreamEngine(self.view)
        keys, codes = encode_keys([probes.column("user_id")])
        state = read_states(self.store, {"view": engine}, {"view": keys})["view"]
        marks = [at.watermark_us for at in state.progress.values() if at.watermark_us is not None]
        times = np.asarray(probes.column("request_time").cast(pa.int64()).to_numpy(), dtype=np.int64)
        return engine.values(state.blobs, state.key_index, codes, times, max(marks, default=NO_WATERMARK))

    def check(self, probes: pa.Table) -> None:
        """The values are those of whole states, and of DuckDB."""
        events = pa.concat_tables(self.sent)
        replay = ViewReplay(self.view)
        for partition in range(PARTITIONS):
            replay.apply(events.filter(pa.array(events.column("_partition").to_numpy() == partition)))
        got, whole = self.values(probes), replay.values(probes)
        assert got.answerable.tolist() == whole.answerable.tolist()
        batch = evaluate_view(self.view, events, probes).values
        there = np.flatnonzero(got.answerable)
        for name in self.view.output_schema.names:
            found = bits(got.table.column(name))
            assert found == bits(whole.values.column(name)), name
            mine = bits(batch.column(name))
            assert [found[row] for row in there] == [mine[row] for row in there], name


def some_log(seed: int, step: int) -> list[tuple[int, int, int | None, str | None]]:
    """A log of two users in which a third of the events is late, some by more than anybody waits for."""
    random = np.random.default_rng(seed)
    rows = int(random.integers(60, 220))
    users = np.where(random.random(rows) < 0.8, 1, 2)
    kinds = random.choice(3, rows, p=(0.65, 0.25, 0.1))
    late = np.choose(
        kinds, [random.integers(0, 2, rows), random.integers(0, LATENESS, rows), random.integers(0, 150, rows)]
    )
    times, numbers = np.arange(rows) * step - late, random.integers(-2, 6, rows)
    texts = (None, "", "a", "bc", "\u00e4" * 9)
    picked = random.integers(0, len(texts), rows)
    return [
        (user, at, None if n < 0 else n, texts[text])
        for user, at, n, text in zip(users.tolist(), times.tolist(), numbers.tolist(), picked.tolist(), strict=True)
    ]


def in_order(count: int, user: int = 1, start: int = 0) -> pa.Table:
    return events_of([(user, start + at, at % 7 if at % 5 else None, f"t{at}") for at in range(count)])
