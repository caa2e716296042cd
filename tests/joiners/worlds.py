"""Logs of snapshots and labels for the join, made by hand or by hypothesis."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from hypothesis import strategies as st

from dovetail.joiners.label_agent import LabelStage, label_rows, label_scope
from dovetail.joiners.meanings.judging import SampleRule
from dovetail.joiners.policies import policy_of
from dovetail.joiners.retention import LaneProgress, boundary_us
from dovetail.joiners.sample_agent import LabelClock, Lane, SampleStage, SampleTarget, lanes_of
from dovetail.joiners.values.kind_rules import KindRule, LabelNeeds
from dovetail.joiners.watermark import PartitionClock, Partitions, SilentPartitions, watermark
from dovetail.platform.config.durations import DAY_US
from dovetail.platform.config.policy import PolicyConfig
from dovetail.platform.rows import wire
from dovetail.platform.rows.encodings.shared import SHARED_BACK, share, shared_name
from dovetail.platform.rows.intake import WATERMARK_HEADER, Intake
from dovetail.platform.rows.positions import Progress, with_own_positions, with_source_positions
from dovetail.platform.rows.schema import TableSchema, parse_statements, parse_table
from dovetail.platform.runtime.signal import Signal
from dovetail.platform.stage import Outgoing
from dovetail.platform.stores.labels import LabelStore
from dovetail.platform.stores.progress_view import ProgressView
from dovetail.platform.testing import MemoryLog

KINDS = ("exposure", "click")
PARTITIONS = 2
EPOCH = datetime(2024, 1, 1, tzinfo=UTC)
SECOND = 1_000_000


def at(seconds: int) -> datetime:
    return (EPOCH + timedelta(seconds=seconds)).replace(tzinfo=None)


def micros(seconds: int) -> int:
    return int(EPOCH.timestamp()) * SECOND + seconds * SECOND


def label_schema() -> TableSchema:
    ddl = "CREATE TABLE label (request_id VARCHAR NOT NULL, item_id BIGINT NOT NULL, event_time TIMESTAMP NOT NULL)"
    return parse_table(parse_statements(Path("labels.sql"), ddl)[0], Path("labels.sql"))


@dataclass(frozen=True)
class Label:
    """One feedback event; ``seconds`` after the epoch."""

    kind: str
    request: int
    item: int
    seconds: int
    partition: int


def delayed(window: int, **more: Any) -> PolicyConfig:
    """The ``delayed`` policy with a window in seconds."""
    return PolicyConfig.model_validate({"window": f"{window}s", **more})


@dataclass(frozen=True)
class World:
    """Requests at ``times[r]`` with ``items`` candidates each, labels in order of arrival, and the policy.

    ``step`` is how many seconds a time unit has: policies over days need long ones. ``early`` is how long, in seconds,
    a label may precede its request. ``ids`` are the requests' numbers and ``numbers`` the items', each of which may be
    there several times; without them they are 0, 1, ….
    """

    times: tuple[int, ...]
    items: int
    labels: tuple[Label, ...]
    policy: PolicyConfig
    lateness: int
    step: int = 1
    early: int = 0
    ids: tuple[int, ...] = ()
    numbers: tuple[int, ...] = ()

    @property
    def lanes(self) -> list[Lane]:
        return lanes_of("", "snapshots", self.policy.held_topics)

    def snapshot(self, request: int) -> pa.Table:
        n, number = self.items, (self.ids or range(len(self.times)))[request]
        items = list(self.numbers or range(n))
        table = pa.table(
            {
                "request_id": [f"r{number}"] * n,
                "item_id": pa.array(items, pa.int64()),
                "request_time": pa.array([at(self.times[request] * self.step)] * n, pa.timestamp("us")),
                "_request": pa.array([{"user_id": "u"}] * n),
                "feature": pa.array([number * 100.0 + i for i in items], pa.float64()),
                "history": pa.array([[number, None, request]] * n, pa.list_(pa.int64())),
                "score": pa.array([(request + i) % 7 / 7 for i in items], pa.float32()),
                "model_version": pa.array([0] * n, pa.int64()),
            }
        )
        own = with_own_positions(table, 0, np.full(n, request, dtype=np.int64), np.zeros(n, dtype=np.int32))
        return with_source_positions(own)

    def candidates(self) -> pa.Table:
        return pa.concat_tables([self.snapshot(r) for r in range(len(self.times))])

    def snapshots(self) -> pa.Table:
        """The snapshots as the archive keeps them, with own positions."""
        own = {f"_source{name}": name for name in ("_partition", "_offset", "_row")}
        n = self.items
        tables = [
            self.snapshot(r).set_column(
                self.snapshot(r).column_names.index("_source_row"), "_source_row", pa.array(range(n), pa.int32())
            )
            for r in range(len(self.times))
        ]
        rows = pa.concat_tables(tables)
        return rows.rename_columns([own.get(name, name) for name in rows.column_names])

    def label_logs(self, log: MemoryLog) -> dict[str, pa.Table]:
        """The label logs as the archive keeps them."""
        intake = Intake(label_schema(), "event_time", None)
        logs = {}
        for kind in KINDS:
            tables = []
            for partition in range(PARTITIONS):
                poll = log.poll(kind, partition, 0)
                if poll is not None:
                    tables.append(label_rows(intake.read(poll), partition))
            logs[kind] = pa.concat_tables(tables)
        return logs

    @property
    def end_us(self) -> int:
        """A time past every window."""
        last = max([*self.times, *(label.seconds for label in self.labels)], default=0) * self.step
        return micros(last + 1_000) + 10 * self.policy.horizons_us[-1]

    def log(self) -> MemoryLog:
        """All messages, snapshots included, and at the end a watermark past every window."""
        log = self.log_of_snapshots()
        log.append([self.message(label) for label in self.labels])
        log.append(end_of_time(self.end_us))
        return log

    def log_of_snapshots(self) -> MemoryLog:
        """The snapshots alone."""
        log = MemoryLog(
            dict.fromkeys(KINDS, PARTITIONS)
            | {"snapshots": 1, "samples": 1, "dead": 1}
            | dict.fromkeys(self.policy.held_topics, 1)
        )
        for request in range(len(self.times)):
            log.append([Outgoing("snapshots", wire.encode(shared(self.snapshot(request))), partition=0)])
        return log

    def message(self, label: Label) -> Outgoing:
        """The label as it is sent."""
        value: dict[str, Any] = {
            "request_id": f"r{label.request}", "item_id": label.item, "event_time": at(label.seconds * self.step)
        }  # fmt: skip
        (message,) = wire.encode_json(pa.Table.from_pylist([value]))
        return Outgoing(label.kind, message, partition=label.partition, timestamp_ms=label.seconds * self.step * 1_000)


def shared(snapshot: pa.Table) -> pa.Table:
    """A request's snapshot as it is published: what its candidates share is in the row of the first."""
    at = snapshot.column_names.index("history")
    once = pa.DictionaryArray.from_arrays(np.zeros(len(snapshot), np.int32), snapshot.column(at).combine_chunks()[:1])
    return share(snapshot.set_column(at, "history", once))


