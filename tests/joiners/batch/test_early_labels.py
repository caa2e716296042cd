"""Labels that happened too long before their request count for none, and hide none."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import pytest

from dovetail.platform.runtime.signal import Signal
from dovetail.platform.testing import run_stage
from tests.generated import some
from tests.joiners.batch.lives import (
    check_audit,
    live_through,
    oracle,
    run_world,
    samples_of,
)
from tests.joiners.worlds import (
    KINDS,
    PARTITIONS,
    Label,
    World,
    at,
    delayed,
    end_of_time,
    label_stage,
    micros,
    sample_stage,
)
from tests.platform.stores.label_servers import Factory

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


def _arrivals() -> Iterator[tuple[str, int, int, str]]:
    """Each kind, distance and lateness with each order of arrival; the first of three is another one each time."""
    orders = ("before", "after", "around")
    for number, (kind, first, lateness) in enumerate(product(KINDS, (1, HOUR, 30 * 365 * DAY), (0, 600))):
        yield from ((kind, first, lateness, orders[(number + turn) % 3]) for turn in range(3))


@pytest.mark.parametrize(("kind", "first", "lateness", "arrival"), some(list(_arrivals())))
def test_where_the_first_label_is_early_the_next_one_counts(
    new_store: Factory, kind: str, first: int, lateness: int, arrival: str
) -> None:
    """Also where it comes after the next one, from a partition whose clock knows no better."""
    now = 40 * 365 * DAY
    right = [Label(k, 0, 0, now + at_s, 0) for at_s, k in enumerate(KINDS, 1)]
    hiding = [Label(kind, 0, 0, now - first, partition) for partition in range(PARTITIONS)]
    orders = {"before": hiding + right, "after": right + hiding, "around": hiding[1:] + right + hiding[:1]}
    store = new_store()
    world = World((now,), 2, tuple(orders[arrival]), delayed(900), lateness=lateness)
    log = world.log()
    asyncio.run(live_through(world, log, store, seed=0, crashes=0))
    made = samples_of(log)
    assert [(s["item_id"], s["label"], s["click_time"]) for s in made.to_pylist()] == [(0, 1, at(now + 2))]
    assert made.to_pylist() == oracle(world, log).to_pylist()
    check_audit(store, world, log, made, all_stored=True, tamper=False)
    totals = {(account.stage, account.outcome): account.rows for account in store.accounts()}
    marked = store.outcomes().get(("exposure", "sampled"), 0)
    assert totals["samples", "sampled"] == marked + totals.get(("samples.stood_in", "stood_in"), 0)


def test_what_stands_in_for_a_label_that_has_left_counts(new_store: Factory) -> None:
    """A label that no request still to come can have leaves, whatever came after it stays."""
    labels = [Label(kind, 1, 0, 0, 0) for kind in KINDS] + [
        Label(kind, 1, 0, 101 + k, 0) for k, kind in enumerate(KINDS)
    ]
    world = World((50, 100), 1, (*labels, *(Label(kind, 1, 0, 105, 1) for kind in KINDS)), delayed(20), lateness=0)
    log = world.log_of_snapshots()
    store = new_store()

    async def life() -> None:
        moved = Signal()
        log.append([world.message(label) for label in labels])
        for kind in KINDS:
            await run_stage(label_stage(world, kind, store, moved), log)
        assert store.retire(micros(100)) == 2
        log.append([world.message(label) for label in world.labels[len(labels) :]])
        log.append(end_of_time(world.end_us))
        for kind in KINDS:
            await run_stage(label_stage(world, kind, store, moved), log)
        await run_stage(sample_stage(world, store, moved, log), log)

    asyncio.run(life())
    assert [s["click_time"] for s in samples_of(log).to_pylist()] == [at(102)]
    assert samples_of(log).to_pylist() == oracle(world, log).to_pylist()
