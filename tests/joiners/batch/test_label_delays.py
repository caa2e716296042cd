"""A delay is that of the label that the join counts: it is within a window where the join has the label."""

from __future__ import annotations

import pyarrow as pa
import pytest
from hypothesis import given, settings

from dovetail.joiners.batch.join import join_samples
from dovetail.joiners.batch.label_delays import label_delays
from dovetail.joiners.values.kind_rules import rules_of
from dovetail.platform.config.policy import PolicyConfig
from tests.generated import tries
from tests.joiners.values.value_worlds import (
    SCHEMAS,
    Feedback,
    ValueWorld,
    bought,
    labels_config,
    shown,
    value_worlds,
    world_of,
)
from tests.joiners.worlds import SECOND, micros

DAY = 86_400
#: By row of the snapshots: since when a label was waited for, and for how long; None where none came.
Delays = dict[int, tuple[int, int | None]]


def logs_of(world: ValueWorld) -> dict[str, pa.Table]:
    return {kind: log for kind, log in world.logs(world.log()).items() if kind in world.configs[0].streams}


def delays(world: ValueWorld, kind: str, since: str | None = None) -> Delays:
    """The delays of a kind, of the rows that were exposed."""
    config, snapshots = world.configs[0], world.snapshots()
    marks = pa.array([str(place) for place in range(snapshots.num_rows)])
    found = label_delays(
        snapshots.append_column("mark", marks), logs_of(world), kind,
        exposure="exposure", since=since, slices=["mark"], allowed_lateness_us=world.base.lateness * SECOND,
        early_us=config.early_us,
    )  # fmt: skip
    starts = found.column("since").cast(pa.int64()).to_pylist()
    marked = [int(mark) for mark in found.column("mark").to_pylist()]
    assert len(set(marked)) == len(marked)
    return dict(zip(marked, zip(starts, found.column("delay").to_pylist(), strict=True), strict=True))


def joined(world: ValueWorld, kind: str, window_s: int) -> dict[int, int | None]:
    """By exposed row, when the label that the join counts happened; of the labels without those that take back."""
    config = world.configs[0]
    rules = rules_of(config, SCHEMAS)
    logs = {name: log.slice(0, 0) if name in rules[kind].taken_back_by else log for name, log in logs_of(world).items()}
    samples = join_samples(
        world.snapshots(), logs, PolicyConfig.model_validate({"window": f"{window_s}s", "positive": kind}),
        allowed_lateness_us=world.base.lateness * SECOND, early_us=config.early_us, rules=rules,
    )  # fmt: skip
    times = samples.column(f"{kind}_time").cast(pa.int64()).to_pylist()
    return dict(zip(samples.column("_at").to_pylist(), times, strict=True))


def check(world: ValueWorld) -> None:
    exposed = delays(world, "exposure")
    for kind in ("order", "undo"):
        if kind not in world.configs[0].streams:
            continue
        found, whole = delays(world, kind), joined(world, kind, 400 * DAY)
        assert {row: delay is None for row, (_, delay) in found.items()} == {
            row: time is None for row, time in whole.items()
        }
        for window in (2, 9 * world.base.step):
            there = {row for row, time in joined(world, kind, window).items() if time is not None}
            shown_by = {row for row, (_, delay) in exposed.items() if delay is not None and delay <= window * SECOND}
            within = {row for row, (_, delay) in found.items() if delay is not None and delay <= window * SECOND}
            assert within & shown_by == there
        since = {row: start for row, (start, _) in delays(world, "exposure", since=kind).items()}
        assert since == {row: time for row, time in whole.items() if time is not None}


def test_the_first_that_is_not_early_counts() -> None:
    early = [bought(2, request=1), bought(7, request=1), bought(9, request=1)]
    took = {2: (micros(5), 2 * SECOND), 3: (micros(5), None)}
    configs = [labels_config(max_early="2s", values={}, retracted=retracted) for retracted in (True, False)]
    for config in (labels_config(max_early="2s"), *configs):
        world = world_of(*shown, *early, config=config)
        assert {row: each for row, each in delays(world, "order").items() if row > 1} == took
        check(world)


def test_a_label_that_is_taken_back_has_come() -> None:
    world = world_of(*shown, bought(3), Feedback("undo", 0, 0, 4))
    assert delays(world, "order")[0] == (micros(0), 3 * SECOND)
    check(world)


@pytest.mark.parametrize("kind", ["order", "undo"])
def test_time_runs_from_the_label_that_counts(kind: str) -> None:
    config = labels_config(max_early="2s")
    world = world_of(*shown, Feedback(kind, 1, 0, 2), Feedback(kind, 1, 0, 7), config=config)
    assert delays(world, "exposure", since=kind) == {2: (micros(7), 0)}


@settings(max_examples=tries(10))
@given(world=value_worlds())
def test_delays_are_those_of_the_labels_that_the_join_counts(world: ValueWorld) -> None:
    check(world)
