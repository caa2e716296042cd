"""Label partitions that fall silent, are spoken for, and speak again: what comes too late is late to everybody."""

from __future__ import annotations

import asyncio
import tempfile
from collections import Counter
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dovetail.platform.rows import wire
from dovetail.platform.rows.accounts import balance
from dovetail.platform.runtime.signal import Signal
from dovetail.platform.stage import Outgoing
from dovetail.platform.stores.labels import LabelStore
from dovetail.platform.stores.sql.labels import SqlLabelStore
from dovetail.platform.testing import MemoryLog, run_stage
from tests.joiners.batch.lives import audit_of, oracle, published, samples_of
from tests.joiners.worlds import (
    KINDS,
    SECOND,
    Label,
    World,
    delayed,
    end_of_time,
    label_stage,
    micros,
    sample_stage,
    shared,
    worlds,
)


class Waits(Exception):
    """A sample agent has nothing to do before more labels come."""


def wait() -> None:
    raise Waits


async def catch_up(world: World, log: MemoryLog, store: LabelStore, idle_us: int) -> None:
    """Until nobody has anything to do: labels in, samples out, and what is said for silent partitions read as well."""
    ends: list[dict[int, int]] | None = None
    while ends != (ends := [log.end_offsets(topic) for topic in (*KINDS, "samples", *world.policy.held_topics)]):
        for kind in KINDS:
            await run_stage(label_stage(world, kind, store, Signal()), log)
        for lane in range(len(world.lanes)):
            stage = sample_stage(world, store, Signal(), log, lane, idle_us=idle_us, on_blocked=wait)
            with suppress(Waits):
                await run_stage(stage, log, max_records=lambda: 1)


def live(world: World, cuts: list[int], idle_us: int, store: LabelStore) -> MemoryLog:
    """The labels come in instalments; between them everybody does what there is to do."""
    log = world.log_of_snapshots()
    bounds = sorted({0, len(world.labels), *(cut % (len(world.labels) + 1) for cut in cuts)})
    for start, stop in pairwise(bounds):
        log.append([world.message(label) for label in world.labels[start:stop]])
        asyncio.run(catch_up(world, log, store, idle_us))
    log.append(end_of_time(world.end_us))
    asyncio.run(catch_up(world, log, store, idle_us))
    return log


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(world=worlds(), cuts=st.lists(st.integers(0, 40), max_size=4), idle=st.integers(0, 6))
def test_whoever_was_spoken_for_stream_and_batch_agree(
    tmp_path: Path, world: World, cuts: list[int], idle: int
) -> None:
    store = SqlLabelStore(f"sqlite:///{tempfile.mkdtemp(dir=tmp_path)}/labels.sqlite")
    log = live(world, cuts, idle * world.step * SECOND, store)
    made = samples_of(log)
    assert made.to_pylist() == oracle(world, log).to_pylist()
    assert not any(balance(store.accounts()).values())
    if made.num_rows:
        audit = audit_of(store, world, log, published(log))
        assert not audit.wrong
        assert not [line for line in audit.lines if line.outcome in ("pending", "waiting")]
    store.close()


def test_a_label_that_comes_after_its_partition_was_spoken_for_is_late_and_not_pending(tmp_path: Path) -> None:
    """Partition 1 falls silent at 2 s; others go on to 60 s, and the sample of the request at 0 s leaves; then it
    delivers a click of 3 s."""
    shown = [Label("exposure", 0, 0, 1, 0), Label("exposure", 0, 1, 1, 1), Label("click", 9, 9, 2, 1)]
    others = [Label("exposure", 9, 9, 60, 0), Label("exposure", 9, 9, 60, 1), Label("click", 9, 9, 60, 0)]
    again = Label("click", 0, 0, 3, 1)
    world = World((0,), 2, (*shown, *others, again), delayed(5), lateness=0)
    store = SqlLabelStore(f"sqlite:///{tmp_path / 'labels.sqlite'}")
    log = live(world, [len(shown) + len(others)], 10 * SECOND, store)
    assert [row["label"] for row in samples_of(log).to_pylist()] == [0, 0]
    poll = log.poll("click", 1, 0)
    assert poll is not None
    said = [dict(headers).get("dovetail-watermark") for headers in poll.headers]
    assert said == [None, str(micros(60)).encode(), None, str(world.end_us).encode()]
    audit = audit_of(store, world, log, published(log))
    outcomes = Counter({(line.what, line.outcome): line.rows for line in audit.lines})
    assert outcomes["click", "late"] == 1
    assert not [line for line in audit.lines if line.outcome == "pending"]
    store.close()


def test_a_backlog_read_before_its_snapshots_needs_no_announcements(tmp_path: Path) -> None:
    world = World((0,), 1, (Label("exposure", 0, 0, 1, 0),), delayed(5), lateness=0)
    store = SqlLabelStore(f"sqlite:///{tmp_path / 'labels.sqlite'}")
    log = world.log()
    before = [log.end_offsets(kind) for kind in KINDS]
    asyncio.run(catch_up(world, log, store, idle_us=SECOND))
    assert [log.end_offsets(kind) for kind in KINDS] == before
    assert samples_of(log).num_rows == 1
    store.close()


def test_a_week_at_once_gives_the_same_samples_as_the_week_trickled_in(tmp_path: Path) -> None:
    """A request an hour, labels within half a day of it; everything there from the start, or day by day."""
    hours = range(7 * 24)
    shown = [Label("exposure", hour, hour % 2, hour + hour % 3, hour % 2) for hour in hours]
    clicked = [Label("click", hour, hour % 2, hour + hour % 12, (hour // 2) % 2) for hour in hours if hour % 3]
    arriving = sorted([*shown, *clicked], key=lambda label: label.seconds)
    world = World(tuple(hours), 2, tuple(arriving), delayed(4 * 3_600, corrections="6h"), lateness=0, step=3_600)
    made = []
    for name, span in (("at once", len(hours)), ("trickled", 24)):
        log = MemoryLog(dict.fromkeys(KINDS, 2) | dict.fromkeys(("snapshots", "samples", "samples-held-1", "dead"), 1))
        store = SqlLabelStore(f"sqlite:///{tmp_path / name}.sqlite")
        for start in range(0, len(hours) + 24, span):
            asked = [wire.encode(shared(world.snapshot(hour))) for hour in hours if start <= hour < start + span]
            log.append([Outgoing("snapshots", value, partition=0) for value in asked])
            log.append([world.message(label) for label in arriving if start <= label.seconds < start + span])
            asyncio.run(catch_up(world, log, store, idle_us=10**15))
        log.append(end_of_time(world.end_us))
        asyncio.run(catch_up(world, log, store, idle_us=10**15))
        made.append(samples_of(log).to_pylist())
        assert made[-1] == oracle(world, log).to_pylist()
        store.close()
    assert made[0] == made[1]
    assert len(made[0]) > len(hours)  # corrections, too
