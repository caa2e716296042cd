"""Worlds whose clicks name a user and an item, but no request; made by hand or by hypothesis."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from hypothesis import strategies as st

from dovetail.features.plan.request import flatten_requests
from dovetail.joiners.attribution import Attribution
from dovetail.joiners.batch.attributed import attribute_labels
from dovetail.joiners.batch.join import join_samples
from dovetail.joiners.label_agent import LabelStage, label_rows, label_scope
from dovetail.joiners.meanings.judging import SampleRule
from dovetail.joiners.policies import policy_of
from dovetail.joiners.sample_agent import LabelClock, SampleStage, SampleTarget, lanes_of
from dovetail.joiners.snapshot_agent import SNAPSHOT_SCOPE, Ranking, Remembering, RequestTopic, SnapshotStage
from dovetail.joiners.snapshots.messages import Answers
from dovetail.joiners.values.kind_rules import KindRule, LabelNeeds
from dovetail.joiners.watermark import Partitions, SilentPartitions, watermark
from dovetail.platform.config.policy import PolicyConfig
from dovetail.platform.rows import wire
from dovetail.platform.rows.intake import WATERMARK_HEADER, Intake
from dovetail.platform.rows.positions import SourceFilter
from dovetail.platform.rows.schema import TableSchema, parse_statements, parse_table
from dovetail.platform.runtime.signal import Listener, Signal
from dovetail.platform.stage import Outgoing, Stage
from dovetail.platform.stores.labels import LabelStore
from dovetail.platform.stores.registry.store import Registry
from dovetail.platform.testing import MemoryLog
from tests.joiners.worlds import SECOND, at, clock_of, micros

PARTITIONS = 2
KINDS = ("exposure", "click")
OUTSIDE = ("requests", *KINDS)


def _table(ddl: str) -> TableSchema:
    return parse_table(parse_statements(Path("t.sql"), ddl)[0], Path("t.sql"))


REQUEST = _table(
    "CREATE TABLE request (request_id VARCHAR NOT NULL, user_id VARCHAR, request_time TIMESTAMP NOT NULL, "
    "candidates STRUCT(item_id VARCHAR)[] NOT NULL)"
)
SCHEMAS = {
    "exposure": _table(
        "CREATE TABLE exposure (request_id VARCHAR NOT NULL, item_id VARCHAR NOT NULL, event_time TIMESTAMP NOT NULL)"
    ),
    "click": _table(
        "CREATE TABLE click (user_id VARCHAR NOT NULL, item_id VARCHAR NOT NULL, event_time TIMESTAMP NOT NULL)"
    ),
}
#: One with the characters that separate and escape items.
ITEMS = ("a", "b\x1fa", "c\x1b0")


@dataclass(frozen=True)
class Asked:
    """A request; ``refused`` by the snapshot agent or not. ``user`` None is nobody."""

    user: str | None
    seconds: int
    items: tuple[int, ...]
    partition: int
    refused: bool = False


@dataclass(frozen=True)
class Click:
    """A click by user and item."""

    user: str
    item: int
    seconds: int
    partition: int


@dataclass(frozen=True)
class AskedWorld:
    """Requests and clicks in their order of arrival. Every candidate of a request is exposed when it is made."""

    requests: tuple[Asked, ...]
    clicks: tuple[Click, ...]
    window: int
    within: int
    lateness: int
    request_lateness: int

    @property
    def policy(self) -> PolicyConfig:
        return PolicyConfig.model_validate({"window": f"{self.window}s", "corrections": "4s"})

    def request_name(self, number: int) -> str:
        return f"r{number}" + ("x" if self.requests[number].refused else "")

    def messages(self, topic: str) -> list[Outgoing]:
        """All rows of an outside topic, without announcements."""
        rows: list[tuple[int, int, dict[str, Any]]] = []
        if topic == "click":
            rows += [(c.partition, c.seconds, {"user_id": c.user, "item_id": ITEMS[c.item]}) for c in self.clicks]
        for number, r in enumerate(self.requests):
            name, items = self.request_name(number), [ITEMS[i] for i in r.items]
            if topic == "requests":
                candidates = [{"item_id": item} for item in items]
                rows.append((r.partition, r.seconds, {"request_id": name, "user_id": r.user, "candidates": candidates}))
            elif topic == "exposure":
                rows += [(r.partition, r.seconds, {"request_id": name, "item_id": item}) for item in items]
        time, schema = ("request_time", REQUEST) if topic == "requests" else ("event_time", SCHEMAS.get(topic))
        assert schema is not None
        return [
            Outgoing(
                topic,
                wire.encode(pa.Table.from_pylist([{**row, time: at(seconds)}], schema=schema.arrow)),
                partition=partition,
                timestamp_ms=seconds * 1_000,
            )
            for partition, seconds, row in rows
        ]

    @property
    def end_us(self) -> int:
        return micros(1_000)

    def log(self) -> MemoryLog:
        """Everything, and a watermark past every window at the end of each partition."""
        log = empty_log()
        for topic in OUTSIDE:
            log.append([*self.messages(topic), *end_of(topic, self.end_us)])
        return log


def empty_log() -> MemoryLog:
    topics = (*OUTSIDE, "snapshots", "samples", "samples-held-1")
    return MemoryLog(dict.fromkeys(topics, PARTITIONS) | {"dead": 1})


def end_of(topic: str, us: int) -> list[Outgoing]:
    header = ((WATERMARK_HEADER, str(us).encode()),)
    return [Outgoing(topic, b"", partition=partition, headers=header) for partition in range(PARTITIONS)]


@dataclass(frozen=True)
class Answer:
    encoded: pa.Table
    snapshot_columns: Sequence[str]
    seen: Mapping[str, Sequence[int]]
    answerable: npt.NDArray[np.bool_]


class Shop:
    """Features, batch features and model of a shop that does not answer requests with an x."""

    def serve(self, candidates: pa.Table) -> Answer:
        good = [not name.endswith("x") for name in candidates.column("request_id").to_pylist()]
        return Answer(pa.table({"one": pa.array([1.0] * len(good))}), ["one"], {}, np.array(good, dtype=np.bool_))

    def complete(self, candidates: pa.Table, snapshot: pa.Table) -> pa.Table:
        return snapshot.select(["one"])

    def refresh(self) -> None:
        pass

    def score(self, table: pa.Table) -> tuple[int, npt.NDArray[np.float32]]:
        return 1, np.full(table.num_rows, 0.5, dtype=np.float32)


class Waits(Exception):
    """An agent has nothing to do before more comes."""


class Impatient(Signal):
    """Whoever would wait for it is told that it waits."""

    def listen(self) -> Listener:
        return _Never(self._waiting)


class _Never(Listener):
    async def wait(self, timeout_s: float) -> None:
        raise Waits


@dataclass(frozen=True)
class Agents:
    """The stages of a world over its stores."""

    world: AskedWorld
    log: MemoryLog
    registry: Registry
    labels: LabelStore
    idle_us: int = 10**15
    signal: Callable[[], Signal] = Signal

    def stages(self) -> list[Stage]:
        """Snapshots, exposures, clicks, then the lanes of the samples."""
        world, moved = self.world, self.signal()
        shop = Shop()
        snapshots = SnapshotStage(
            RequestTopic("requests", Intake(REQUEST, "request_time", None), flatten_requests),
            Ranking(shop, shop),
            Answers("snapshots", "dead"),
            self.registry,
            remembering=Remembering(world.request_lateness * SECOND, moved),
        )
        silent = SilentPartitions(
            self._requests, allowed_lateness_us=world.request_lateness * SECOND, idle_timeout_us=self.idle_us
        )
        attribution = Attribution(
            self.registry, self.settled, silent, newest_ms=self._newest_ms, within_us=world.within * SECOND
        )
        stages: list[Stage] = [snapshots]
        stages += [
            LabelStage(
                kind, kind, Intake(SCHEMAS[kind], "event_time", None), self.labels,
                allowed_lateness_us=world.lateness * SECOND,
                needed=partial(LabelNeeds, KindRule(kind), world.policy.horizons_us[-1]),
                dead_letter_topic="dead", moved=moved, attribution=attribution if kind == "click" else None,
                on_stored=self._forget,
            )
            for kind in KINDS
        ]  # fmt: skip
        announce = SilentPartitions(
            self._labels, allowed_lateness_us=world.lateness * SECOND, idle_timeout_us=self.idle_us
        )
        clock = LabelClock(
            lambda: watermark(self._labels(), allowed_lateness_us=world.lateness * SECOND),
            moved,
            announce.announcements,
        )
        stages += [
            SampleStage(
                SampleTarget(
                    lane, "samples", lambda _: SampleRule(policy_of(world.policy), KINDS, world.lateness * SECOND)
                ),
                self.labels,
                shop,
                clock,
            )
            for lane in lanes_of("", "snapshots", world.policy.held_topics)
        ]
        return stages

    def settled(self) -> int | None:
        return watermark(self._requests(), allowed_lateness_us=self.world.request_lateness * SECOND)

    def _newest_ms(self) -> int | None:
        stamps = [c.progress.timestamp_ms for c in self._labels().values() if c.progress is not None]
        return max((stamp for stamp in stamps if stamp is not None), default=None)

    def _requests(self) -> Partitions:
        progress = self.registry.progress(SNAPSHOT_SCOPE)
        ends = self.log.end_offsets("requests").items()
        return {("requests", p): clock_of(progress.get(p), end) for p, end in ends}

    def _labels(self) -> Partitions:
        return {
            (kind, p): clock_of(self.labels.progress(label_scope(kind)).get(p), end)
            for kind in KINDS
            for p, end in self.log.end_offsets(kind).items()
        }

    def _forget(self) -> None:
        """As ``joiners/progress.py`` does, with no retention."""
        clicks = {key: clock for key, clock in self._labels().items() if key[0] == "click"}
        clock = watermark(clicks, allowed_lateness_us=self.world.lateness * SECOND)
        if clock is not None:
            self.registry.forget_asked(clock - self.world.policy.horizons_us[-1] - self.world.within * SECOND)


def snapshots_of(log: MemoryLog) -> pa.Table:
    """The snapshots as the archive keeps them."""
    return _derived(log, "snapshots")


def samples_of(log: MemoryLog) -> pa.Table:
    """The samples, what was published again left out."""
    return _derived(log, "samples")


def _derived(log: MemoryLog, topic: str) -> pa.Table:
    parts = []
    for partition in log.end_offsets(topic):
        poll = log.poll(topic, partition, 0)
        if poll is not None:
            rows = wire.decode_arrow(poll)
            parts.append(rows.filter(pa.array(SourceFilter().admit(rows))))
    return pa.concat_tables(parts).combine_chunks() if parts else pa.table({})


def label_logs(world: AskedWorld, log: MemoryLog) -> dict[str, pa.Table]:
    """The label logs as the batch join takes them, clicks attributed in DuckDB."""
    logs = {}
    for kind, schema in SCHEMAS.items():
        polls = [log.poll(kind, partition, 0) for partition in range(PARTITIONS)]
        intake = Intake(schema, "event_time", None)
        logs[kind] = pa.concat_tables([label_rows(intake.read(p), p.partition) for p in polls if p is not None])
    intake = Intake(REQUEST, "request_time", None)
    requests, times = [], []
    for partition in range(PARTITIONS):
        poll = log.poll("requests", partition, 0)
        if poll is None:
            continue
        received = intake.read(poll)
        requests.append(received.table)
        times += [(t, partition, o, r) for t, o, r in zip(
            received.table["request_time"].to_pylist(), received.table["_offset"].to_pylist(),
            received.table["_row"].to_pylist(), strict=True)]  # fmt: skip
        times += [(pa.scalar(us, pa.timestamp("us")).as_py(), partition, o, 0) for o, us in received.watermarks]
    names = ["request_time", "_partition", "_offset", "_row"]
    kinds = [pa.timestamp("us"), pa.int32(), pa.int64(), pa.int32()]
    columns = list(zip(*times, strict=True)) or [(), (), (), ()]
    logs["click"] = attribute_labels(
        logs["click"],
        flatten_requests(pa.concat_tables(requests)),
        pa.table([pa.array(c, k) for c, k in zip(columns, kinds, strict=True)], names=names),
        within_us=world.within * SECOND,
        allowed_lateness_us=world.lateness * SECOND,
        request_lateness_us=world.request_lateness * SECOND,
    )
    return logs


def oracle(world: AskedWorld, log: MemoryLog) -> pa.Table:
    """The samples in DuckDB."""
    snapshots = snapshots_of(log)
    if snapshots.num_rows == 0:
        return pa.table({})
    lateness = world.lateness * SECOND
    return join_samples(
        snapshots, label_logs(world, log), world.policy, allowed_lateness_us=lateness, early_us=lateness
    )


@st.composite
def asked_worlds(draw: st.DrawFn) -> AskedWorld:
    """Small worlds in which users ask again and again for the same items, at the same times, in and out of order."""
    users, items = st.sampled_from(["u", "v"]), st.integers(0, len(ITEMS) - 1)
    requests = draw(
        st.lists(
            st.builds(
                Asked,
                user=st.one_of(users, users, users, st.none()),
                seconds=st.integers(0, 20),
                items=st.lists(items, max_size=3).map(tuple),
                partition=st.integers(0, PARTITIONS - 1),
                refused=st.sampled_from([False, False, False, True]),
            ),
            min_size=1,
            max_size=8,
        )
    )
    clicks = draw(
        st.lists(st.builds(Click, users, items, st.integers(0, 30), st.integers(0, PARTITIONS - 1)), max_size=10)
    )
    if draw(st.booleans()):
        requests.sort(key=lambda r: r.seconds)
    if draw(st.booleans()):
        clicks.sort(key=lambda c: c.seconds)
    return AskedWorld(
        tuple(requests), tuple(clicks), draw(st.integers(1, 8)), draw(st.integers(0, 12)),
        draw(st.sampled_from([0, 0, 5])), draw(st.sampled_from([0, 0, 5])),
    )  # fmt: skip
