"""Logs of snapshots and labels for the join, made by hand or by hypothesis."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from hypothesis import strategies as st

from dovetail.joiners.labels import LabelStage, label_rows, label_scope
from dovetail.joiners.policies import Delayed
from dovetail.joiners.samples import SampleStage
from dovetail.joiners.watermark import PartitionClock, watermark
from dovetail.platform import wire
from dovetail.platform.intake import WATERMARK_HEADER, Intake
from dovetail.platform.positions import with_own_positions, with_source_positions
from dovetail.platform.schema import TableSchema, parse_statements, parse_table
from dovetail.platform.signal import Signal
from dovetail.platform.stage import Outgoing
from dovetail.platform.stores.labels import LabelStore
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


@dataclass(frozen=True)
class World:
    """Requests at ``times[r]`` with ``items`` candidates each, labels in order of arrival, and the policy."""

    times: tuple[int, ...]
    items: int
    labels: tuple[Label, ...]
    window: int
    lateness: int

    @property
    def policy(self) -> Delayed:
        return Delayed("exposure", "click", self.window * SECOND)

    def snapshot(self, request: int) -> pa.Table:
        n = self.items
        table = pa.table(
            {
                "request_id": [f"r{request}"] * n,
                "item_id": pa.array(range(n), pa.int64()),
                "request_time": pa.array([at(self.times[request])] * n, pa.timestamp("us")),
                "request": pa.array([{"user_id": "u"}] * n),
                "feature": pa.array([request * 100.0 + i for i in range(n)], pa.float64()),
                "score": pa.array([0.5] * n, pa.float32()),
                "model_version": pa.array([0] * n, pa.int64()),
            }
        )
        own = with_own_positions(table, 0, np.full(n, request, dtype=np.int64), np.zeros(n, dtype=np.int32))
        return with_source_positions(own)

    def candidates(self) -> pa.Table:
        return pa.concat_tables([self.snapshot(r) for r in range(len(self.times))])

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

    def log(self) -> MemoryLog:
        """All messages, snapshots included, and at the end a watermark past every window."""
        log = MemoryLog(dict.fromkeys(KINDS, PARTITIONS) | {"snapshots": 1, "samples": 1, "dead": 1})
        for label in self.labels:
            value: dict[str, Any] = {
                "request_id": f"r{label.request}", "item_id": label.item, "event_time": at(label.seconds)
            }  # fmt: skip
            (message,) = wire.encode_json(pa.Table.from_pylist([value]))
            log.append([Outgoing(label.kind, message, partition=label.partition)])
        for request in range(len(self.times)):
            log.append([Outgoing("snapshots", wire.encode(self.snapshot(request)), partition=0)])
        end = micros(
            max([*self.times, *(label.seconds for label in self.labels)], default=0) + 10 * self.window + 1_000
        )
        for kind in KINDS:
            for partition in range(PARTITIONS):
                header = ((WATERMARK_HEADER, str(end).encode()),)
                log.append([Outgoing(kind, b"", partition=partition, headers=header)])
        return log


class OwnFeatures:
    """Batch features for a world without any: the snapshot's own column."""

    def complete(self, candidates: pa.Table, snapshot: pa.Table) -> pa.Table:
        assert candidates.column("user_id").to_pylist() == ["u"] * candidates.num_rows
        return snapshot.select(["feature"])


def label_stage(world: World, kind: str, store: LabelStore, moved: Signal) -> LabelStage:
    return LabelStage(
        kind,
        kind,
        Intake(label_schema(), "event_time", None),
        store,
        allowed_lateness_us=world.lateness * SECOND,
        dead_letter_topic="dead",
        moved=moved,
    )


def sample_stage(world: World, store: LabelStore, moved: Signal, log: MemoryLog) -> SampleStage:
    def current() -> int | None:
        clocks = {}
        for kind in KINDS:
            progress = store.progress(label_scope(kind))
            for partition, end in log.end_offsets(kind).items():
                clocks[kind, partition] = PartitionClock(progress.get(partition), end)
        return watermark(clocks, allowed_lateness_us=world.lateness * SECOND, idle_timeout_us=10**15)

    return SampleStage(
        "snapshots",
        "samples",
        world.policy,
        KINDS,
        store,
        OwnFeatures(),
        watermark=current,
        moved=moved,
        on_blocked=lambda: None,
    )


@st.composite
def worlds(draw: st.DrawFn) -> World:
    """Small worlds dense in ties, duplicates, late and early labels, and labels that belong to nothing."""
    times = tuple(sorted(draw(st.lists(st.integers(0, 40), min_size=1, max_size=6))))
    items = draw(st.integers(1, 3))
    labels = draw(
        st.lists(
            st.builds(
                Label,
                kind=st.sampled_from(KINDS),
                request=st.integers(0, len(times)),
                item=st.integers(0, items),
                seconds=st.integers(0, 60),
                partition=st.integers(0, PARTITIONS - 1),
            ),
            max_size=24,
        )
    )
    return World(
        times, items, tuple(labels), window=draw(st.integers(1, 15)), lateness=draw(st.sampled_from([0, 0, 5]))
    )
