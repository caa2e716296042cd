"""The stream's join equals the batch join, whatever order, repetition, cut or crash."""

from __future__ import annotations

import asyncio
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dovetail.joiners.batch.join import join_samples
from dovetail.joiners.batch.label_audit import LabelAudit, audit_labels
from dovetail.joiners.batch.whole_samples import batch_samples
from dovetail.platform.errors import StaleCommit
from dovetail.platform.rows.accounts import balance
from dovetail.platform.rows.encodings.shared import spread
from dovetail.platform.rows.positions import LANE, SourceFilter
from dovetail.platform.rows.wire import decode_arrow
from dovetail.platform.runtime.signal import Signal
from dovetail.platform.stores.labels import LabelStore
from dovetail.platform.stores.progress_view import ProgressView
from dovetail.platform.stores.sql.labels import SqlLabelStore
from dovetail.platform.testing import MemoryLog, run_stage
from tests.generated import tries
from tests.joiners.worlds import (
    KINDS,
    SECOND,
    Label,
    OwnFeatures,
    World,
    at,
    delayed,
    label_stage,
    sample_stage,
    worlds,
)
from tests.platform.stores.label_servers import Factory

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
        # Of labels that are read longest after they happened the stream keeps nothing, and the batch join the first of
        # a key: so retention has to cover how far before its request a label can be.
        useful_us = 10**15 if retention_us is None else world.policy.horizons_us[-1] + retention_us + world.furthest_us
        stages = [label_stage(world, kind, store, moved, useful_us=useful_us) for kind in KINDS]
        lanes = [sample_stage(world, store, moved, log, k, retention_us=retention_us) for k in range(len(world.lanes))]
        run = [asyncio.create_task(run_stage(stage, log, max_records=some_records)) for stage in [*stages, *lanes]]
        if life < crashes:
            for _ in range(int(random.integers(0, 30))):
                await asyncio.sleep(0)
            for task in run:
                task.cancel()
            await asyncio.gather(*run, return_exceptions=True)
        else:
            await asyncio.gather(*run)
            for lane in lanes:  # what was forwarded after a lane had come to the end of its topic
                await run_stage(lane, log, max_records=some_records)


