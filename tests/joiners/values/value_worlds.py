"""Labels with columns of their own, as a log, as samples of the stream and as those of the batch."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from hypothesis import strategies as st

from dovetail.joiners.batch.by_meaning import audit_by_meaning, samples_by_meaning
from dovetail.joiners.batch.label_audit import LabelAudit
from dovetail.joiners.label_agent import LabelStage, label_rows, label_scope
from dovetail.joiners.meanings.judging import rules_for
from dovetail.joiners.meanings.known import Meanings
from dovetail.joiners.meanings.label_meaning import meaning_of
from dovetail.joiners.outcomes import LABEL_OUTCOMES
from dovetail.joiners.sample_agent import LabelClock, Lane, SampleStage, SampleTarget, lanes_of
from dovetail.joiners.snapshots.shape import MEANING_COLUMN
from dovetail.joiners.values.kind_rules import LabelNeeds
from dovetail.joiners.watermark import watermark
from dovetail.platform.config.policy import LabelConfig
from dovetail.platform.rows import wire
from dovetail.platform.rows.intake import WATERMARK_HEADER, Intake
from dovetail.platform.rows.positions import SourceFilter
from dovetail.platform.rows.schema import TableSchema, parse_statements, parse_table
from dovetail.platform.runtime.signal import Signal
from dovetail.platform.stage import Outgoing
from dovetail.platform.stores.labels import PENDING, LabelStore
from dovetail.platform.testing import MemoryLog, run_stage
from tests.joiners.worlds import PARTITIONS, SECOND, OwnFeatures, World, at, clock_of, cut_short, micros

KEYS = "request_id VARCHAR NOT NULL, item_id BIGINT NOT NULL, event_time TIMESTAMP NOT NULL"
TABLES = {
    "exposure": f"({KEYS})",
    "order": f"({KEYS}, amount DECIMAL(9,2), pieces BIGINT, note VARCHAR, seen TIMESTAMP, rate DOUBLE)",
    "undo": f"({KEYS})",
    "refund": f"({KEYS}, why VARCHAR)",
}
VALUES = {"amount": "sum", "pieces": "max", "note": "first", "seen": "min", "rate": "last"}


def schema_of(kind: str) -> TableSchema:
    return parse_table(parse_statements(Path("l.sql"), f'CREATE TABLE "{kind}" {TABLES[kind]}')[0], Path("l.sql"))


SCHEMAS = {kind: schema_of(kind) for kind in TABLES}


def labels_config(
    *, retracted: bool = True, values: dict[str, str] | None = None, without: tuple[str, ...] = (), **policy: Any
) -> LabelConfig:
    streams: dict[str, Any] = {
        "exposure": {},
        "order": {"values": VALUES if values is None else values},
        "undo": {},
        "refund": {"values": {"why": "last"}},
    }
    if retracted:
        streams["undo"]["retracts"] = streams["refund"]["retracts"] = "order"
    streams = {kind: stream for kind, stream in streams.items() if kind not in without}
    return LabelConfig.model_validate({"window": "10s", "positive": "order", "streams": streams, **policy})


@dataclass(frozen=True)
class Feedback:
    """A label: ``seconds`` after the epoch, and its columns."""

    kind: str
    request: int
    item: int
    seconds: int
    partition: int = 0
    columns: tuple[tuple[str, Any], ...] = ()

    def message(self, step: int) -> Outgoing:
        keys = {"request_id": f"r{self.request}", "item_id": self.item, "event_time": at(self.seconds * step)}
        value = wire.encode_json(pa.Table.from_pylist([{**keys, **dict(self.columns)}]))[0]
        return Outgoing(self.kind, value, partition=self.partition, timestamp_ms=self.seconds * step * 1_000)


@dataclass(frozen=True)
class ValueWorld:
    """Requests, and labels in order of arrival; ``base`` has the snapshots.

    ``configs`` are the settings there were, one after the other, and ``under`` which of them each request was answered
    under; without it, none says so, and the first is meant.
    """

    base: World
    configs: tuple[LabelConfig, ...]
    feedback: tuple[Feedback, ...]
    under: tuple[int, ...] = ()

    @property
    def meanings(self) -> Meanings:
        found = [meaning_of(config, SCHEMAS) for config in self.configs]
        return Meanings(lambda: found, found[-1], shared=False)

    @property
    def in_force(self) -> LabelConfig:
        return self.meanings.in_force(self.configs[-1])

    @property
    def lanes(self) -> list[Lane]:
        return lanes_of("", "snapshots", self.in_force.held_topics)

    def marked(self, rows: pa.Table, request: int) -> pa.Table:
        if not self.under:
            return rows
        mark = meaning_of(self.configs[self.under[request]], SCHEMAS).fingerprint
        return rows.append_column(MEANING_COLUMN, pa.array([mark] * rows.num_rows, pa.int64()))

    def snapshots(self) -> pa.Table:
        rows, n = self.base.snapshots(), self.base.items
        parts = [self.marked(rows.slice(request * n, n), request) for request in range(len(self.base.times))]
        return pa.concat_tables(parts)

    def log(self) -> MemoryLog:
        topics = dict.fromkeys(TABLES, PARTITIONS) | {"snapshots": 1, "samples": 1, "dead": 1}
        log = MemoryLog(topics | dict.fromkeys(self.in_force.held_topics, 1))
        for request in range(len(self.base.times)):
            rows = self.marked(self.base.snapshot(request), request)
            log.append([Outgoing("snapshots", wire.encode(rows), partition=0)])
        log.append([label.message(self.base.step) for label in self.feedback])
        last = max([*self.base.times, *(label.seconds for label in self.feedback)]) * self.base.step
        end = micros(last + 1_000 + self.base.lateness) + 10 * self.in_force.longest_us
        header = ((WATERMARK_HEADER, str(end).encode()),)
        log.append([Outgoing(kind, b"", partition=p, headers=header) for kind in TABLES for p in range(PARTITIONS)])
        return log

    def logs(self, log: MemoryLog) -> dict[str, pa.Table]:
        logs = {}
        for kind in TABLES:
            intake = Intake(SCHEMAS[kind], "event_time", None)
            polls = ((number, log.poll(kind, number, 0)) for number in range(PARTITIONS))
            logs[kind] = pa.concat_tables([label_rows(intake.read(poll), n) for n, poll in polls if poll is not None])
        return logs

    def stages(self, store: LabelStore, log: MemoryLog) -> tuple[list[LabelStage], list[SampleStage]]:
        moved, lateness = Signal(), self.base.lateness * SECOND

        def newest() -> int | None:
            clocks = {
                (kind, number): clock_of(store.progress(label_scope(kind)).get(number), end)
                for kind in TABLES
                for number, end in log.end_offsets(kind).items()
            }
            return watermark(clocks, allowed_lateness_us=lateness)

        meanings = self.meanings
        labels = [
            LabelStage(
                kind,
                kind,
                Intake(SCHEMAS[kind], "event_time", None),
                store,
                allowed_lateness_us=lateness,
                needed=partial(LabelNeeds, meanings.kept(kind, SCHEMAS[kind]), 10**15),
                dead_letter_topic="dead",
                moved=moved,
            )
            for kind in TABLES
        ]
        samples = [
            SampleStage(
                SampleTarget(lane, "samples", rules_for(meanings, "")),
                store,
                OwnFeatures(),
                LabelClock(newest, moved),
            )
            for lane in self.lanes
        ]
        return labels, samples


async def live_through(world: ValueWorld, log: MemoryLog, store: LabelStore, seed: int, crashes: int) -> None:
    random = np.random.default_rng(seed)

    def some() -> int:
        return int(random.integers(1, 5))

    for life in range(crashes + 1):
        labels, samples = world.stages(store, log)
        run = [asyncio.create_task(run_stage(stage, log, max_records=some)) for stage in [*labels, *samples]]
        if life < crashes:
            await cut_short(run, random)
        else:
            await asyncio.gather(*run)
            for stage in samples:
                await run_stage(stage, log, max_records=some)


def streamed(log: MemoryLog) -> pa.Table:
    poll = log.poll("samples", 0, 0)
    if poll is None:
        return pa.table({})
    rows = wire.decode_arrow(poll)
    return rows.filter(pa.array(SourceFilter().admit(rows))).drop_columns(["_partition", "_offset", "_row"])


def joined(world: ValueWorld, log: MemoryLog) -> pa.Table:
    return samples_by_meaning(
        world.snapshots(),
        world.logs(log),
        world.meanings,
        "",
        OwnFeatures(),
        allowed_lateness_us=world.base.lateness * SECOND,
    )


ORDER = [(name, "ascending") for name in ("_source_partition", "_source_offset", "_source_row", "emission")]


def check(world: ValueWorld, store: LabelStore, seed: int = 0, crashes: int = 0) -> pa.Table:
    """Live through the world; its samples, which are those of the batch join."""
    log = world.log()
    asyncio.run(live_through(world, log, store, seed, crashes))
    made, again = streamed(log), joined(world, log)
    if made.num_rows == 0:
        assert again.num_rows == 0
        return made
    made, again = made.sort_by(ORDER).combine_chunks(), again.sort_by(ORDER).combine_chunks()
    names = [name for name in made.column_names if name not in ("_source_row",)]
    if len(world.configs) == 1:
        assert made.schema.names == again.schema.names
        assert made.schema.remove_metadata().types == again.schema.types
    # Of settings without a sample there is no column in the stream.
    assert all(again.column(name).null_count == again.num_rows for name in {*again.column_names} - {*made.column_names})
    assert made.select(names).to_pylist() == again.select(names).to_pylist()
    audit(world, log, store, made)
    return made


def audit(world: ValueWorld, log: MemoryLog, store: LabelStore, samples: pa.Table) -> LabelAudit:
    """The audit, whose outcomes of labels are those of the agents' books; nothing is lost or surplus."""
    released = {
        (lane.number, number if lane.number == 0 else source): bound
        for lane in world.lanes
        for number, progress in store.progress(lane.name).items()
        for source, bound in (
            [(number, progress.next_offset << 20)]
            if lane.number == 0
            else [(source, last + 1) for source, last in progress.sources.items()]
        )
    }
    found = audit_by_meaning(
        world.snapshots(),
        world.logs(log),
        samples,
        world.meanings,
        "",
        allowed_lateness_us=world.base.lateness * SECOND,
        released=released,
    )
    assert not found.wrong
    told: dict[tuple[str, str], int] = {}
    for line in found.lines:
        if line.what in TABLES and line.outcome != "duplicate":
            told[line.what, line.outcome] = told.get((line.what, line.outcome), 0) + line.rows
    kept = {key: rows for key, rows in store.outcomes().items() if rows}
    if world.base.ids:  # a later row may say so before the label's own has decided
        return found
    for kind in TABLES:
        for outcome in ("early", "retracted"):
            assert told.get((kind, outcome)) == kept.get((kind, outcome))
    if len(world.lanes) == 1:
        assert told.keys() | kept.keys() <= {
            (kind, outcome) for kind in TABLES for outcome in {*LABEL_OUTCOMES, *UNMET}
        }
        assert _without_late(told) == _without_late(kept), (told, kept)
        for kind in TABLES:
            assert kept.get((kind, "late"), 0) <= told.get((kind, "late"), 0), (told, kept)
    return found


