"""Labels without request find the same one whoever comes first, and the same one DuckDB finds."""

from __future__ import annotations

import asyncio
import tempfile
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dovetail.joiners.batch.label_audit import LabelAudit, audit_labels
from dovetail.platform.rows.accounts import balance
from dovetail.platform.stores.labels import LabelStore
from dovetail.platform.stores.registry.store import Registry
from dovetail.platform.stores.sql.labels import SqlLabelStore
from dovetail.platform.testing import MemoryLog, run_stage
from tests.generated import tries
from tests.joiners.asked_worlds import (
    ITEMS,
    OUTSIDE,
    PARTITIONS,
    Agents,
    Asked,
    AskedWorld,
    Click,
    Impatient,
    Waits,
    asked_worlds,
    empty_log,
    end_of,
    label_logs,
    oracle,
    samples_of,
    snapshots_of,
)
from tests.joiners.worlds import SECOND, micros
from tests.platform.stores.label_servers import Factory

NOT_COMPARED = {"one", "score", "model_version", "_lane", "_at"}


def comparable(rows: pa.Table) -> list[dict[str, Any]]:
    kept = [
        {name: value for name, value in row.items() if name not in NOT_COMPARED and "_source" not in name
         and name not in ("_partition", "_offset", "_row")}
        for row in rows.to_pylist()
    ]  # fmt: skip
    return sorted(kept, key=lambda row: (row["request_id"], row["item_id"], row["emission"]))


def new_stores(folder: Path) -> tuple[Registry, SqlLabelStore]:
    path = tempfile.mkdtemp(dir=folder)
    return Registry(f"sqlite:///{path}/registry.sqlite"), SqlLabelStore(f"sqlite:///{path}/labels.sqlite")


async def live(agents: Agents, seed: int, crashes: int) -> None:
    """All agents side by side, polls cut at random, everything ended and begun again at random."""
    random = np.random.default_rng(seed)

    def some_records() -> int:
        return int(random.integers(1, 5))

    for life in range(crashes + 1):
        stages = agents.stages()
        run = [asyncio.create_task(run_stage(stage, agents.log, max_records=some_records)) for stage in stages[:-2]]
        if life < crashes:
            for _ in range(int(random.integers(0, 40))):
                await asyncio.sleep(0)
            for task in run:
                task.cancel()
            await asyncio.gather(*run, return_exceptions=True)
            continue
        await asyncio.gather(*run)
        for lane in stages[-2:]:  # what they read is complete now
            await run_stage(lane, agents.log, max_records=some_records)


def brute_force(world: AskedWorld) -> dict[int, str | None]:
    """The request of each click, worked out click by click."""
    requests: list[int] = []
    clicks: list[int] = []
    for rows, times, lateness in (
        (requests, world.requests, world.request_lateness),
        (clicks, world.clicks, world.lateness),
    ):
        clocks: dict[int, int] = {}
        for row in times:
            before = clocks.get(row.partition, -(10**9))
            rows.append(max(row.seconds, before - lateness))
            clocks[row.partition] = max(before, row.seconds)
    found: dict[int, str | None] = {}
    for c, (click, effective) in enumerate(zip(world.clicks, clicks, strict=True)):
        competing = [
            (request.seconds, request.partition, r)
            for r, (request, known) in enumerate(zip(world.requests, requests, strict=True))
            if request.user == click.user
            and click.item in request.items
            and click.seconds - world.within <= request.seconds <= click.seconds
            and known <= effective
        ]
        found[c] = world.request_name(max(competing)[2]) if competing else None
    return found


def check(world: AskedWorld, log: MemoryLog, registry: Registry, labels: LabelStore) -> LabelAudit | None:
    """Samples as DuckDB makes them, clicks attributed as brute force does it, and books that balance."""
    attributed = label_logs(world, log)["click"].to_pylist()
    in_log = [row for row in attributed if row["user_id"] is not None]
    by_partition = [c for p in range(PARTITIONS) for c, click in enumerate(world.clicks) if click.partition == p]
    said = brute_force(world)
    assert [row["request_id"] for row in in_log] == [said[c] for c in by_partition]
    made = samples_of(log)
    assert comparable(made) == comparable(oracle(world, log))
    accounts = [*labels.accounts(), *registry.accounts()]
    assert not any(balance(accounts).values())
    if made.num_rows == 0:
        return None
    audit = audit_labels(
        snapshots_of(log), label_logs(world, log), made, world.policy, allowed_lateness_us=world.lateness * SECOND,
        early_us=world.lateness * SECOND,
        released={(lane, partition): 1 << 62 for lane in (0, 1) for partition in range(PARTITIONS)},
    )  # fmt: skip
    assert not audit.wrong
    assert not [line for line in audit.lines if line.outcome == "pending"]
    counts: Counter[tuple[str, str]] = Counter()
    for line in audit.lines:
        counts[line.what, line.outcome] += line.rows
    assert sum(rows for (what, _), rows in counts.items() if what == "click") == len(world.clicks)
    lost = sum(a.rows for a in accounts if (a.stage, a.outcome) == ("labels.click", "unattributed"))
    assert counts["click", "unattributed"] == lost
    return audit