@given(world=worlds())
@settings(max_examples=tries(10), deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_the_columns_that_the_configuration_knows_are_those_that_samples_have(world: World) -> None:
    log = world.log()
    logs, lateness_us = world.label_logs(log), world.lateness * SECOND
    samples = batch_samples(
        world.snapshots(), logs, world.policy, OwnFeatures(), allowed_lateness_us=lateness_us, early_us=0
    )
    own = tuple(name for name in samples.column_names if name not in {"feature", "history", *OWN})
    assert own == world.policy.sample_columns(KINDS)


FIXTURES_TOO = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
LIVES = {"world": worlds(), "seed": st.integers(0, 2**31), "crashes": st.integers(0, 2), "retire": st.booleans()}


@settings(suppress_health_check=FIXTURES_TOO)
@given(**LIVES)
def test_stream_and_batch_make_the_same_samples(
    tmp_path: Path, world: World, seed: int, crashes: int, retire: bool
) -> None:
    store = SqlLabelStore(f"sqlite:///{tempfile.mkdtemp(dir=tmp_path)}/labels.sqlite")
    check_stream_against_batch(store, world, seed, crashes, retire=retire)
    store.close()


@settings(max_examples=tries(15), suppress_health_check=FIXTURES_TOO)
@given(**LIVES)
def test_so_they_do_on_every_store(new_store: Factory, world: World, seed: int, crashes: int, retire: bool) -> None:
    check_stream_against_batch(new_store(), world, seed, crashes, retire=retire)


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


def test_an_exposed_and_clicked_candidate_is_a_positive_and_an_unexposed_one_is_no_sample(tmp_path: Path) -> None:
    labels = (Label("exposure", 0, 0, 1, 0), Label("click", 0, 0, 3, 1), Label("exposure", 0, 1, 1, 0))
    samples, outcomes = run_world(World((0,), 3, labels, delayed(5), lateness=0), tmp_path)
    assert [(s["item_id"], s["label"], s["click_time"]) for s in samples] == [(0, 1, at(3)), (1, 0, None)]
    assert outcomes == {("exposure", "sampled"): 2, ("click", "sampled"): 1}


def test_a_click_after_the_window_does_not_count_and_is_kept_as_late(tmp_path: Path) -> None:
    labels = (Label("exposure", 0, 0, 1, 0), Label("click", 0, 0, 6, 1))
    samples, outcomes = run_world(World((0,), 1, labels, delayed(5), lateness=0), tmp_path)
    assert [(s["label"], s["click_time"]) for s in samples] == [(0, None)]
    assert outcomes[("click", "late")] == 1


def test_a_label_at_the_very_end_of_the_window_counts(tmp_path: Path) -> None:
    labels = (Label("exposure", 0, 0, 1, 0), Label("click", 0, 0, 5, 1))
    samples, _ = run_world(World((0,), 1, labels, delayed(5), lateness=0), tmp_path)
    assert [s["label"] for s in samples] == [1]


def test_a_label_that_came_too_late_for_its_partition_counts_when_it_came(tmp_path: Path) -> None:
    """Its event time is inside the window, but its partition's clock had passed the window's end."""
    labels = (Label("exposure", 0, 0, 1, 0), Label("click", 9, 0, 20, 1), Label("click", 0, 0, 3, 1))
    samples, outcomes = run_world(World((0,), 1, labels, delayed(5), lateness=0), tmp_path)
    assert [s["label"] for s in samples] == [0]
    assert outcomes == {("exposure", "sampled"): 1, ("click", "late"): 1, ("click", "pending"): 1}


def test_within_the_allowed_lateness_it_counts_as_if_it_had_come_in_time(tmp_path: Path) -> None:
    labels = (Label("exposure", 0, 0, 1, 0), Label("click", 9, 0, 7, 1), Label("click", 0, 0, 3, 1))
    samples, _ = run_world(World((0,), 1, labels, delayed(5), lateness=5), tmp_path)
    assert [s["label"] for s in samples] == [1]


HOUR, DAY = 3_600, 86_400


@pytest.mark.parametrize("before", [1, HOUR, 2 * DAY])
@pytest.mark.parametrize("kind", KINDS)
def test_a_label_before_its_request_does_not_count_and_is_early(tmp_path: Path, kind: str, before: int) -> None:
    """Be it the exposure or the click: neither is what somebody did who saw this request's answer."""
    labels = [Label(k, 0, 0, 3 * DAY + (-before if k == kind else 1), 0) for k in KINDS]
    labels.sort(key=lambda label: label.seconds)
    world = World((3 * DAY,), 1, tuple(labels), delayed(900), lateness=0)
    samples, outcomes = run_world(world, tmp_path)
    assert samples == oracle(world, world.log()).to_pylist()
    if kind == "click":
        assert [(s["label"], s["click_time"]) for s in samples] == [(0, None)]
        assert outcomes == {("exposure", "sampled"): 1, ("click", "early"): 1}
    else:
        assert samples == []
        assert outcomes == {("exposure", "early"): 1, ("click", "unexposed"): 1}


@pytest.mark.parametrize(("before", "label"), [(5, 1), (6, 0)])
def test_a_label_that_is_early_by_no_more_than_the_bound_counts(tmp_path: Path, before: int, label: int) -> None:
    labels = (Label("exposure", 0, 0, 100 - before, 0), Label("click", 0, 0, 101, 0))
    world = World((100,), 1, labels, delayed(900), lateness=0, early=5)
    samples, _ = run_world(world, tmp_path)
    assert [s["label"] for s in samples] == [label] * label


def test_a_label_that_came_in_the_window_is_early_all_the_same_when_it_happened_before(tmp_path: Path) -> None:
    """Its partition's clock was past the request when it came, so it took effect inside the window."""
    labels = (Label("exposure", 0, 0, 101, 0), Label("click", 9, 0, 103, 1), Label("click", 0, 0, 50, 1))
    samples, outcomes = run_world(World((100,), 1, labels, delayed(900), lateness=0), tmp_path)
    assert [s["label"] for s in samples] == [0]
    assert outcomes[("click", "early")] == 1


def test_the_rows_of_a_request_that_came_twice_are_samples_each(tmp_path: Path) -> None:
    labels = (Label("exposure", 0, 0, 11, 0), Label("click", 0, 0, 12, 0))
    world = World((10, 10, 10), 2, labels, delayed(5), lateness=0, ids=(0, 0, 2), numbers=(0, 0))
    samples, outcomes = run_world(world, tmp_path)
    assert [(s["request_id"], s["item_id"], s["label"]) for s in samples] == [("r0", 0, 1)] * 4
    assert outcomes == {("exposure", "sampled"): 1, ("click", "sampled"): 1}


def test_replaying_the_whole_log_into_a_used_store_changes_nothing(tmp_path: Path) -> None:
    labels = (Label("exposure", 0, 0, 1, 0), Label("click", 0, 0, 3, 1))
    world = World((0, 2), 2, labels, delayed(5), lateness=0)
    log = world.log()
    store = SqlLabelStore(f"sqlite:///{tmp_path / 'labels.sqlite'}")
    asyncio.run(live_through(world, log, store, seed=0, crashes=0))
    before = (samples_of(log).to_pylist(), store.accounts(), store.outcomes())
    asyncio.run(live_through(world, log, store, seed=1, crashes=0))
    assert (samples_of(log).to_pylist(), store.accounts(), store.outcomes()) == before
    store.close()


def test_a_worker_that_lost_its_partition_cannot_write(tmp_path: Path) -> None:
    """Two label agents with the same idea of the position: the second commit is refused whole."""
    world = World((0,), 1, (Label("exposure", 0, 0, 1, 0),), delayed(5), lateness=0)
    log = world.log()
    store = SqlLabelStore(f"sqlite:///{tmp_path / 'labels.sqlite'}")

    async def both() -> None:
        zombie = label_stage(world, "exposure", store, Signal())
        zombie.resume("exposure")
        await run_stage(label_stage(world, "exposure", store, Signal()), log)
        before = (store.accounts(), store.outcomes())
        poll = log.poll("exposure", 0, 0)
        assert poll is not None
        (work,) = [work async for work in zombie.handle(poll)]
        assert work.commit is not None
        with pytest.raises(StaleCommit, match="another worker has taken the partition over"):
            work.commit()
        assert (store.accounts(), store.outcomes()) == before

    asyncio.run(both())
    store.close()


def test_what_a_label_agent_has_committed_is_known_without_reading_it(tmp_path: Path) -> None:
    """And what it could not commit is not; an assignment reads anew."""
    world = World((0,), 1, (Label("exposure", 0, 0, 1, 0),), delayed(5), lateness=0)
    log = world.log()
    store = SqlLabelStore(f"sqlite:///{tmp_path / 'labels.sqlite'}")
    scope = "labels.exposure"
    view = ProgressView(store.progress, seconds=lambda: 0.0)

    async def both() -> None:
        stage = label_stage(world, "exposure", store, Signal(), view=view)
        zombies = ProgressView(store.progress, seconds=lambda: 0.0)
        zombie = label_stage(world, "exposure", store, Signal(), view=zombies)
        zombie.resume("exposure")
        stage.resume("exposure")
        assert view.progress(scope) == zombies.progress(scope) == {}
        poll = log.poll("exposure", 0, 0)
        assert poll is not None
        (first,) = [work.commit async for work in stage.handle(poll)]
        (second,) = [work.commit async for work in zombie.handle(poll)]
        assert first is not None
        assert second is not None
        first()
        assert view.progress(scope) == store.progress(scope) != {}
        with pytest.raises(StaleCommit):
            second()
        assert zombies.progress(scope) == {}
        zombie.resume("exposure")
        assert zombies.progress(scope) == store.progress(scope)

    asyncio.run(both())
    store.close()
