"""The stream's join equals the batch join, whatever order, repetition, cut or crash."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dovetail.joiners.batch.whole_samples import batch_samples
from dovetail.platform.errors import StaleCommit
from dovetail.platform.runtime.signal import Signal
from dovetail.platform.stores.progress_view import ProgressView
from dovetail.platform.stores.sql.labels import SqlLabelStore
from dovetail.platform.testing import run_stage
from tests.generated import tries
from tests.joiners.batch.lives import OWN, check_stream_against_batch, live_through, run_world, samples_of
from tests.joiners.worlds import (
    KINDS,
    SECOND,
    Label,
    OwnFeatures,
    World,
    at,
    delayed,
    label_stage,
    worlds,
)
from tests.platform.stores.label_servers import Factory


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
