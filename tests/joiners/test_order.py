"""Order repair: nothing lost, bounded, the same whatever the polls, and positives spread."""

from __future__ import annotations

import asyncio
import tempfile
from datetime import datetime, timedelta
from functools import partial
from itertools import count, cycle
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dovetail.joiners.order import OrderStage, spread_order
from dovetail.platform.errors import ConfigError
from dovetail.platform.rows import wire
from dovetail.platform.rows.accounts import balance
from dovetail.platform.rows.positions import SourceFilter
from dovetail.platform.stage import Outgoing
from dovetail.platform.stores.registry.store import Registry
from dovetail.platform.testing import MemoryLog, run_stage
from tests.generated import tries

SECOND = 1_000_000
MESSAGES = st.lists(st.tuples(st.integers(1, 4), st.integers(0, 3)), min_size=1, max_size=12)
Messages = list[tuple[int, int]]


def log_of(messages: Messages, again: int = -1) -> MemoryLog:
    """Messages of (rows, seconds since the last one); the one numbered ``again`` is published twice."""
    log = MemoryLog({"samples": 1, "ordered": 1})
    now, row = datetime(2024, 1, 1), 0  # noqa: DTZ001 - UTC by convention
    for number, (rows, seconds) in enumerate(messages):
        now += timedelta(seconds=seconds)
        table = pa.table(
            {
                "request_time": pa.array([now] * rows, pa.timestamp("us")),
                "id": list(range(row, row + rows)),
                "label": pa.array([i % 5 == 0 for i in range(row, row + rows)]).cast(pa.int8()),
                "_source_partition": pa.array([0] * rows, pa.int32()),
                "_source_offset": pa.array([number] * rows, pa.int64()),
                "_source_row": pa.array(range(rows), pa.int32()),
            }
        )
        row += rows
        log.append([Outgoing("samples", wire.encode(table), partition=0)] * (2 if number == again else 1))
    return log


def stage(registry: Registry, block_rows: int = 5, max_delay_s: int = 4) -> OrderStage:
    return OrderStage("samples", "ordered", registry, block_rows=block_rows, max_delay_us=max_delay_s * SECOND, seed=3)


def ordered(log: MemoryLog) -> pa.Table:
    poll = log.poll("ordered", 0, 0)
    if poll is None:
        return pa.table({"id": pa.array([], pa.int64())})
    rows = wire.decode_arrow(poll)
    return rows.filter(pa.array(SourceFilter().admit(rows)))