#: Labels that met no snapshot row, by the audit and by the books.
UNMET = ("orphaned", PENDING)


def _without_late(outcomes: dict[tuple[str, str], int]) -> Counter[tuple[str, str]]:
    """Labels by kind and outcome, those that were late together with those that met no snapshot row.

    Whether the books know a late label as such depends on who was faster: one that is stored after its snapshot row was
    judged is met by nobody and stays pending there. The audit, which sees the whole log, calls it late.
    """
    together: Counter[tuple[str, str]] = Counter()
    for (kind, outcome), rows in outcomes.items():
        together[kind, "late" if outcome in UNMET else outcome] += rows
    return together


def world_of(*feedback: Feedback, config: LabelConfig | None = None, early: int = 0) -> ValueWorld:
    config = config or labels_config(max_early=f"{early}s")
    return ValueWorld(World((0, 5), 2, (), config, 0), (config,), feedback)


def bought(seconds: int, request: int = 0, item: int = 0, **columns: Any) -> Feedback:
    return Feedback("order", request, item, seconds, columns=tuple(columns.items()))


shown = [Feedback("exposure", request, item, 5 * request) for request in (0, 1) for item in (0, 1)]


def some_columns() -> st.SearchStrategy[tuple[tuple[str, Any], ...]]:
    values: dict[str, st.SearchStrategy[Any]] = {
        "amount": st.none() | st.decimals(-9_999, 9_999, places=2),
        "pieces": st.none() | st.integers(-(2**63), 2**63 - 1),
        "note": st.none() | st.sampled_from(["", "a", "\0", "ü\x1f,", '"}']),
        "seen": st.none() | st.integers(0, 50).map(at),
        "rate": st.none() | st.sampled_from([0.1, -0.0, 1e-300, 3.5]),
    }
    return st.fixed_dictionaries(values).map(lambda columns: tuple(columns.items()))