@settings(max_examples=tries(20), suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(world=asked_worlds(), seed=st.integers(0, 2**31), crashes=st.integers(0, 2))
def test_whoever_comes_first_a_label_finds_the_request_that_duckdb_finds(
    tmp_path: Path, world: AskedWorld, seed: int, crashes: int
) -> None:
    registry, labels = new_stores(tmp_path)
    log = world.log()
    asyncio.run(asyncio.wait_for(live(Agents(world, log, registry, labels), seed, crashes), 60))
    check(world, log, registry, labels)
    registry.close()
    labels.close()


@settings(max_examples=tries(8), suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(world=asked_worlds(), seed=st.integers(0, 2**31), crashes=st.integers(0, 2))
def test_so_it_does_on_every_store(
    new_store: Factory, tmp_path: Path, world: AskedWorld, seed: int, crashes: int
) -> None:
    registry = Registry(f"sqlite:///{tempfile.mkdtemp(dir=tmp_path)}/registry.sqlite")
    labels = new_store()
    log = world.log()
    asyncio.run(asyncio.wait_for(live(Agents(world, log, registry, labels), seed, crashes), 60))
    check(world, log, registry, labels)
    registry.close()


async def catch_up(agents: Agents) -> None:
    """One agent after the other, until none has anything to do; a label agent that waits is given up."""
    ends: list[dict[int, int]] | None = None
    while ends != (ends := [agents.log.end_offsets(topic) for topic in (*OUTSIDE, "samples", "samples-held-1")]):
        for stage in agents.stages():
            with suppress(Waits):
                await run_stage(stage, agents.log, max_records=lambda: 1)


def test_requests_that_fall_silent_are_spoken_for_and_what_comes_after_does_not_compete(tmp_path: Path) -> None:
    """A click of 5 s waits for requests, until an exposure of 20 s shows that time has gone on without any. The request
    of 4 s that comes then is known too late for the click."""
    world = AskedWorld(
        (Asked("u", 0, (0,), 0), Asked("v", 1, (0,), 1), Asked("u", 4, (0,), 1), Asked("v", 20, (1,), 0)),
        (Click("u", 0, 5, 0),), window=10, within=60, lateness=0, request_lateness=0,
    )  # fmt: skip
    registry, labels = new_stores(tmp_path)
    log = empty_log()
    agents = Agents(world, log, registry, labels, idle_us=8 * SECOND, signal=Impatient)
    log.append([*world.messages("requests")[:2], *world.messages("click")])
    asyncio.run(catch_up(agents))
    assert labels.progress("labels.click") == {}  # 5 s are not more than 8 s: the click waits
    log.append(world.messages("exposure")[-1:])
    asyncio.run(catch_up(agents))
    assert agents.settled() == micros(5) + 1
    log.append(world.messages("requests")[2:])
    for topic in OUTSIDE:
        log.append([*(world.messages(topic)[:-1] if topic == "exposure" else []), *end_of(topic, world.end_us)])
    asyncio.run(catch_up(agents))
    rows = label_logs(world, log)["click"].to_pylist()
    assert [row["request_id"] for row in rows if row["user_id"]] == ["r0"]
    made = comparable(samples_of(log))
    assert made == comparable(oracle(world, log))
    assert not [row for row in made if row["label"]]  # r0 was not exposed in time: its exposure came after 20 s
    registry.close()
    labels.close()


@pytest.mark.parametrize(
    ("requests", "expected"),
    [
        ([Asked("u", 0, (0,), 0), Asked("u", 3, (0,), 1), Asked("u", 4, (1,), 0)], "r1"),  # the latest that had it
        ([Asked("u", 5, (0,), 0), Asked("u", 5, (0,), 1)], "r1"),  # of one time, the last position
        ([Asked("u", 5, (0,), 1), Asked("u", 5, (0,), 0)], "r0"),
        ([Asked("u", 1, (0,), 0), Asked("u", 6, (0,), 0)], "r0"),  # nothing before its request
        ([Asked("v", 1, (0,), 0)], None),
        ([Asked("u", 1, (0,), 0), Asked("u", 4, (0,), 0, refused=True)], "r1x"),
    ],
)
def test_the_latest_request_that_had_the_item(requests: list[Asked], expected: str | None, tmp_path: Path) -> None:
    world = AskedWorld(tuple(requests), (Click("u", 0, 5, 0),), 10, 60, 0, 0)
    registry, labels = new_stores(tmp_path)
    log = world.log()
    asyncio.run(asyncio.wait_for(live(Agents(world, log, registry, labels), 0, 0), 60))
    audit = check(world, log, registry, labels)
    assert [row["request_id"] for row in label_logs(world, log)["click"].to_pylist() if row["user_id"]] == [expected]
    assert audit is not None
    (line,) = [line for line in audit.lines if line.what == "click"]
    assert line.outcome == {None: "unattributed", "r1x": "orphaned"}.get(expected, "sampled")
    assert line.keys == [f"{expected or 'u'}/{ITEMS[0]}"]
    registry.close()
    labels.close()


def test_requests_are_forgotten_when_no_label_can_ask_for_them(tmp_path: Path) -> None:
    world = AskedWorld(
        (Asked("u", 0, (0, 1), 0), Asked("u", 500, (0,), 0)), (Click("u", 0, 1, 0), Click("u", 0, 501, 1)), 10, 60, 0, 0
    )
    registry, labels = new_stores(tmp_path)
    asyncio.run(asyncio.wait_for(live(Agents(world, world.log(), registry, labels), 0, 0), 60))
    assert registry.asked(["u"], 0, 1 << 60).num_rows == 0
    registry.close()
    labels.close()