def end_of_time(us: int) -> list[Outgoing]:
    """A watermark for every label partition."""
    header = ((WATERMARK_HEADER, str(us).encode()),)
    return [Outgoing(kind, b"", partition=p, headers=header) for kind in KINDS for p in range(PARTITIONS)]


class OwnFeatures:
    """Batch features for a world without any: the snapshot's own column."""

    def complete(self, candidates: pa.Table, snapshot: pa.Table) -> pa.Table:
        assert candidates.column("user_id").to_pylist() == ["u"] * candidates.num_rows
        held = ("feature", "history", shared_name("history"), SHARED_BACK)
        return snapshot.select([name for name in held if name in snapshot.column_names])


def label_stage(
    world: World,
    kind: str,
    store: LabelStore,
    moved: Signal,
    *,
    useful_us: int = 10**15,
    view: ProgressView | None = None,
) -> LabelStage:
    return LabelStage(
        kind,
        kind,
        Intake(label_schema(), "event_time", None),
        store,
        allowed_lateness_us=world.lateness * SECOND,
        needed=lambda: LabelNeeds(KindRule(kind), useful_us),
        dead_letter_topic="dead",
        moved=moved,
        view=view,
    )


def clock_of(progress: Progress | None, end: int) -> PartitionClock:
    return PartitionClock(progress, lambda: end)


def label_clocks(store: LabelStore, log: MemoryLog) -> Partitions:
    clocks = {}
    for kind in KINDS:
        progress = store.progress(label_scope(kind))
        for partition, end in log.end_offsets(kind).items():
            clocks[kind, partition] = clock_of(progress.get(partition), end)
    return clocks


def label_watermark(world: World, store: LabelStore, log: MemoryLog) -> int | None:
    clocks = label_clocks(store, log)
    return watermark(clocks, allowed_lateness_us=world.lateness * SECOND)


def sample_stage(
    world: World,
    store: LabelStore,
    moved: Signal,
    log: MemoryLog,
    lane: int = 0,
    *,
    retention_us: int | None = None,
    idle_us: int | None = None,
    on_blocked: Callable[[], None] = lambda: None,
) -> SampleStage:
    """The agent of a lane. With ``retention_us`` it lets label rows go after each commit; see SilentPartitions."""
    silent = SilentPartitions(
        lambda: label_clocks(store, log),
        allowed_lateness_us=world.lateness * SECOND,
        idle_timeout_us=10**15 if idle_us is None else idle_us,
    )

    def released() -> None:
        if retention_us is None:
            return
        boundary = boundary_us(
            (),
            LaneProgress(store, world.lanes, [0]),
            lambda topic, partition: log.end_offsets(topic)[partition],
            watermark_us=label_watermark(world, store, log),
            longest_us=world.policy.horizons_us[-1],
            retention_us=retention_us,
        )
        while boundary is not None and store.retire(boundary, limit=2):
            pass

    return SampleStage(
        SampleTarget(
            world.lanes[lane],
            "samples",
            lambda _mark: SampleRule(policy_of(world.policy), KINDS, world.early * SECOND),
        ),
        store,
        OwnFeatures(),
        LabelClock(
            lambda: label_watermark(world, store, log),
            moved,
            silent.announcements if idle_us is not None else lambda _needed_us: (),
        ),
        on_blocked=on_blocked,
        on_released=released,
    )