POLICIES: list[dict[str, Any]] = [
    {"window": "4s"},
    {"window": "9s", "unexposed_fraction": 0.5, "negative_fraction": 0.5},
    {"window": "4s", "corrections": "5s", "retracted": False},
    {"window": "9s", "policy": "fast_emit", "emit_after": ["1s", "4s"], "retracted": False},
    {"window": "6h", "policy": "return_days", "days": [1, 3], "retracted": False},
]


CHANGES: list[dict[str, Any]] = [
    {},
    {"values": {}},
    {"values": {"amount": "max", "seen": "first"}},
    {"without": ("refund",)},
    {"positive": "undo", "retracted": False},
]


@st.composite
def label_settings(draw: st.DrawFn, step: int) -> LabelConfig:
    early = draw(st.sampled_from([0, 2])) * step
    given = {"max_early": f"{early}s", **draw(st.sampled_from(POLICIES)), **draw(st.sampled_from(CHANGES))}
    return labels_config(**given)


@st.composite
def value_worlds(draw: st.DrawFn) -> ValueWorld:
    step = draw(st.sampled_from([1, 1, 21_600]))
    configs = tuple(draw(st.lists(label_settings(step), min_size=1, max_size=2)))
    times = tuple(sorted(draw(st.lists(st.integers(0, 20), min_size=1, max_size=4))))
    ids = tuple(draw(st.integers(0, number)) for number in range(len(times))) if draw(st.booleans()) else ()
    kinds = st.sampled_from(["exposure", "order", "order", "undo", "refund"])
    made = draw(
        st.lists(
            st.tuples(
                kinds, st.integers(0, len(times)), st.integers(0, 2), st.integers(-3, 12), st.integers(0, 1),
                some_columns(), st.sampled_from([None, "x"]),
            ),
            max_size=24,
        )
    )  # fmt: skip
    feedback = tuple(
        Feedback(
            kind,
            request,
            item,
            times[request % len(times)] + delay,
            partition,
            columns if kind == "order" else (("why", why),) if kind == "refund" else (),
        )
        for kind, request, item, delay, partition, columns, why in made
    )
    exposed = tuple(Feedback("exposure", request, 0, time) for request, time in enumerate(times))
    lateness = draw(st.sampled_from([0, 3])) * step
    base = World(times, 2, (), configs[0], lateness, step, ids=ids)
    under = tuple(draw(st.integers(0, len(configs) - 1)) for _ in times) if draw(st.booleans()) else ()
    return ValueWorld(base, configs, exposed + feedback, under)
