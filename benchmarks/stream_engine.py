"""Speed of the stream engine alone: events into states, states into values, one request. Store: a dict in memory.

    python benchmarks/stream_engine.py

Every number is from this one run, on one core. The baseline does the same sums the plain way: one Python loop over
events and a dict of running totals, without windows or exactness, and so with far less to do.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from dovetail.features.plan.definitions import (
    Aggregate,
    AggregateFunction,
    Input,
    Stream,
    StreamView,
    Window,
)
from dovetail.features.stream.engine import StreamEngine
from dovetail.features.stream.keys import encode_keys
from dovetail.features.stream.prepare import NO_WATERMARK, PreparedRows, prepare_rows, running_watermark
from dovetail.platform.rows.schema import TableSchema

SEED = 20240229
HOUR = 3_600_000_000
START = 1_700_000_000_000_000

_SCHEMA = pa.schema(
    [
        pa.field("user_id", pa.int64()),
        pa.field("event_time", pa.timestamp("us")),
        pa.field("clicked", pa.bool_()),
        pa.field("price", pa.decimal128(12, 2)),
        pa.field("dwell", pa.int64()),
    ]
)
_ANY = Input(None, None, pa.int64())
_CLICK = Input(None, "clicked", pa.int64())
_PRICE = Input("price", None, pa.decimal128(12, 2))
_DWELL = Input("dwell", "clicked", pa.int64())
_TYPES = {"count": pa.int64(), "avg": pa.float64()}


def _view(windows: tuple[Window, ...], wanted: list[tuple[AggregateFunction, Input, int]], lateness: int) -> StreamView:
    stream = Stream(TableSchema("events", "events.sql", 1, _SCHEMA), "events", "event_time", "user_id", lateness, 0)
    inputs = tuple(dict.fromkeys(input_ for _, input_, _ in wanted))
    aggregates = []
    for i, (function, input_, window) in enumerate(wanted):
        type_ = _TYPES.get(function, input_.type)
        if function == "sum":
            type_ = pa.decimal128(38, input_.type.scale if input_ is _PRICE else 0)
        aggregates.append(Aggregate(f"f{i}", function, inputs.index(input_), window, type_))
    return StreamView("bench", "bench.sql", 1, "", stream, ("user_id",), None, windows, inputs, tuple(aggregates))


TEN_OVER_THREE = _view(
    (Window("hour", HOUR, 5 * HOUR // 60), Window("day", 24 * HOUR, HOUR), Window("week", 168 * HOUR, HOUR)),
    [
        ("count", _ANY, 0), ("count", _CLICK, 0), ("sum", _PRICE, 0), ("count", _ANY, 1), ("count", _CLICK, 1),
        ("avg", _PRICE, 1), ("max", _PRICE, 1), ("count", _ANY, 2), ("sum", _DWELL, 2), ("avg", _PRICE, 2),
    ],
    5 * HOUR // 60,
)  # fmt: skip


class _Rows(NamedTuple):
    """Prepared rows of one batch and their keys."""

    keys: list[bytes]
    rows: PreparedRows


def _log(events: int, users: int, span: int) -> tuple[pa.Table, npt.NDArray[np.int64]]:
    rng = np.random.default_rng(SEED)
    times = START + np.sort(rng.integers(0, span, events)) - rng.integers(0, HOUR // 60, events)
    cents = pa.array(rng.integers(0, 10**6, events)).cast(pa.decimal128(19, 0))
    table = pa.table(
        {
            "user_id": np.minimum(rng.zipf(1.2, events) * 7919 % users, users - 1),
            "clicked": rng.random(events) < 0.2,
            "price": cents.cast(pa.decimal128(22, 2)).cast(pa.decimal128(12, 2)),
            "dwell": rng.integers(0, 10**5, events),
        }
    )
    return table, times


def _batches(engine: StreamEngine, log: tuple[pa.Table, npt.NDArray[np.int64]], size: int) -> list[_Rows]:
    table, times = log
    layout, batches, watermark = engine.layout, [], NO_WATERMARK
    for at in range(0, len(times), size):
        part, when = table.slice(at, size), times[at : at + size]
        before, watermark = running_watermark(when, watermark)
        keys, codes = encode_keys([part["user_id"]])
        arguments, filters = [part[a] for a in layout.arguments], [part[f] for f in layout.filters]
        batches.append(_Rows(keys, prepare_rows(layout, codes, when, before, arguments, filters)))
    return batches


def _apply(engine: StreamEngine, batches: list[_Rows]) -> dict[bytes, bytes]:
    store: dict[bytes, bytes] = {}
    for batch in batches:
        applied = engine.apply([store.get(key) for key in batch.keys], batch.rows)
        store.update(zip(batch.keys, applied.blobs, strict=True))
    return store


def _plain(batches: list[_Rows]) -> dict[tuple[bytes, int], list[int]]:
    totals: dict[tuple[bytes, int], list[int]] = {}
    for batch in batches:
        rows = zip(
            batch.rows.codes.tolist(), batch.rows.event_time.tolist(), batch.rows.valid.tolist(),
            batch.rows.values.tolist(), strict=True,
        )  # fmt: skip
        for code, when, valid, (price, dwell) in rows:
            for step in (HOUR // 12, HOUR):
                bucket = totals.setdefault((batch.keys[code], when // step), [0, 0, 0, 0, 0])
                bucket[0] += 1
                if valid & 2:
                    bucket[1] += 1
                    bucket[2] += dwell
                bucket[3] += price
                bucket[4] = max(bucket[4], price)
    return totals


def _seconds(call: Callable[[], Any], repeat: int = 5) -> float:
    return _best(call, repeat).wall


class _Best(NamedTuple):
    """The least time of several, on the clock and of the processor (the better measure beside other work)."""

    wall: float
    cpu: float


def _best(call: Callable[[], Any], repeat: int) -> _Best:
    wall, cpu = [], []
    for _ in range(repeat):
        begin, spent = time.perf_counter(), time.process_time()
        call()
        wall.append(time.perf_counter() - begin)
        cpu.append(time.process_time() - spent)
    return _Best(min(wall), min(cpu))


def _events_into_states() -> None:
    engine = StreamEngine(TEN_OVER_THREE)
    for users in (10_000, 200_000):
        log, events = _log(400_000, users, 48 * HOUR), 400_000
        batches = _batches(engine, log, 50_000)
        prepare = _seconds(lambda log=log: _batches(engine, log, 50_000), 3)  # type: ignore[misc]
        seconds = _seconds(lambda b=batches: _apply(engine, b), 3)  # type: ignore[misc]
        plain = _seconds(lambda b=batches: _plain(b), 1)  # type: ignore[misc]
        store = _apply(engine, batches)
        print(f"prepare/{users}-users: {events / prepare:10,.0f} events/s from Arrow columns to keys and prepared rows")
        print(
            f"apply/{users}-users: {events / seconds:12,.0f} events/s   {plain / seconds:5.1f} x a plain Python loop   "
            f"({len(store)} keys, {sum(map(len, store.values())) / len(store):,.0f} bytes per key)"
        )


def _states_into_values(keys: int, partials: int = 64) -> None:
    view = _view((Window("w", partials * HOUR, HOUR),), [("count", _ANY, 0), ("sum", _PRICE, 0), ("avg", _DWELL, 0)], 0)
    engine = StreamEngine(view)
    state, probe = _hourly_state(engine, partials)
    blobs, owners = [bytes(bytearray(state)) for _ in range(keys)], np.arange(keys, dtype=np.int32)
    times = np.full(keys, probe, dtype=np.int64)
    best = _best(lambda: engine.values(blobs, owners, owners, times, probe), max(5, 200_000 // keys))
    print(
        f"read/{keys}-keys-at-once: {keys / best.wall:12,.0f} keys/s, {keys / best.cpu:,.0f} per CPU second, "
        f"{partials} partials and {len(state)} bytes each"
    )


def _hourly_state(engine: StreamEngine, partials: int) -> tuple[bytes, int]:
    times = START // HOUR * HOUR + np.arange(partials + 1, dtype=np.int64) * HOUR
    before, watermark = running_watermark(times, NO_WATERMARK)
    rows = PreparedRows(
        np.zeros(len(times), dtype=np.int32),
        times,
        before,
        np.full(len(times), 2 ** len(engine.view.inputs) - 1, dtype=np.uint64),
        np.ones((len(times), len(engine.layout.value_arguments)), dtype=np.int64),
    )
    return engine.apply([None], rows).blobs[0], watermark


def _one_request() -> None:
    engines = [StreamEngine(TEN_OVER_THREE), StreamEngine(TEN_OVER_THREE)]
    store = _apply(engines[0], _batches(engines[0], _log(400_000, 10_000, 48 * HOUR), 50_000))
    blobs, owners = list(store.values())[:200], np.arange(200, dtype=np.int32)
    times, watermark = np.full(200, START + 48 * HOUR, dtype=np.int64), START + 48 * HOUR

    def request() -> None:
        for engine in engines:
            engine.values(blobs, owners, owners, times, watermark)

    taken = np.array([_seconds(request, 1) for _ in range(1_000)]) * 1e3
    print(
        f"request/200-keys-2-views-10-aggregates: p50 {np.percentile(taken, 50):.2f} ms, "
        f"p99 {np.percentile(taken, 99):.2f} ms"
    )


def main() -> None:
    """Print one line per benchmark id."""
    begin = time.perf_counter()
    engine = StreamEngine(TEN_OVER_THREE)
    state, probe = _hourly_state(engine, 2)
    one = np.zeros(1, dtype=np.int32)
    engine.values([state], one, one, np.array([probe]), probe)
    print(f"start/compile-or-load: {time.perf_counter() - begin:.2f} s")
    _events_into_states()
    for keys in (200, 2_000, 100_000):
        _states_into_values(keys)
    _one_request()


if __name__ == "__main__":
    main()