def policies() -> st.SearchStrategy[tuple[PolicyConfig, int]]:
    """Policies of every kind, and the length of a time unit in seconds that suits them."""
    windows = st.integers(1, 15)
    fractions = st.sampled_from([0.25, 0.5])
    plain = st.builds(delayed, windows)
    corrected = st.builds(lambda w, c: delayed(w, corrections=f"{c}s"), windows, windows)
    sampled = st.builds(
        lambda w, f, g: delayed(w, unexposed_fraction=f, negative_fraction=g), windows, fractions, fractions
    )
    fast = st.builds(
        lambda steps: delayed(
            sorted(steps)[-1],
            policy="fast_emit",
            emit_after=[f"{s}s" for s in sorted(steps)[:-1]],
        ),
        st.sets(st.integers(1, 15), min_size=2, max_size=4),
    )
    hours = DAY_US // SECOND // 4
    days = st.builds(
        lambda entry, ages: delayed(entry * 3_600, policy="return_days", days=sorted(ages)),
        st.integers(1, 23),
        st.sets(st.integers(1, 9), min_size=1, max_size=3),
    )
    short = st.one_of(plain, corrected, sampled, fast).map(lambda policy: (policy, 1))
    return st.one_of(short, days.map(lambda policy: (policy, hours)))


@dataclass(frozen=True)
class Shown:
    """What happened to a candidate: time units after the request, below 0 before it, None where it did not happen."""

    request: int
    item: int
    exposure: int | None
    click: int | None
    partition: int
    times: int
    late: int

    def labels(self, times: tuple[int, ...]) -> list[tuple[int, Label]]:
        """Its labels, each with when it arrives."""
        base = times[self.request % len(times)]
        made = []
        for kind, delay in (("exposure", self.exposure), ("click", self.click)):
            if delay is not None:
                label = Label(kind, self.request, self.item, base + delay, self.partition)
                made += [(base + delay + self.late * copy, label) for copy in range(self.times)]
        return made


@st.composite
def worlds(draw: st.DrawFn) -> World:
    """Small worlds dense in ties, in requests, items and labels that come twice, in late, early and stray labels.

    Some labels happened decades before everything else.
    """
    times = tuple(sorted(draw(st.lists(st.integers(0, 40), min_size=1, max_size=6))))
    items = draw(st.integers(1, 3))
    policy, step = draw(policies())
    reach = policy.horizons_us[-1] // (SECOND * step) + 3
    ages = st.just(-1_000_000_000 // step)
    shown = draw(
        st.lists(
            st.builds(
                Shown,
                request=st.integers(0, len(times)),
                item=st.integers(0, items),
                exposure=st.one_of(st.just(0), st.integers(0, 3), st.integers(-3, reach), ages, st.none()),
                click=st.one_of(st.integers(0, reach), st.integers(-3, 3), st.integers(-40, 0), ages, st.none()),
                partition=st.integers(0, PARTITIONS - 1),
                times=st.sampled_from([1, 1, 2]),
                late=st.integers(0, 8),
            ),
            min_size=1,
            max_size=16,
        )
    )
    arriving = [label for one in shown for label in one.labels(times)]
    order = draw(st.sampled_from(["by arrival", "as drawn"]))
    if order == "by arrival":
        arriving.sort(key=lambda pair: pair[0])
    labels = tuple(label for _, label in arriving)
    lateness, early = draw(st.sampled_from([0, 0, 5 * step])), draw(st.sampled_from([0, 0, 2 * step]))
    doubled: dict[str, tuple[int, ...]] = {}
    if draw(st.booleans()):
        doubled["ids"] = tuple(draw(st.integers(0, number)) for number in range(len(times)))
        doubled["numbers"] = tuple(draw(st.integers(0, number)) for number in range(items))
    return World(times, items, labels, policy, lateness, step, early, **doubled)


async def cut_short(run: Sequence[asyncio.Task[None]], random: np.random.Generator) -> None:
    """Let stages run for some turns of the event loop, and end them wherever they are."""
    for _ in range(int(random.integers(0, 30))):
        await asyncio.sleep(0)
    for task in run:
        task.cancel()
    await asyncio.gather(*run, return_exceptions=True)
