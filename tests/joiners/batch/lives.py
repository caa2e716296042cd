"""Worlds lived through by the stages, and the checks of what they made against the batch join and the audit."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa

from dovetail.joiners.batch.join import join_samples
from dovetail.joiners.batch.label_audit import LabelAudit, audit_labels
from dovetail.platform.rows.accounts import balance
from dovetail.platform.rows.encodings.shared import spread
from dovetail.platform.rows.positions import LANE, SourceFilter
from dovetail.platform.rows.wire import decode_arrow
from dovetail.platform.runtime.signal import Signal
from dovetail.platform.stores.labels import LabelStore
from dovetail.platform.stores.sql.labels import SqlLabelStore
from dovetail.platform.testing import MemoryLog, run_stage
from tests.joiners.worlds import (
    KINDS,
    SECOND,
    World,
    cut_short,
    label_stage,
    sample_stage,
)

OWN = ["_partition", "_offset", "_row", "_source_partition", "_source_offset", "_source_row"]
NOT_LABELS = ["feature", "history", "score", "model_version"]


def published(log: MemoryLog) -> pa.Table:
    """The samples as the archive keeps them."""
    poll = log.poll("samples", 0, 0)
    assert poll is not None
    rows = spread(decode_arrow(poll))
    return rows.filter(pa.array(SourceFilter().admit(rows)))


def samples_of(log: MemoryLog) -> pa.Table:
    """The samples published, lane by lane, those published again dropped as every reader drops them."""
    poll = log.poll("samples", 0, 0)
    if poll is None:
        return pa.table({})
    kept = decode_arrow(poll)
    assert "history" not in kept.column_names, "what candidates share is in every row"
    rows = spread(kept)
    rows = rows.filter(pa.array(SourceFilter().admit(rows)))
    lane = rows.column("_source_partition").to_numpy() // LANE
    assert rows.column("feature").to_pylist() == [
        100.0 * int(r[1:]) + i
        for r, i in zip(*(rows.column(c).to_pylist() for c in ("request_id", "item_id")), strict=True)
    ]
    # What candidates share is in the row of each, whichever of them were held or chosen.
    shared = [[int(r[1:]), None] for r in rows.column("request_id").to_pylist()]
    assert [history[:2] for history in rows.column("history").to_pylist()] == shared
    return rows.drop_columns([*OWN, *NOT_LABELS]).take(pa.array(np.argsort(lane, kind="stable")))


def oracle(world: World, log: MemoryLog) -> pa.Table:
    logs = world.label_logs(log)
    lateness = world.lateness * SECOND
    joined = join_samples(
        world.candidates(), logs, world.policy, allowed_lateness_us=lateness, early_us=world.early * SECOND
    )
    return joined.drop_columns(["_lane", "_at"])


async def live_through(
    world: World, log: MemoryLog, store: LabelStore, seed: int, crashes: int, retention_us: int | None = None
) -> None:
    """Run all stages side by side; cut polls at random; crash and start anew with the same store."""
    random = np.random.default_rng(seed)

    def some_records() -> int:
        return int(random.integers(1, 5))

    for life in range(crashes + 1):
        moved = Signal()
        useful_us = 10**17 if retention_us is None else world.policy.horizons_us[-1] + retention_us
        stages = [label_stage(world, kind, store, moved, useful_us=useful_us) for kind in KINDS]
        lanes = [sample_stage(world, store, moved, log, k, retention_us=retention_us) for k in range(len(world.lanes))]
        run = [asyncio.create_task(run_stage(stage, log, max_records=some_records)) for stage in [*stages, *lanes]]
        if life < crashes:
            await cut_short(run, random)
        else:
            await asyncio.gather(*run)
            for lane in lanes:  # what was forwarded after a lane had come to the end of its topic
                await run_stage(lane, log, max_records=some_records)


def check_stream_against_batch(store: LabelStore, world: World, seed: int, crashes: int, *, retire: bool) -> None:
    """Requests are in order here, so no retention is needed for exactness but for labels that precede them."""
    log = world.log()
    life = live_through(world, log, store, seed, crashes, retention_us=world.early * SECOND if retire else None)
    asyncio.run(asyncio.wait_for(life, 120))  # a join that waits forever fails instead
    made = samples_of(log)
    assert made.to_pylist() == oracle(world, log).to_pylist()
    accounts = store.accounts()
    assert not any(balance(accounts).values())
    assert sum(a.rows for a in accounts if a.outcome == "inserted") == sum(store.outcomes().values())
    assert sum(a.rows for a in accounts if a.stage.endswith(".made") and a.outcome == "read") == made.num_rows
    check_audit(store, world, log, made, all_stored=not retire, tamper=seed % 6 == 0)
    if retire:
        assert store.rows() <= sum(store.outcomes().values())


def released(store: LabelStore, world: World) -> dict[tuple[int, int], int]:
    """By lane and partition: the first packed snapshot position not released."""
    bounds = {(0, p): progress.next_offset << 20 for p, progress in store.progress("samples").items()}
    for lane in world.lanes[1:]:
        for progress in store.progress(lane.name).values():
            bounds |= {(lane.number, p): last + 1 for p, last in progress.sources.items()}
    return bounds


def audit_of(store: LabelStore, world: World, log: MemoryLog, samples: pa.Table) -> LabelAudit:
    return audit_labels(
        world.snapshots(),
        world.label_logs(log),
        samples,
        world.policy,
        allowed_lateness_us=world.lateness * SECOND,
        early_us=world.early * SECOND,
        released=released(store, world),
    )


def check_audit(
    store: LabelStore, world: World, log: MemoryLog, made: pa.Table, *, all_stored: bool, tamper: bool
) -> None:
    """Every label and every candidate has one outcome, none is pending at the end, and none is wrong."""
    empty = {"request_id": pa.string(), "item_id": pa.int64(), "label": pa.int8(), "emission": pa.string()}
    empty |= {"_source_partition": pa.int32(), "_source_offset": pa.int64(), "_source_row": pa.int32()}
    samples = published(log) if made.num_rows else pa.schema(empty).empty_table()
    audit = audit_of(store, world, log, samples)
    counts: Counter[tuple[str, str]] = Counter()
    for line in audit.lines:
        counts[line.what, line.outcome] += line.rows
    assert not audit.wrong
    assert not [key for key in counts if key[1] in ("pending", "waiting")]
    for kind in KINDS:
        labels = sum(label.kind == kind for label in world.labels)
        assert sum(rows for (what, _), rows in counts.items() if what == kind) == labels
        if not all_stored:  # labels too late for any window were counted and not kept
            continue
        assert counts[kind, "duplicate"] == labels - sum(n for (k, _), n in store.outcomes().items() if k == kind)
        if not world.ids:  # else a later row may say so before the label's own has decided
            assert counts[kind, "early"] == store.outcomes().get((kind, "early"), 0)
        assert counts[kind, "orphaned"] <= store.outcomes().get((kind, "pending"), 0)
    assert sum(rows for (what, _), rows in counts.items() if what == "snapshots") == world.candidates().num_rows
    if made.num_rows and tamper:
        keys = set(zip(samples["request_id"].to_pylist(), samples["item_id"].to_pylist(), strict=True))
        without = audit_of(store, world, log, samples.filter(pa.array([k != 0 for k in range(samples.num_rows)])))
        twice = audit_of(store, world, log, pa.concat_tables([samples, samples.slice(0, 1)]))
        assert [line.outcome for line in twice.wrong] == ["surplus"]
        if len(keys) == samples.num_rows:  # the only sample of its row
            assert {line.outcome for line in without.wrong} == {"lost"}
            first = f"{samples['request_id'][0].as_py()}/{samples['item_id'][0].as_py()}"
            assert all(line.keys == [first] for line in without.wrong)


def run_world(world: World, tmp_path: Path) -> tuple[list[dict[str, object]], dict[tuple[str, str], int]]:
    log = world.log()
    store = SqlLabelStore(f"sqlite:///{tmp_path / 'labels.sqlite'}")
    asyncio.run(live_through(world, log, store, seed=0, crashes=0))
    outcomes = store.outcomes()
    store.close()
    return samples_of(log).to_pylist(), outcomes