@settings(max_examples=tries(25), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(messages=MESSAGES, again=st.integers(-1, 11), polls=st.lists(st.integers(1, 5), min_size=1))
def test_every_sample_of_a_full_block_comes_once_in_an_order_that_polls_do_not_change(
    tmp_path: Path, messages: Messages, again: int, polls: list[int]
) -> None:
    results = []
    for sizes in (polls, [100]):
        log = log_of(messages, again)
        registry = Registry(f"sqlite:///{tempfile.mkdtemp(dir=tmp_path)}/r.sqlite")
        turns = cycle(sizes)
        asyncio.run(run_stage(stage(registry), log, max_records=partial(next, turns)))
        results.append(ordered(log).column("id").to_pylist())
        assert not any(balance(registry.accounts()).values())
        registry.close()
    assert results[0] == results[1]
    blocks, block, start, now = [], 0, 0, 0
    for rows, seconds in messages:
        now += seconds
        start = now if block == 0 else start
        block += rows
        if block >= 5 or now - start >= 4:
            blocks.append(block)
            block = 0
    assert sorted(results[0]) == list(range(sum(blocks)))
    first = 0
    for rows in blocks:
        assert sorted(results[0][first : first + rows]) == list(range(first, first + rows))
        first += rows


def test_a_crash_after_any_step_gives_the_same_order(tmp_path: Path) -> None:
    messages = [(3, 1)] * 8
    whole = log_of(messages)
    asyncio.run(run_stage(stage(Registry(f"sqlite:///{tmp_path}/whole.sqlite")), whole))
    for at in range(16):
        log, registry, steps = log_of(messages), Registry(f"sqlite:///{tmp_path}/{at}.sqlite"), count()

        def crash(_stage: str, step: str, steps: count[int] = steps, at: int = at) -> None:
            if next(steps) == at:
                raise RuntimeError(step)

        with pytest.raises(RuntimeError):
            asyncio.run(run_stage(stage(registry), log, max_records=lambda: 3, on_step=crash))
        asyncio.run(run_stage(stage(registry), log))
        assert ordered(log).column("id").to_pylist() == ordered(whole).column("id").to_pylist()
        registry.close()


def test_rows_say_where_they_were(tmp_path: Path) -> None:
    log = log_of([(3, 1), (3, 1)])
    asyncio.run(run_stage(stage(Registry(f"sqlite:///{tmp_path}/r.sqlite")), log))
    rows = ordered(log).select(["id", "_sample_offset", "_sample_row", "_source_offset", "_source_row"]).to_pylist()
    assert all(row["id"] == 3 * row["_sample_offset"] + row["_sample_row"] for row in rows)
    assert [(row["_source_offset"], row["_source_row"]) for row in rows] == [(1, i) for i in range(6)]


def test_a_stage_that_lost_its_partition_forgets_what_it_held(tmp_path: Path) -> None:
    log, registry = log_of([(3, 1), (3, 1), (3, 1)]), Registry(f"sqlite:///{tmp_path}/r.sqlite")

    async def go() -> None:
        mine = stage(registry)
        poll = log.poll("samples", 0, 0, 1)
        assert poll is not None
        mine.resume("samples")
        assert [work async for work in mine.handle(poll)] == []
        await run_stage(stage(registry), log)
        mine.forget("samples", [0])
        assert mine.resume("samples") == {0: 2}
        await run_stage(mine, log)

    asyncio.run(go())
    assert sorted(ordered(log).column("id").to_pylist()) == list(range(6))


def test_a_rebalance_while_a_block_waits_to_be_committed_loses_nothing(tmp_path: Path) -> None:
    """The runtime asks a stage to resume although its partition stays, and goes on with the poll in hand."""
    log, registry = log_of([(5, 1), (5, 1), (5, 1)]), Registry(f"sqlite:///{tmp_path}/r.sqlite")

    async def go() -> None:
        mine = stage(registry)
        poll = log.poll("samples", 0, 0)
        assert poll is not None
        async for work in mine.handle(poll):
            mine.resume("samples")
            assert work.commit is not None
            log.append(work.outgoing)
            await asyncio.to_thread(work.commit)

    asyncio.run(go())
    assert sorted(ordered(log).column("id").to_pylist()) == list(range(15))
    assert {partition: p.next_offset for partition, p in registry.progress("order.samples").items()} == {0: 3}


@given(st.lists(st.booleans(), max_size=200), st.integers(0, 2**32))
def test_positives_are_spread(flags: list[bool], seed: int) -> None:
    positive = np.array(flags, dtype=np.bool_)
    order = spread_order(positive, seed)
    assert sorted(order.tolist()) == list(range(len(flags)))
    assert (order == spread_order(positive, seed)).all()
    k, n = int(positive.sum()), len(flags)
    at = np.flatnonzero(positive[order])
    if k > 2:  # of three positives in a row, the outer two are more than 1/k of the negatives apart
        assert (at[2:] - at[:-2]).min() - 2 >= (n - k) // k - 1


@pytest.mark.parametrize(("block_rows", "delay"), [(0, 1), (600_000, 1), (5, 0)])
def test_a_block_without_bounds_is_refused(tmp_path: Path, block_rows: int, delay: int) -> None:
    with pytest.raises(ConfigError, match="block_rows must be from 1 to 500000"):
        stage(Registry(f"sqlite:///{tmp_path}/r.sqlite"), block_rows, delay)
